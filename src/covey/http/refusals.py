"""What the answer of another service means to who asked it: an error of covey, as `covey.grpc.status` has it for gRPC.

A problem of covey (`/problems/<slug>`) comes back as the error that it was made of; of what somebody else has said the
status counts:

    4xx                                         Rejected, or the error below it that has this status
    408 425 429 5xx                             DependencyUnavailable, with `retry_after` where the target names one
    504                                         DeadlineExceeded
    3xx 405 415 501 505                         NotOffered: we ask for what the target does not have, or has elsewhere
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import orjson

from covey import errors
from covey.errors import CoveyError, DependencyTooSlow, DependencyUnavailable
from covey.http.conditional import PreconditionFailed, PreconditionRequired
from covey.http.connection import Answer
from covey.http.versioning import NotAcceptable
from covey.meanings import MEANINGS
from covey.resilience.policy import NotOffered, TriedAlready
from covey.telemetry.redaction import redact_text
from covey.work.idempotency import InProgress, KeyReused

_MOST_TEXT = 500
_MOST_ERRORS = 25
_LONGEST_WAIT = timedelta(days=1)
_PREFIX = "/problems/"

_BY_SLUG: Mapping[str, type[CoveyError]] = {
    **{
        MEANINGS[kind].slug: kind
        for kind in (errors.Rejected, errors.Unreadable, errors.Invalid, KeyReused, errors.Conflict, InProgress)
    },
    **{MEANINGS[kind].slug: TriedAlready for kind in (DependencyUnavailable, DependencyTooSlow)},
}
_BY_STATUS: Mapping[int, type[CoveyError]] = {
    401: errors.Unauthenticated,
    403: errors.Forbidden,
    404: errors.NotFound,
    405: NotOffered,
    406: NotAcceptable,
    408: DependencyUnavailable,
    409: errors.Conflict,
    412: PreconditionFailed,
    413: errors.TooLarge,
    415: NotOffered,
    422: errors.Invalid,
    425: DependencyUnavailable,
    428: PreconditionRequired,
    429: DependencyUnavailable,
    501: NotOffered,
    504: errors.DeadlineExceeded,
    505: NotOffered,
}
_BY_CLASS: Mapping[int, type[CoveyError]] = {3: NotOffered, 4: errors.Rejected, 5: DependencyUnavailable}


def error_of(answer: Answer, target: str, now: datetime) -> CoveyError:
    """Return what an answer means that is none to what `target` was asked. Of what it says, secrets are left out."""
    problem = _problem(answer)
    kind = _BY_STATUS.get(answer.status) or _BY_CLASS.get(answer.status // 100, DependencyUnavailable)
    told = _BY_SLUG.get(_slug(problem))
    if told is not None and (issubclass(told, kind) or (told is TriedAlready and answer.status == 504)):
        kind = told
    text = f"{target} answered {answer.status}{_said(problem)}"
    if issubclass(kind, errors.Invalid):
        return kind(text, _broken_rules(problem))
    if issubclass(kind, errors.Unavailable):
        return kind(text, _retry_after(answer.header("retry-after"), now))
    return kind(text)


def detail_of(answer: Answer) -> str | None:
    """Return what an answer says of a problem, for people; None: nothing that can be read."""
    detail = _problem(answer).get("detail")
    return redact_text(detail[:_MOST_TEXT]) if isinstance(detail, str) else None


def _problem(answer: Answer) -> dict[str, Any]:
    if b"json" not in (answer.header("content-type") or "").encode("latin-1").lower():
        return {}
    try:
        found = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def _slug(problem: dict[str, Any]) -> str:
    kind = problem.get("type")
    return kind.removeprefix(_PREFIX) if isinstance(kind, str) and kind.startswith(_PREFIX) else ""


def _said(problem: dict[str, Any]) -> str:
    said = problem.get("detail") or problem.get("title")
    return f": {redact_text(said[:_MOST_TEXT])}" if isinstance(said, str) else ""


def _broken_rules(problem: dict[str, Any]) -> list[dict[str, str]]:
    found = problem.get("errors")
    rules = [one for one in found[:_MOST_ERRORS] if isinstance(one, dict)] if isinstance(found, list) else []
    return [{str(k): redact_text(v[:_MOST_TEXT]) for k, v in one.items() if isinstance(v, str)} for one in rules]


def _retry_after(value: str | None, now: datetime) -> timedelta | None:
    """Read the header (RFC 9110, section 10.2.3), seconds or a date; what is neither says nothing."""
    if value is None:
        return None
    if value.isascii() and value.isdigit():
        return min(timedelta(seconds=int(value[:9])), _LONGEST_WAIT)
    try:
        until = parsedate_to_datetime(value)
        return min(max(until - now, timedelta()), _LONGEST_WAIT)
    except (ValueError, TypeError, OverflowError):  # no date, one without a zone, or of no year that there is
        return None
