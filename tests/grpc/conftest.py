"""gRPC is tested on both event loops: tests run on asyncio's, services on uvloop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
import uvloop

from covey.grpc.options import GrpcOptions
from covey.telemetry.health import Readiness
from covey.telemetry.telemetry import Telemetry
from covey.testing.serving import serving_grpc
from tests.grpc.probe import Do, Probe, ProbeServicer, server_of

Serve = Callable[..., AbstractAsyncContextManager[Probe]]


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture
def serve(telemetry: Telemetry, readiness: Readiness) -> Serve:
    """A function that serves a method whose body is given, and yields a client of it."""

    @asynccontextmanager
    async def serve(do: Do, options: GrpcOptions | None = None) -> AsyncIterator[Probe]:
        server = server_of([ProbeServicer(do)], telemetry, readiness, options)
        async with serving_grpc(server) as address, Probe.open(address, server) as probe:
            yield probe

    return serve
