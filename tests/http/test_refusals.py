"""What another service answers, as an error; and what that means to our own caller."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from fastapi import APIRouter, Request

from covey import errors
from covey.errors import CoveyError
from covey.grpc.status import status_of
from covey.http.client import HttpClient, HttpClientOptions
from covey.http.conditional import PreconditionFailed, PreconditionRequired
from covey.http.connection import Answer
from covey.http.limits import RateLimited
from covey.http.problems import problem_of
from covey.http.refusals import detail_of, error_of
from covey.http.versioning import NotAcceptable
from covey.meanings import meaning_of
from covey.resilience.bulkhead import BulkheadFull
from covey.resilience.circuit_breaker import CircuitOpen
from covey.resilience.policy import NotOffered, PolicyOptions, TriedAlready
from covey.resilience.retry import RetryOptions
from covey.testing.serving import serving
from covey.work.idempotency import InProgress, KeyReused

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ONCE = HttpClientOptions(policy=PolicyOptions(retry=RetryOptions(attempts=1)))


@pytest.mark.parametrize(
    ("raised", "back"),
    [
        (errors.Rejected("why"), errors.Rejected),
        (errors.Unreadable("why"), errors.Unreadable),
        (errors.Invalid("why", [{"in": "body", "pointer": "#/name", "what": "it is blank"}]), errors.Invalid),
        (KeyReused("why"), KeyReused),
        (errors.Unauthenticated("why"), errors.Unauthenticated),
        (errors.Forbidden("why"), errors.Forbidden),
        (errors.NotFound("why"), errors.NotFound),
        (errors.Conflict("why"), errors.Conflict),
        (InProgress("why"), InProgress),
        (NotAcceptable("why"), NotAcceptable),
        (PreconditionFailed("why"), PreconditionFailed),
        (PreconditionRequired("why"), PreconditionRequired),
        (errors.TooLarge("why"), errors.TooLarge),
        (RateLimited("why", timedelta(seconds=7)), errors.DependencyUnavailable),
        (errors.DatabaseUnavailable("inside", timedelta(seconds=7)), errors.DependencyUnavailable),
        (CircuitOpen("inside", timedelta(seconds=7)), errors.DependencyUnavailable),
        (errors.DependencyUnavailable("inside"), TriedAlready),
        (errors.DependencyTooSlow("inside"), TriedAlready),
        (errors.DeadlineExceeded("inside"), errors.DeadlineExceeded),
        (RuntimeError("inside"), errors.DependencyUnavailable),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value.__name__,
)
async def test_an_error_of_covey_comes_back_as_what_it_is_to_who_asked(
    make: Callable[..., Any], raised: Exception, back: type[CoveyError]
) -> None:
    router = APIRouter()

    @router.get("/fail")
    async def fail(request: Request) -> None:
        raise raised

    async with serving(make(router)) as url, HttpClient.open("user", url, ONCE, caller="test") as client:
        with pytest.raises(back, match="user answered") as caught:
            await client.send("GET", "/fail")

    assert type(caught.value) is back
    assert "inside" not in str(caught.value)
    assert ("why" in str(caught.value)) == ("why" in str(raised))
    assert getattr(caught.value, "retry_after", None) in (getattr(raised, "retry_after", None), timedelta(seconds=1))
    assert getattr(caught.value, "errors", []) == getattr(raised, "errors", [])


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (302, NotOffered),
        (304, NotOffered),
        (400, errors.Rejected),
        (402, errors.Rejected),
        (404, errors.NotFound),
        (405, NotOffered),
        (408, errors.DependencyUnavailable),
        (415, NotOffered),
        (418, errors.Rejected),
        (429, errors.DependencyUnavailable),
        (500, errors.DependencyUnavailable),
        (501, NotOffered),
        (502, errors.DependencyUnavailable),
        (503, errors.DependencyUnavailable),
        (504, errors.DeadlineExceeded),
        (505, NotOffered),
        (599, errors.DependencyUnavailable),
        (999, errors.DependencyUnavailable),
    ],
)
def test_of_what_others_say_the_status_counts(status: int, kind: type[CoveyError]) -> None:
    assert type(error_of(Answer(status, b"", b"<html>"), "nginx", NOW)) is kind


@pytest.mark.parametrize(
    ("status", "slug", "kind"),
    [
        (404, "conflict", errors.NotFound),
        (503, "not-found", errors.DependencyUnavailable),
        (403, "dependency-unavailable", errors.Forbidden),
        (404, "internal", errors.NotFound),
    ],
)
def test_a_problem_that_contradicts_its_status_is_not_believed(status: int, slug: str, kind: type[CoveyError]) -> None:
    body = f'{{"type": "/problems/{slug}"}}'.encode()

    assert type(error_of(_problem(status, body), "user", NOW)) is kind


@pytest.mark.parametrize(
    ("value", "after"),
    [
        ("0", timedelta(0)),
        ("120", timedelta(seconds=120)),
        ("99999999999999999999", timedelta(days=1)),
        (format_datetime(NOW + timedelta(seconds=90), usegmt=True), timedelta(seconds=90)),
        (format_datetime(NOW - timedelta(seconds=90), usegmt=True), timedelta(0)),
        ("-5", None),
        ("1.5", None),
        ("²", None),
        ("Thu, 01 Jan 2026 00:01:30", None),
        ("soon", None),
        ("Mon, 01 Jan 99999999999999999999 00:00:00 GMT", None),
        ("", None),
    ],
)
def test_when_to_come_back_is_read_where_it_can_be(value: str, after: timedelta | None) -> None:
    answer = Answer(503, b"HTTP/1.1 503 Wait\r\nRetry-After: %b\r\n\r\n" % value.encode("latin-1"), b"")

    error = error_of(answer, "user", NOW)

    assert isinstance(error, errors.DependencyUnavailable)
    assert error.retry_after == after


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"7",
        b'{"detail": 7, "type": {}, "errors": 7}',
        b'{"errors": [7, {"a": 7}]}',
        b'{"detail"',
        b"\xff",
        b"[" * 100_000,
    ],
)
def test_a_problem_that_is_none_breaks_nothing(body: bytes) -> None:
    assert type(error_of(_problem(422, body), "user", NOW)) is errors.Invalid
    assert detail_of(_problem(422, body)) is None


def test_a_secret_in_what_is_said_is_not_told_on() -> None:
    said = _problem(409, b'{"detail": "postgresql://user:hunter2@host/db is busy"}')

    assert "hunter2" not in str(error_of(said, "user", NOW))
    assert "hunter2" not in str(detail_of(said))


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (errors.DependencyUnavailable("it"), 502, "UNAVAILABLE"),
        (TriedAlready("it"), 502, "UNAVAILABLE"),
        (errors.DependencyTooSlow("it"), 504, "DEADLINE_EXCEEDED"),
        (errors.DeadlineExceeded("it"), 504, "DEADLINE_EXCEEDED"),
        (CircuitOpen("it", timedelta(seconds=4.2)), 503, "UNAVAILABLE"),
        (BulkheadFull("it"), 503, "UNAVAILABLE"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_to_our_own_caller_it_is_whose_fault_it_is(error: Exception, status: int, code: str) -> None:
    assert problem_of(error).status == meaning_of(error).status == status
    assert meaning_of(error).code == code
    assert status_of(error, "x").message == problem_of(error).title
    if status == 503:
        assert int(problem_of(error).headers["Retry-After"]) >= 1
    if isinstance(error, CircuitOpen):
        assert problem_of(error).headers["Retry-After"] == "5"


def _problem(status: int, body: bytes) -> Answer:
    head = b"HTTP/1.1 %d Problem\r\nContent-Type: application/problem+json\r\n\r\n" % status
    return Answer(status, head, body)
