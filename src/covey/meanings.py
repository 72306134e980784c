"""What each error means to a caller, over HTTP and over gRPC: one table, so that both say the same.

An error that is not in it means what the nearest error above it in the tree of `covey.errors` means; what is not of the
tree is ours, and tells a caller nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from covey import errors
from covey.work.idempotency import InProgress, KeyReused


class Meaning(NamedTuple):
    """`status` is of HTTP (RFC 9110), `code` of gRPC; `slug` and `title` are the type of a problem (RFC 9457)."""

    status: int
    code: str
    slug: str
    title: str

    @property
    def reason(self) -> str:
        """Return the slug as google.rpc.ErrorInfo writes a reason."""
        return self.slug.replace("-", "_").upper()


MEANINGS: Mapping[type[Exception], Meaning] = {
    errors.Rejected: Meaning(400, "FAILED_PRECONDITION", "rejected", "The request cannot be carried out"),
    errors.Unreadable: Meaning(400, "INVALID_ARGUMENT", "unreadable", "The request cannot be read"),
    errors.Invalid: Meaning(422, "INVALID_ARGUMENT", "invalid", "The request breaks a rule"),
    KeyReused: Meaning(
        422, "INVALID_ARGUMENT", "idempotency-key-reused", "This Idempotency-Key was used for another request"
    ),
    errors.Unauthenticated: Meaning(401, "UNAUTHENTICATED", "unauthenticated", "The caller is not known"),
    errors.Forbidden: Meaning(403, "PERMISSION_DENIED", "forbidden", "The caller may not do this"),
    errors.NotFound: Meaning(404, "NOT_FOUND", "not-found", "There is no such thing"),
    errors.Conflict: Meaning(409, "FAILED_PRECONDITION", "conflict", "The request contradicts the present state"),
    InProgress: Meaning(409, "ABORTED", "idempotency-key-in-use", "A request with this Idempotency-Key is under way"),
    errors.TooLarge: Meaning(413, "RESOURCE_EXHAUSTED", "too-large", "The request is over a limit"),
    errors.Unavailable: Meaning(503, "UNAVAILABLE", "unavailable", "The work cannot be done now"),
    errors.DependencyUnavailable: Meaning(
        502, "UNAVAILABLE", "dependency-unavailable", "Somebody who is asked for this did not answer"
    ),
    errors.DependencyTooSlow: Meaning(
        504, "DEADLINE_EXCEEDED", "dependency-too-slow", "Somebody who is asked for this takes too long"
    ),
    errors.DeadlineExceeded: Meaning(
        504, "DEADLINE_EXCEEDED", "deadline-exceeded", "The time given for this work is over"
    ),
    Exception: Meaning(500, "INTERNAL", "internal", "Something went wrong here"),
}


def meaning_of(error: Exception) -> Meaning:
    """Return what this error means."""
    return next(MEANINGS[kind] for kind in type(error).__mro__ if kind in MEANINGS)


def cause_of(error: Exception) -> Exception:
    """Return the error itself; of a group of one the one that is in it."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
