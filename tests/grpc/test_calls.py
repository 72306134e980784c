"""What every call has: a context, a deadline, an end that is told, whichever it is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2

from covey import context
from covey.clock import SystemClock
from covey.grpc.options import GrpcOptions
from covey.telemetry.telemetry import Telemetry
from covey.testing.eventually import eventually
from tests.grpc.conftest import Serve
from tests.grpc.probe import METHOD, refusal

Log = Callable[[], list[dict[str, Any]]]

CALLER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def counted(telemetry: Telemetry) -> dict[tuple[str, ...], float]:
    return dict(telemetry.metrics.counter("grpc_requests_total", "", ("method", "code")).series())


async def echo(value: str, context: Any) -> str:
    return value


class Waiting:
    """A method that waits, and notes when it begins and when it is cancelled."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def __call__(self, value: str, context: Any) -> str:
        self.begun.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return value


class TestTheDeadline:
    async def test_of_the_caller_ends_the_work(self, serve: Serve, telemetry: Telemetry) -> None:
        waiting = Waiting()
        async with serve(waiting) as probe:
            refused = await probe.refused(timeout=0.2)

            assert refused.code == "DEADLINE_EXCEEDED"
            async with asyncio.timeout(1):
                await waiting.cancelled.wait()
            await eventually(lambda: counted(telemetry) == {(METHOD, "DEADLINE_EXCEEDED"): 1})

    async def test_is_the_default_when_the_caller_names_none(self, serve: Serve, telemetry: Telemetry) -> None:
        waiting = Waiting()
        async with serve(waiting, GrpcOptions(deadline=timedelta(milliseconds=100))) as probe, asyncio.timeout(10):
            refused = await probe.refused()

        assert refused.code == "DEADLINE_EXCEEDED"
        assert refused.detail(error_details_pb2.ErrorInfo).reason == "DEADLINE_EXCEEDED"
        assert waiting.cancelled.is_set()
        assert counted(telemetry) == {(METHOD, "DEADLINE_EXCEEDED"): 1}

    @pytest.mark.parametrize(("given", "least", "most"), [(5.0, 4.0, 5.1), (None, 9.0, 10.1), (1e9, 86_390, 86_401)])
    async def test_is_what_is_left_for_whatever_the_call_does(
        self, serve: Serve, given: float | None, least: float, most: float
    ) -> None:
        async def left(value: str, _context: Any) -> str:
            deadline = context.current().deadline
            assert deadline is not None
            return str((deadline - SystemClock().now()).total_seconds())

        async with serve(left) as probe:
            seconds = float(await probe.do(timeout=given))

        assert least < seconds < most


class TestWhoLeaves:
    async def test_is_worked_for_no_longer(self, serve: Serve, telemetry: Telemetry, log: Log) -> None:
        waiting = Waiting()
        async with serve(waiting) as probe:
            call = asyncio.create_task(probe.do())
            await waiting.begun.wait()
            call.cancel()

            async with asyncio.timeout(5):
                await waiting.cancelled.wait()
            await eventually(lambda: counted(telemetry) == {(METHOD, "CANCELLED"): 1})
        with pytest.raises(asyncio.CancelledError):
            await call
        assert [line["event"] for line in log()] == ["call"], "nobody did anything wrong"

    async def test_is_not_meant_by_a_cancellation_that_a_library_lets_out(self, serve: Serve) -> None:
        async def leak(value: str, context: Any) -> str:
            raise asyncio.CancelledError("of something inside")

        async with serve(leak) as probe:
            refused = await probe.refused(timeout=5)

        assert refused.code == "INTERNAL"


class TestTheContext:
    async def test_is_taken_over_and_given_back(self, serve: Serve) -> None:
        async def tell(value: str, _context: Any) -> str:
            about = context.current()
            return f"{about.correlation_id} {about.trace.trace_id:032x}"

        async with serve(tell) as probe:
            call = probe.stub.Do(
                _text(""), metadata=(("x-correlation-id", "order-17"), ("traceparent", CALLER)), timeout=5
            )
            answer, trailing = await call, dict(await call.trailing_metadata())

        assert answer.value == "order-17 4bf92f3577b34da6a3ce929d0e0e4736"
        assert trailing["x-correlation-id"] == "order-17"

    @pytest.mark.parametrize("value", ["x" * 65, "a b", "<b>", "", "a;b"])
    async def test_has_a_harmless_correlation_id_whatever_is_sent(self, serve: Serve, value: str) -> None:
        async def tell(_value: str, _context: Any) -> str:
            return context.current().correlation_id

        async with serve(tell) as probe:
            told = await probe.do(metadata=(("x-correlation-id", value), ("traceparent", "nonsense")), timeout=5)

        assert told != value
        assert len(told) == 32

    async def test_is_in_the_span_and_in_the_log(self, serve: Serve, telemetry: Telemetry, log: Log) -> None:
        async with serve(echo) as probe:
            await probe.do("hello", metadata=(("x-correlation-id", "order-17"), ("traceparent", CALLER)), timeout=5)

        (line,) = log()
        (span,) = telemetry.tracer.recent
        assert (line["event"], line["method"], line["code"], line["correlation_id"]) == (
            *("call", METHOD, "OK", "order-17"),
        )
        assert (span.name, span.kind, span.error) == (METHOD, "server", None)
        assert (f"{span.trace_id:032x}", f"{span.parent_id:016x}") == tuple(CALLER.split("-")[1:3])
        assert span.attributes == {
            "rpc.system": "grpc",
            "rpc.service": "test.v1.Probe",
            "rpc.method": "Do",
            "rpc.grpc.status_code": 0,
        }
        assert line["span_id"] == f"{span.span_id:016x}"


class TestMessages:
    async def test_that_are_too_large_are_refused_before_they_are_read(self, serve: Serve) -> None:
        async with serve(echo, GrpcOptions(max_message_bytes=1_000)) as probe:
            refused = await probe.refused("x" * 2_000, timeout=5)

            assert refused.code == "RESOURCE_EXHAUSTED"
            assert await probe.do("small", timeout=5) == "small"

    async def test_of_ours_that_are_too_large_are_refused_with_a_reason(self, serve: Serve) -> None:
        async def much(value: str, context: Any) -> str:
            return "x" * 2_000

        async with serve(much, GrpcOptions(max_message_bytes=1_000)) as probe:
            refused = await probe.refused(timeout=5)

        assert refused.code == "RESOURCE_EXHAUSTED"
        assert refused.detail(error_details_pb2.ErrorInfo).reason == "TOO_LARGE"

    async def test_that_are_none_are_refused_as_unreadable(self, serve: Serve, telemetry: Telemetry) -> None:
        async with serve(echo) as probe:
            raw = probe.channel.unary_unary(f"/{METHOD}")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await raw(b"\x0a\xff", timeout=5)

        refused = refusal(caught.value)
        assert refused.code == "INVALID_ARGUMENT"
        assert refused.detail(error_details_pb2.ErrorInfo).reason == "UNREADABLE"
        assert counted(telemetry) == {(METHOD, "INVALID_ARGUMENT"): 1}

    async def test_that_are_no_answer_are_a_defect_of_ours(self, serve: Serve) -> None:
        async def nothing(value: str, context: Any) -> None:
            return None

        async with serve(nothing) as probe:
            assert (await probe.refused(timeout=5)).code == "INTERNAL"


class TestCounting:
    async def test_knows_calls_by_method_and_code(self, serve: Serve, telemetry: Telemetry) -> None:
        async def some(value: str, context: Any) -> str:
            if value == "abort":
                await context.abort(grpc.StatusCode.OUT_OF_RANGE, "by hand")
            return value

        async with serve(some) as probe:
            for _ in range(3):
                await probe.do(timeout=5)
            assert (await probe.refused("abort", timeout=5)).code == "OUT_OF_RANGE"

        assert counted(telemetry) == {(METHOD, "OK"): 3, (METHOD, "OUT_OF_RANGE"): 1}
        seconds = telemetry.metrics.histogram("grpc_request_duration_seconds", "", ("method",))
        assert seconds.count((METHOD,)) == 4

    async def test_makes_one_series_of_all_methods_that_nobody_has(self, serve: Serve, telemetry: Telemetry) -> None:
        async with serve(echo) as probe:
            for n in range(20):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await probe.channel.unary_unary(f"/test.v1.Probe/Invented{n}")(b"", timeout=5)
                assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED

        await eventually(lambda: counted(telemetry) == {("other", "UNIMPLEMENTED"): 20})


def _text(value: str) -> Any:
    from google.protobuf.wrappers_pb2 import StringValue

    return StringValue(value=value)
