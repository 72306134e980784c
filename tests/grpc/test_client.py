"""Another service over gRPC: deadlines, errors, and the policy around both."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from covey import context, errors
from covey.clock import SystemClock
from covey.grpc.client import GrpcClient, GrpcClientOptions
from covey.local.ports import free_port
from covey.resilience.circuit_breaker import BreakerOptions, CircuitOpen
from covey.resilience.policy import PolicyOptions
from covey.telemetry.health import Readiness
from covey.telemetry.telemetry import Telemetry
from covey.testing.eventually import eventually
from tests.grpc.conftest import Serve
from tests.grpc.probe import ProbeServicer, ProbeStub, server_of

POLICY = PolicyOptions(deadline=timedelta(seconds=5), timeout=timedelta(seconds=3))


class Caller:
    """Calls the method through covey's client."""

    def __init__(self, client: GrpcClient) -> None:
        self.client = client
        self.stub = ProbeStub(client.channel)

    async def do(self, value: str = "", *, repeatable: bool = True) -> str:
        answer = await self.client.call(self.stub.Do, StringValue(value=value), repeatable=repeatable)
        return str(answer.value)


@asynccontextmanager
async def calling(address: str, policy: PolicyOptions = POLICY, **options: Any) -> AsyncIterator[Caller]:
    async with GrpcClient.open("probe", address, GrpcClientOptions(policy=policy, **options)) as client:
        yield Caller(client)


async def remaining(value: str, call: Any) -> str:
    return str(call.time_remaining())


class TestTheDeadline:
    async def test_is_sent_with_every_call(self, serve: Serve) -> None:
        async with serve(remaining) as probe, calling(probe.address) as caller:
            assert 2.5 < float(await caller.do()) <= 3.1

    async def test_is_no_later_than_that_of_who_waits(self, serve: Serve) -> None:
        deadline = SystemClock().now() + timedelta(seconds=1)
        async with serve(remaining) as probe, calling(probe.address) as caller:
            with context.use(replace(context.new_context(), deadline=deadline)):
                assert 0.5 < float(await caller.do()) <= 1.1

    async def test_ends_a_call_in_time_and_the_work_at_the_other_end(self, serve: Serve) -> None:
        cancelled = asyncio.Event()

        async def endless(value: str, call: Any) -> str:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                cancelled.set()
                raise
            return value

        policy = PolicyOptions(deadline=timedelta(milliseconds=300), timeout=timedelta(seconds=3))
        async with serve(endless) as probe, calling(probe.address, policy) as caller:
            began = time.monotonic()
            with pytest.raises(errors.DependencyTooSlow):
                await caller.do()

            assert time.monotonic() - began < 1
            async with asyncio.timeout(5):
                await cancelled.wait()

    async def test_that_is_over_asks_nobody(self, serve: Serve) -> None:
        asked: list[str] = []

        async def note(value: str, call: Any) -> str:
            asked.append(value)
            return value

        past = SystemClock().now() - timedelta(seconds=1)
        async with serve(note) as probe, calling(probe.address) as caller:
            with context.use(replace(context.new_context(), deadline=past)), pytest.raises(errors.DeadlineExceeded):
                await caller.do()

        assert asked == []


class TestErrors:
    async def test_are_those_that_the_other_side_raised(self, serve: Serve) -> None:
        async def fail(value: str, call: Any) -> str:
            raise errors.Invalid("no", [{"in": "message", "pointer": "#/value", "what": "it is blank"}])

        async with serve(fail) as probe, calling(probe.address) as caller:
            with pytest.raises(errors.Invalid, match="probe: no") as caught:
                await caller.do()

        assert caught.value.errors == [{"in": "message", "pointer": "#/value", "what": "it is blank"}]

    async def test_of_a_target_that_is_not_there_say_so_and_are_none_of_grpc(self) -> None:
        async with calling(f"127.0.0.1:{free_port()}") as caller:
            with pytest.raises(errors.DependencyUnavailable, match="probe: ") as caught:
                await caller.do()

        assert not _of_grpc(caught.value)

    async def test_of_one_that_is_cut_off_are_none_of_grpc(self, serve: Serve) -> None:
        begun = asyncio.Event()

        async def endless(value: str, call: Any) -> str:
            begun.set()
            await asyncio.sleep(60)
            return value

        async with serve(endless) as probe, calling(probe.address) as caller:
            call = asyncio.create_task(caller.do(repeatable=False))
            await begun.wait()
            await probe.server.stop(timedelta(0))
            with pytest.raises(errors.DependencyUnavailable) as caught:
                await call

        assert not _of_grpc(caught.value)

    async def test_of_a_client_that_is_closed_are_a_defect(self, serve: Serve) -> None:
        async with serve(remaining) as probe:
            async with calling(probe.address) as caller:
                pass
            with pytest.raises(errors.Defect):
                await caller.do()

    async def test_of_an_answer_that_is_too_large_are_not_of_the_target(self, serve: Serve) -> None:
        async def much(value: str, call: Any) -> str:
            return "x" * 5_000

        async with serve(much) as probe, calling(probe.address, max_message_bytes=1_000) as caller:
            with pytest.raises(errors.TooLarge):
                await caller.do()

    async def test_are_no_cancellation(self, serve: Serve) -> None:
        begun, cancelled = asyncio.Event(), asyncio.Event()

        async def endless(value: str, call: Any) -> str:
            begun.set()
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                cancelled.set()
                raise
            return value

        async with serve(endless) as probe, calling(probe.address) as caller:
            call = asyncio.create_task(caller.do())
            await begun.wait()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            async with asyncio.timeout(5):
                await cancelled.wait()


class TestThePolicy:
    async def test_tries_again_what_can_be_repeated(self, serve: Serve) -> None:
        asked: list[str] = []

        async def second_time(value: str, call: Any) -> str:
            asked.append(value)
            if len(asked) == 1:
                raise errors.DatabaseUnavailable("away", retry_after=timedelta(milliseconds=1))
            return value

        async with serve(second_time) as probe, calling(probe.address) as caller:
            assert await caller.do("x") == "x"

        assert asked == ["x", "x"]

    async def test_tries_nothing_again_that_cannot(self, serve: Serve) -> None:
        asked: list[str] = []

        async def fail(value: str, call: Any) -> str:
            asked.append(value)
            raise errors.DatabaseUnavailable("away", retry_after=timedelta(milliseconds=1))

        async with serve(fail) as probe, calling(probe.address) as caller:
            with pytest.raises(errors.DependencyUnavailable):
                await caller.do(repeatable=False)

        assert asked == [""]

    async def test_leaves_a_target_alone_that_does_not_answer(self) -> None:
        policy = replace(POLICY, breaker=BreakerOptions(minimum=3))
        async with calling(f"127.0.0.1:{free_port()}", policy) as caller:
            for _ in range(3):
                with pytest.raises(errors.DependencyUnavailable):
                    await caller.do(repeatable=False)
            with pytest.raises(CircuitOpen):
                await caller.do()

    async def test_finds_a_target_again_that_was_started_anew(self, telemetry: Telemetry, readiness: Readiness) -> None:
        port = free_port()
        async with calling(f"127.0.0.1:{port}") as caller:
            with pytest.raises(errors.DependencyUnavailable):
                await caller.do(repeatable=False)
            server = server_of([ProbeServicer(remaining)], telemetry, readiness)
            await server.start("127.0.0.1", port)
            try:

                async def answered() -> bool:
                    try:
                        return bool(await caller.do())
                    except errors.Unavailable:
                        return False

                await eventually(answered)
            finally:
                await server.stop(timedelta(0))


async def test_the_context_travels(serve: Serve) -> None:
    async def tell(value: str, call: Any) -> str:
        about = context.current()
        return f"{about.correlation_id} {about.trace.trace_id}"

    about = context.new_context("order-17")
    async with serve(tell) as probe, calling(probe.address) as caller:
        with context.use(about):
            assert await caller.do() == f"order-17 {about.trace.trace_id}"


def _of_grpc(error: BaseException | None) -> bool:
    """Tell whether an error is of grpc, or was raised because of one that a caller would be shown."""
    while error is not None:
        if isinstance(error, grpc.RpcError):
            return True
        error = error.__cause__
    return False
