"""The server: what it takes, its health, its reflection, and its end."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import grpc
import pytest
import uvloop
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from covey.errors import ConfigurationError, DefinitionError
from covey.telemetry.health import Readiness
from covey.telemetry.telemetry import Telemetry
from covey.testing.eventually import eventually
from tests.docs.pages import ROOT
from tests.grpc.conftest import Serve
from tests.grpc.probe import Probe, ProbeServicer, server_of

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


async def echo(value: str, context: Any) -> str:
    return value


class TestHealth:
    async def test_follows_readiness(self, serve: Serve, readiness: Readiness) -> None:
        trouble: list[str] = []

        async def check() -> None:
            if trouble:
                raise RuntimeError(trouble[0])

        readiness.add("database", check)
        async with serve(echo) as probe:
            health = health_pb2_grpc.HealthStub(probe.channel)

            async def status(service: str = "") -> int:
                answer = await health.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
                return int(answer.status)

            assert (await status(), await status("test.v1.Probe")) == (SERVING, SERVING)
            trouble.append("away")
            await eventually(lambda: _is(status(), NOT_SERVING))
            trouble.clear()
            await eventually(lambda: _is(status("test.v1.Probe"), SERVING))
            readiness.drain()
            assert await status() == NOT_SERVING

    async def test_of_a_service_that_is_not_here_is_not_found(self, serve: Serve) -> None:
        async with serve(echo) as probe:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await health_pb2_grpc.HealthStub(probe.channel).Check(
                    health_pb2.HealthCheckRequest(service="other"), timeout=5
                )

        assert caught.value.code() is grpc.StatusCode.NOT_FOUND

    async def test_can_be_watched_and_who_watches_does_not_keep_the_server_from_stopping(
        self, serve: Serve, readiness: Readiness
    ) -> None:
        async with serve(echo) as probe:
            watching = health_pb2_grpc.HealthStub(probe.channel).Watch(health_pb2.HealthCheckRequest())
            changes = aiter(watching)
            first = await anext(changes)
            readiness.drain()
            second = await anext(changes)
            began = time.monotonic()
            await probe.server.stop(timedelta(seconds=30))

            assert (first.status, second.status) == (SERVING, NOT_SERVING)
            assert time.monotonic() - began < 5
            assert [change async for change in watching] == []


async def test_reflection_lists_what_is_served(serve: Serve) -> None:
    async with serve(echo) as probe:
        stub = reflection_pb2_grpc.ServerReflectionStub(probe.channel)
        answers = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="*")]))
        (answer,) = [answer async for answer in answers]

    assert {service.name for service in answer.list_services_response.service} == {
        "test.v1.Probe",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }


class TestTheEnd:
    async def test_lets_calls_finish_and_takes_no_more(self, serve: Serve) -> None:
        begun, go = asyncio.Event(), asyncio.Event()

        async def slow(value: str, context: Any) -> str:
            begun.set()
            await go.wait()
            return value

        async with serve(slow) as probe:
            call = asyncio.create_task(probe.do("first", timeout=20))
            await begun.wait()
            stopping = asyncio.create_task(probe.server.stop(timedelta(seconds=20)))
            await eventually(lambda: _refuses(probe.address))
            go.set()

            assert await call == "first"
            await stopping

    async def test_cuts_off_what_takes_longer_than_its_grace(self, serve: Serve) -> None:
        begun, cancelled = asyncio.Event(), asyncio.Event()

        async def endless(value: str, context: Any) -> str:
            begun.set()
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                cancelled.set()
                raise
            return value

        async with serve(endless) as probe:
            call = asyncio.create_task(probe.refused(timeout=30))
            await begun.wait()
            await probe.server.stop(timedelta(milliseconds=50))

            assert (await call).code in ("CANCELLED", "UNAVAILABLE")
            async with asyncio.timeout(5):
                await cancelled.wait()

    async def test_may_come_twice(self, serve: Serve) -> None:
        async with serve(echo) as probe:
            await probe.server.stop(timedelta(0))
            await probe.server.stop(timedelta(0))


class TestWhatItTakes:
    def test_is_no_servicer_that_nobody_generated(self, telemetry: Telemetry, readiness: Readiness) -> None:
        with pytest.raises(DefinitionError, match="object extends no servicer"):
            server_of([object()], telemetry, readiness)

    def test_is_one_servicer_of_each_service(self, telemetry: Telemetry, readiness: Readiness) -> None:
        with pytest.raises(DefinitionError, match=r"two servicers are of test\.v1\.Probe"):
            server_of([ProbeServicer(echo), ProbeServicer(echo)], telemetry, readiness)

    def test_does_not_stream(self, telemetry: Telemetry, readiness: Readiness) -> None:
        with pytest.raises(DefinitionError, match="Watch streams"):
            server_of([health_pb2_grpc.HealthServicer()], telemetry, readiness)

    async def test_is_no_port_that_another_has(self, telemetry: Telemetry, readiness: Readiness) -> None:
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = other.getsockname()[1]
            with pytest.raises(ConfigurationError, match=f"cannot listen for gRPC on 127.0.0.1:{port}"):
                await server_of([ProbeServicer(echo)], telemetry, readiness).start("127.0.0.1", port)

    async def test_is_no_port_that_another_of_its_kind_has(self, telemetry: Telemetry, readiness: Readiness) -> None:
        first, second = (server_of([ProbeServicer(echo)], telemetry, readiness) for _ in range(2))
        port = await first.start("127.0.0.1", 0)
        try:
            with pytest.raises(ConfigurationError):
                await second.start("127.0.0.1", port)
        finally:
            await first.stop(timedelta(0))


class TestBesideOthers:
    async def test_in_one_process_each_answers_for_itself(self, telemetry: Telemetry, readiness: Readiness) -> None:
        async def named(value: str, context: Any) -> str:
            return f"another {value}"

        async with _listening(echo, telemetry, readiness) as one, _listening(named, telemetry, readiness) as other:
            answers = await asyncio.gather(*(probe.do("x", timeout=5) for probe in (one, other) for _ in range(20)))

        assert answers == ["x"] * 20 + ["another x"] * 20

    async def test_processes_can_be_started_meanwhile(self, serve: Serve, capfd: pytest.CaptureFixture[str]) -> None:
        """gRPC has threads, which its handlers of fork would try to stop."""

        async def start(value: str, context: Any) -> str:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", f"print({value!r})", stdout=asyncio.subprocess.PIPE
            )
            said, _ = await process.communicate()
            return said.decode().strip()

        async with serve(start) as probe:
            assert await asyncio.gather(*(probe.do(f"n{n}", timeout=20) for n in range(4))) == ["n0", "n1", "n2", "n3"]
        assert "fork" not in capfd.readouterr().err

    def test_a_process_that_was_forked_after_the_import_serves(self) -> None:
        subprocess.run([sys.executable, "-c", FORKED], cwd=ROOT, check=True, timeout=30)


FORKED = """
import os, sys
from tests.grpc.test_server import serve_one_call
child = os.fork()
if child == 0:
    serve_one_call()
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def serve_one_call() -> None:
    """Serve a call and make it."""

    async def run() -> None:
        readiness = Readiness()
        readiness.started()
        async with _listening(echo, Telemetry.in_memory(), readiness) as probe:
            assert await probe.do("x", timeout=5) == "x"

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


@asynccontextmanager
async def _listening(do: Any, telemetry: Telemetry, readiness: Readiness) -> AsyncIterator[Probe]:
    server = server_of([ProbeServicer(do)], telemetry, readiness)
    port = await server.start("127.0.0.1", 0)
    try:
        async with Probe.open(f"127.0.0.1:{port}", server) as probe:
            yield probe
    finally:
        await server.stop(timedelta(seconds=1))


async def _is(asked: Any, expected: int) -> bool:
    return bool(await asked == expected)


async def _refuses(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        _, writer = await asyncio.open_connection(host, int(port))
    except OSError:
        return True
    writer.close()
    return False
