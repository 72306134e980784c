"""Correlation id, trace context and deadline: what comes in with a request and what goes out with its answer."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from fastapi import APIRouter
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from covey.context import Context, active, current
from covey.http.application import Application
from covey.telemetry.telemetry import Telemetry
from covey.testing.asgi import ask, scope_of
from covey.testing.clock import FakeClock

Make = Callable[..., Application]
Log = Callable[[], list[dict[str, Any]]]

VALID = re.compile(r"[A-Za-z0-9._-]{1,64}")


@pytest.fixture
def seen() -> list[Context]:
    return []


@pytest.fixture
def app(make: Make, seen: list[Context]) -> Application:
    api = APIRouter()

    @api.get("/look")
    async def look() -> str:
        seen.append(current())
        return "seen"

    @api.get("/look-from-a-thread")
    def look_from_a_thread() -> str:
        seen.append(current())
        return "seen"

    return make(api)


async def test_a_valid_correlation_id_is_used_and_given_back(app: Application, seen: list[Context], log: Log) -> None:
    answer = await ask(app, "GET", "/look", headers={"X-Correlation-ID": "order-42.retry_1"})

    assert answer.headers["x-correlation-id"] == "order-42.retry_1"
    assert seen[0].correlation_id == "order-42.retry_1"
    assert log()[-1]["correlation_id"] == "order-42.retry_1"


async def test_an_endpoint_in_a_thread_has_the_context_too(app: Application, seen: list[Context]) -> None:
    await ask(app, "GET", "/look-from-a-thread", headers={"X-Correlation-ID": "abc"})

    assert seen[0].correlation_id == "abc"


@given(value=st.binary(max_size=200).map(lambda raw: raw.decode("latin-1")))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_whatever_is_sent_as_correlation_id_the_answer_and_the_log_hold_a_harmless_one(
    app: Application, log: Log, value: str
) -> None:
    answer = await ask(app, "GET", "/look", headers={"X-Correlation-ID": value})

    given_back = answer.headers["x-correlation-id"]
    assert VALID.fullmatch(given_back)
    assert given_back == value or not VALID.fullmatch(value)
    assert log()[-1]["correlation_id"] == given_back


async def test_a_correlation_id_of_20_000_bytes_is_replaced(app: Application) -> None:
    answer = await ask(app, "GET", "/look", headers={"X-Correlation-ID": "a" * 20_000})

    assert len(answer.headers["x-correlation-id"]) == 32


async def test_a_minted_correlation_id_is_the_trace_id_and_new_each_time(app: Application, seen: list[Context]) -> None:
    answers = [await ask(app, "GET", "/look") for _ in range(50)]

    assert [answer.headers["x-correlation-id"] for answer in answers] == [f"{c.trace.trace_id:032x}" for c in seen]
    assert len({context.trace.trace_id for context in seen}) == 50


async def test_the_trace_of_the_caller_is_continued_in_a_span_of_our_own(
    app: Application, seen: list[Context], telemetry: Telemetry
) -> None:
    await ask(app, "GET", "/look", headers={"traceparent": f"00-{0xA:032x}-{0xB:016x}-01"})

    telemetry.flush()
    (span,) = telemetry.tracer.recent
    assert (span.trace_id, span.parent_id) == (0xA, 0xB)
    assert span.span_id == seen[0].trace.span_id, "what the route does is inside the server span"
    assert span.span_id != 0xB


@pytest.mark.parametrize(
    "traceparent",
    ["", "garbage", f"00-{0:032x}-{1:016x}-01", f"00-{1:032x}-{0:016x}-01", f"ff-{1:032x}-{1:016x}-01",
     f"00-{1:032x}-{1:016x}-01-extra", f"00-{'A' * 32}-{'B' * 16}-01", "00-\x00-\x1b-01"],
)  # fmt: skip
async def test_a_malformed_traceparent_begins_a_new_trace_and_fails_nothing(
    app: Application, telemetry: Telemetry, traceparent: str
) -> None:
    answer = await ask(app, "GET", "/look", headers={"traceparent": traceparent})

    telemetry.flush()
    assert answer.status == 200
    assert telemetry.tracer.recent[0].parent_id == 0


async def test_a_caller_that_does_not_sample_is_respected(app: Application, telemetry: Telemetry, log: Log) -> None:
    await ask(app, "GET", "/look", headers={"traceparent": f"00-{0xA:032x}-{0xB:016x}-00"})

    assert log()[-1]["trace_id"] == f"{0xA:032x}"
    assert not telemetry.tracer.recent


async def test_requests_at_the_same_time_do_not_see_each_others_context(make: Make) -> None:
    api = APIRouter()
    arrived = asyncio.Barrier(20)

    @api.get("/wait")
    async def wait() -> str:
        before = current().correlation_id
        await arrived.wait()
        assert current().correlation_id == before
        return before

    app = make(api)
    answers = await asyncio.gather(
        *[ask(app, "GET", "/wait", headers={"X-Correlation-ID": f"request-{number}"}) for number in range(20)]
    )

    assert [answer.json() for answer in answers] == [f"request-{number}" for number in range(20)]


async def test_nothing_is_left_behind_after_a_request_also_after_one_that_failed(make: Make) -> None:
    api = APIRouter()

    @api.get("/fail")
    async def fail() -> None:
        raise RuntimeError

    app = make(api)
    await ask(app, "GET", "/fail")

    assert active() is None


async def test_a_websocket_has_a_context_too(make: Make, seen: list[Context]) -> None:
    api = APIRouter()

    @api.websocket("/live")
    async def live(websocket: Any) -> None:
        seen.append(current())

    live.__annotations__["websocket"] = __import__("fastapi").WebSocket
    app = make(api)
    scope = {**scope_of("GET", "/live", {"X-Correlation-ID": "socket-1"}), "type": "websocket", "subprotocols": []}

    async def silent(*message: Any) -> Any:
        return {"type": "websocket.connect"}

    await app(scope, silent, silent)

    assert [context.correlation_id for context in seen] == ["socket-1"]


async def test_the_callers_time_becomes_a_deadline(make: Make) -> None:
    api = APIRouter()
    clock = FakeClock()

    @api.get("/deadline")
    async def deadline() -> str:
        given = current().deadline
        return "none" if given is None else str((given - clock.now()) / timedelta(milliseconds=1))

    app = make(api, clock=clock)

    assert (await ask(app, "GET", "/deadline", headers={"Covey-Timeout-Ms": "1500"})).json() == "1500.0"
    for nonsense in ("", "-5", "1.5", "soon", "9" * 30):
        assert (await ask(app, "GET", "/deadline", headers={"Covey-Timeout-Ms": nonsense})).json() == "none"


async def test_work_whose_caller_has_given_up_is_ended_with_504(make: Make) -> None:
    api = APIRouter()
    cancelled = asyncio.Event()

    @api.get("/slow")
    async def slow() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    begun = time.monotonic()
    answer = await ask(make(api), "GET", "/slow", headers={"Covey-Timeout-Ms": "50"})

    assert answer.status == 504
    assert answer.json()["type"] == "/problems/deadline-exceeded"
    assert cancelled.is_set()
    assert time.monotonic() - begun < 2


async def test_a_timeout_of_the_route_itself_is_not_taken_for_the_callers(make: Make) -> None:
    api = APIRouter()

    @api.get("/own")
    async def own() -> None:
        raise TimeoutError

    answer = await ask(make(api), "GET", "/own", headers={"Covey-Timeout-Ms": "60000"})

    assert answer.status == 500


async def test_an_answer_that_has_begun_may_end_after_the_callers_time(make: Make) -> None:
    from fastapi.responses import StreamingResponse

    api = APIRouter()
    passed = asyncio.Event()

    async def parts() -> Any:
        yield b"one"
        await asyncio.wait_for(passed.wait(), 5)
        yield b"two"

    @api.get("/stream")
    async def stream() -> StreamingResponse:
        asyncio.get_running_loop().call_later(0.4, passed.set)
        return StreamingResponse(parts())

    answer = await ask(make(api), "GET", "/stream", headers={"Covey-Timeout-Ms": "250"})

    assert answer.body == b"onetwo"
