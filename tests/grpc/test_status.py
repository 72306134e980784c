"""What an error says over gRPC, and what a status means to who called."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2

from covey import errors
from covey.errors import CoveyError
from covey.grpc.status import error_of, status_of
from covey.meanings import MEANINGS, meaning_of
from covey.resilience.policy import NotOffered, TriedAlready
from covey.work.idempotency import InProgress, KeyReused
from tests.grpc.conftest import Serve


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (errors.Rejected("why"), "FAILED_PRECONDITION", "REJECTED"),
        (errors.Unreadable("why"), "INVALID_ARGUMENT", "UNREADABLE"),
        (errors.Invalid("why"), "INVALID_ARGUMENT", "INVALID"),
        (KeyReused("why"), "INVALID_ARGUMENT", "IDEMPOTENCY_KEY_REUSED"),
        (errors.Unauthenticated("why"), "UNAUTHENTICATED", "UNAUTHENTICATED"),
        (errors.Forbidden("why"), "PERMISSION_DENIED", "FORBIDDEN"),
        (errors.NotFound("why"), "NOT_FOUND", "NOT_FOUND"),
        (errors.Conflict("why"), "FAILED_PRECONDITION", "CONFLICT"),
        (errors.ConstraintViolated("why", "orders_pkey"), "FAILED_PRECONDITION", "CONFLICT"),
        (InProgress("why"), "ABORTED", "IDEMPOTENCY_KEY_IN_USE"),
        (errors.TooLarge("why"), "RESOURCE_EXHAUSTED", "TOO_LARGE"),
        (errors.Unavailable("inside"), "UNAVAILABLE", "UNAVAILABLE"),
        (errors.DatabaseUnavailable("inside"), "UNAVAILABLE", "UNAVAILABLE"),
        (errors.PoolExhausted("inside"), "UNAVAILABLE", "UNAVAILABLE"),
        (errors.DependencyUnavailable("inside"), "UNAVAILABLE", "DEPENDENCY_UNAVAILABLE"),
        (errors.DependencyTooSlow("inside"), "DEADLINE_EXCEEDED", "DEPENDENCY_TOO_SLOW"),
        (errors.DeadlineExceeded("inside"), "DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED"),
        (errors.Defect("inside"), "INTERNAL", "INTERNAL"),
        (RuntimeError("inside"), "INTERNAL", "INTERNAL"),
        (TimeoutError("inside"), "INTERNAL", "INTERNAL"),
        (SystemExit("inside"), "INTERNAL", "INTERNAL"),
        (ExceptionGroup("outside", [errors.NotFound("why")]), "NOT_FOUND", "NOT_FOUND"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value),
)
async def test_each_error_has_its_code_and_a_stable_reason(
    serve: Serve, error: BaseException, code: str, reason: str
) -> None:
    async def fail(value: str, context: Any) -> str:
        raise error

    async with serve(fail) as probe:
        refused = await probe.refused()

    info = refused.detail(error_details_pb2.ErrorInfo)
    assert (refused.code, info.reason, info.domain) == (code, reason, "covey")
    assert refused.detail(error_details_pb2.RequestInfo).request_id == refused.trailing["x-correlation-id"]
    assert "inside" not in str(refused), "of what is our own business the caller is told nothing"
    assert ("why" in refused.details) == ("why" in str(getattr(error, "exceptions", [error])[0]))


def test_http_and_grpc_have_one_meaning_for_every_error_of_the_tree() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, CoveyError)]
    codes = {code.name for code in grpc.StatusCode} - {"OK"}

    assert {meaning.code for meaning in MEANINGS.values()} <= codes
    assert len({meaning.slug for meaning in MEANINGS.values()}) == len(MEANINGS)
    for kind in kinds:
        client_fault = meaning_of(_made(kind)).status < 500
        assert client_fault == issubclass(kind, errors.Rejected), kind


def test_every_broken_rule_is_named_and_no_more_of_them_than_metadata_can_carry() -> None:
    broken = [{"in": "message", "pointer": f"#/user/field{n}", "what": "x" * 1_000} for n in range(1_000)]

    status = status_of(errors.Invalid("ü" * 10_000, broken), "correlation")

    assert status.ByteSize() < 8_000
    (told,) = [one for one in status.details if one.Is(error_details_pb2.BadRequest.DESCRIPTOR)]
    request = error_details_pb2.BadRequest()
    told.Unpack(request)
    assert request.field_violations[0].field == "user.field0"


async def test_what_we_did_not_foresee_is_logged_once_with_its_cause(
    serve: Serve, log: Callable[[], list[dict[str, Any]]]
) -> None:
    async def fail(value: str, context: Any) -> str:
        raise RuntimeError("the cause")

    async with serve(fail) as probe:
        await probe.refused()

    failed, call = log()
    assert (failed["event"], failed["level"], failed["exception"]["message"]) == ("call failed", "error", "the cause")
    assert (call["event"], call["code"], call["correlation_id"]) == ("call", "INTERNAL", failed["correlation_id"])


@pytest.mark.parametrize(
    "error",
    [
        errors.Rejected("why"),
        errors.Unreadable("why"),
        errors.Invalid("why", [{"in": "message", "pointer": "#/user/name", "what": "it is blank"}]),
        KeyReused("why"),
        errors.Unauthenticated("why"),
        errors.Forbidden("why"),
        errors.NotFound("why"),
        errors.Conflict("why"),
        InProgress("why"),
        errors.TooLarge("why"),
        errors.DeadlineExceeded("inside"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_comes_back_as_what_it_was(error: Exception) -> None:
    back = error_of(_received(error), "user")

    assert type(back) is type(error)
    assert getattr(back, "errors", None) == getattr(error, "errors", None)
    assert str(back).startswith("user: ")


@pytest.mark.parametrize("error", [errors.Unavailable("inside", timedelta(seconds=7)), errors.Defect("inside")])
def test_trouble_of_the_target_is_trouble_with_a_dependency(error: errors.CoveyError) -> None:
    back = error_of(_received(error), "user")

    assert isinstance(back, errors.DependencyUnavailable)
    assert back.retry_after == getattr(error, "retry_after", None)


@pytest.mark.parametrize("error", [errors.DependencyUnavailable("inside"), errors.DependencyTooSlow("inside")])
def test_trouble_of_whom_the_target_asks_is_told_apart_for_it_has_tried_again(error: errors.CoveyError) -> None:
    assert type(error_of(_received(error), "user")) is TriedAlready


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.CANCELLED, errors.DependencyUnavailable),
        (grpc.StatusCode.UNKNOWN, errors.DependencyUnavailable),
        (grpc.StatusCode.INVALID_ARGUMENT, errors.Invalid),
        (grpc.StatusCode.DEADLINE_EXCEEDED, errors.DeadlineExceeded),
        (grpc.StatusCode.NOT_FOUND, errors.NotFound),
        (grpc.StatusCode.ALREADY_EXISTS, errors.Conflict),
        (grpc.StatusCode.PERMISSION_DENIED, errors.Forbidden),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, errors.TooLarge),
        (grpc.StatusCode.FAILED_PRECONDITION, errors.Conflict),
        (grpc.StatusCode.ABORTED, errors.Conflict),
        (grpc.StatusCode.OUT_OF_RANGE, errors.Invalid),
        (grpc.StatusCode.UNIMPLEMENTED, NotOffered),
        (grpc.StatusCode.INTERNAL, errors.DependencyUnavailable),
        (grpc.StatusCode.UNAVAILABLE, errors.DependencyUnavailable),
        (grpc.StatusCode.DATA_LOSS, errors.DependencyUnavailable),
        (grpc.StatusCode.UNAUTHENTICATED, errors.Unauthenticated),
    ],
    ids=lambda value: getattr(value, "name", getattr(value, "__name__", "")),
)
def test_every_code_of_somebody_else_means_something(code: grpc.StatusCode, kind: type[CoveyError]) -> None:
    bare = grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), "why")
    garbled = grpc.aio.AioRpcError(
        code, grpc.aio.Metadata(), grpc.aio.Metadata(("grpc-status-details-bin", b"\xff\xff")), "why"
    )

    assert type(error_of(bare, "user")) is kind
    assert type(error_of(garbled, "user")) is kind


def _received(error: Exception) -> grpc.aio.AioRpcError:
    """Return what a client gets for an error."""
    status = status_of(error, "correlation")
    code = next(code for code in grpc.StatusCode if code.value[0] == status.code)
    trailing = grpc.aio.Metadata(("grpc-status-details-bin", status.SerializeToString()))
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, status.message)


def _made(kind: type[CoveyError]) -> CoveyError:
    return kind("why", None) if issubclass(kind, errors.ConstraintViolated) else kind("why")
