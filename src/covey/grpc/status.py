"""Errors of covey as google.rpc.Status, and back: https://google.aip.dev/193.

A status carries the code and the reason that `covey.meanings` has for the error, the correlation id, each rule that is
broken, and when to come back. What we did not foresee is INTERNAL and tells nothing but the correlation id.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from covey.errors import (
    Conflict,
    CoveyError,
    DeadlineExceeded,
    DependencyTooSlow,
    DependencyUnavailable,
    Forbidden,
    Invalid,
    NotFound,
    Rejected,
    TooLarge,
    Unauthenticated,
    Unreadable,
)
from covey.meanings import MEANINGS, cause_of, meaning_of
from covey.resilience.policy import NotOffered, TriedAlready
from covey.telemetry.redaction import redact_text
from covey.work.idempotency import InProgress, KeyReused

M = TypeVar("M", bound=Message)

DOMAIN = "covey"
"""Who gives the reasons of ErrorInfo their meaning."""

_MOST_VIOLATIONS = 10  # they travel in metadata, which has a limit on both sides
_MOST_TEXT = 500
_MOST_VIOLATION_TEXT = 200
_RETRY_AFTER = timedelta(seconds=1)

_BY_REASON: dict[str, type[CoveyError]] = {
    **{
        MEANINGS[kind].reason: kind
        for kind in (Rejected, Unreadable, Invalid, KeyReused, Conflict, InProgress, TooLarge)
    },
    **{MEANINGS[kind].reason: TriedAlready for kind in (DependencyUnavailable, DependencyTooSlow)},
}
_BY_CODE: dict[grpc.StatusCode, type[CoveyError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: Invalid,
    grpc.StatusCode.OUT_OF_RANGE: Invalid,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: Forbidden,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: Conflict,
    grpc.StatusCode.FAILED_PRECONDITION: Conflict,
    grpc.StatusCode.ABORTED: Conflict,
    grpc.StatusCode.RESOURCE_EXHAUSTED: TooLarge,
    grpc.StatusCode.UNIMPLEMENTED: NotOffered,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
}
"""What a code means when it is not covey that says it. Any other: the outcome is unknown."""


def status_of(error: Exception, correlation_id: str) -> status_pb2.Status:
    """Return what this error, of whatever origin, says to the caller; of a group of one, what that one says."""
    error = cause_of(error)
    meaning = meaning_of(error)
    told = isinstance(error, Rejected)  # all others are about us, and may tell of our inside
    message = redact_text(str(error)) if told else meaning.title
    status = status_pb2.Status(code=code_pb2.Code.Value(meaning.code), message=message[:_MOST_TEXT])
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=meaning.reason, domain=DOMAIN))
    status.details.add().Pack(error_details_pb2.RequestInfo(request_id=correlation_id))
    for detail in _details(error):
        status.details.add().Pack(detail)
    return status


def not_known(correlation_id: str) -> status_pb2.Status:
    """Return what is said of a method that nobody has."""
    status = status_pb2.Status(code=code_pb2.UNIMPLEMENTED, message="there is no such method")
    status.details.add().Pack(error_details_pb2.RequestInfo(request_id=correlation_id))
    return status


def error_of(error: grpc.aio.AioRpcError, target: str) -> CoveyError:
    """Return what the status means that `target` has answered, or that gRPC has made up because nobody did."""
    status = _status(error)
    info, retry = _detail(status, error_details_pb2.ErrorInfo), _detail(status, error_details_pb2.RetryInfo)
    after = None if retry is None else retry.retry_delay.ToTimedelta()
    code, text = error.code(), f"{target}: {redact_text(error.details() or error.code().name)}"
    kind = _BY_CODE.get(code, DependencyUnavailable)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and retry is not None:
        kind = DependencyUnavailable  # a quota, not a size: it will be free again
    if info is not None and info.domain == DOMAIN:
        kind = _BY_REASON.get(info.reason, kind)
    if issubclass(kind, Invalid):
        return kind(text, [_broken_rule(one) for one in _violations(status)])
    if issubclass(kind, DependencyUnavailable | DeadlineExceeded):
        return kind(text, after)
    return kind(text)


def _details(error: Exception) -> Iterator[Message]:
    if isinstance(error, Invalid) and error.errors:
        yield error_details_pb2.BadRequest(
            field_violations=[
                error_details_pb2.BadRequest.FieldViolation(
                    field=broken.get("pointer", "").removeprefix("#/").replace("/", ".")[:_MOST_VIOLATION_TEXT],
                    description=redact_text(broken.get("what", ""))[:_MOST_VIOLATION_TEXT],
                )
                for broken in error.errors[:_MOST_VIOLATIONS]
            ]
        )
    after: timedelta | None = getattr(error, "retry_after", None)
    if after is not None or meaning_of(error).code == "UNAVAILABLE":
        info = error_details_pb2.RetryInfo()
        info.retry_delay.FromTimedelta(after or _RETRY_AFTER)
        yield info


def _status(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    try:
        return rpc_status.from_call(error) or status_pb2.Status()
    except (ValueError, DecodeError):  # it contradicts the code, or is none: the code counts
        return status_pb2.Status()


def _detail(status: status_pb2.Status, kind: type[M]) -> M | None:
    for packed in status.details:
        detail = kind()
        try:
            if packed.Unpack(detail):
                return detail
        except DecodeError:
            return None
    return None


def _violations(status: status_pb2.Status) -> list[Any]:
    found = _detail(status, error_details_pb2.BadRequest)
    return list(found.field_violations) if found is not None else []


def _broken_rule(violation: Any) -> dict[str, str]:
    return {"in": "message", "pointer": "#/" + violation.field.replace(".", "/"), "what": violation.description}
