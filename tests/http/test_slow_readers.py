"""Who asks and does not read what is answered holds nothing for long; who reads, however slowly, is waited for."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
import uvicorn
from fastapi import APIRouter
from fastapi.responses import PlainTextResponse, StreamingResponse

from covey.http.application import Application
from covey.http.edge import HttpOptions
from covey.http.shedding import priority
from covey.http.slow_readers import BoundedAnswer
from covey.resilience.load_shedding import SheddingOptions
from covey.telemetry.telemetry import Telemetry
from covey.testing.eventually import eventually

EIGHT = HttpOptions(shedding=SheddingOptions(initial=8, least=4, most=8))
LARGE = b"a" * 4_000_000
"""More than the kernels of both sides take at once, be it asked for once."""

BUFFER = 4096
PATIENCE = aiohttp.ClientTimeout(total=10)


class Impatient(BoundedAnswer):
    """Waits for a reader no longer than a test does."""

    unread_seconds = 0.8


@dataclass
class Stage:
    """A service of small capacity with large answers. `ended` counts the pages that have ended."""

    port: int = 0
    http: aiohttp.ClientSession = field(init=False)
    ended: int = 0
    connections: list[socket.socket] = field(default_factory=list)

    async def status(self, path: str) -> int:
        """Ask as somebody does who reads."""
        async with self.http.get(path) as response:
            await response.read()
            return response.status

    async def metric(self, name: str) -> float:
        """Return what a metric without labels says."""
        async with self.http.get("/metrics") as response:
            (value,) = re.findall(rf"^{name} (\S+)$", await response.text(), re.MULTILINE)
            return float(value)

    async def is_idle(self) -> bool:
        """Tell whether nothing is under way but this question."""
        return await self.metric("active_connections") == 1

    async def asking(self, *paths: str) -> socket.socket:
        """Return a connection on which all these are asked for at once; nobody reads from it."""
        loop, connection = asyncio.get_running_loop(), socket.socket()
        self.connections.append(connection)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        connection.setblocking(False)
        await loop.sock_connect(connection, ("127.0.0.1", self.port))
        await loop.sock_sendall(connection, b"".join(b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % p.encode() for p in paths))
        return connection


@pytest.fixture
async def stage(make: Callable[..., Application], telemetry: Telemetry) -> AsyncIterator[Stage]:
    stage, api = Stage(), APIRouter()

    @api.get("/large")
    async def large() -> PlainTextResponse:
        return PlainTextResponse(LARGE)

    @api.get("/small")
    async def small() -> str:
        return "small"

    @api.get("/page", response_class=StreamingResponse)
    @priority(None)
    async def page() -> StreamingResponse:
        return StreamingResponse(events())

    async def events() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b":" * 10_000 + b"\n\n"
                await asyncio.sleep(0)
        finally:
            stage.ended += 1

    telemetry.logs.open()
    try:
        async with (
            _served(make(api, options=EIGHT)) as stage.port,
            aiohttp.ClientSession(f"http://127.0.0.1:{stage.port}", timeout=PATIENCE) as stage.http,
        ):
            yield stage
    finally:
        for connection in stage.connections:
            connection.close()
        telemetry.logs.close()


@asynccontextmanager
async def _served(app: Application) -> AsyncIterator[int]:
    with socket.socket(proto=socket.IPPROTO_TCP) as listening:
        listening.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            app, http=Impatient, lifespan="off", log_config=None, access_log=False, timeout_graceful_shutdown=1
        )
        server = uvicorn.Server(config)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(server.serve([listening]))
            while not server.started:  # noqa: ASYNC110 - uvicorn tells nobody when it has started
                await asyncio.sleep(0.005)
            try:
                yield listening.getsockname()[1]
            finally:
                server.should_exit = True


async def test_who_reads_nothing_is_cut_and_gives_back_what_they_held(
    stage: Stage, log: Callable[[], list[dict[str, Any]]]
) -> None:
    silent = [await stage.asking(*["/large"] * 3) for _ in range(8)]

    async def refused() -> bool:
        return await stage.status("/small") == 503

    async def let_in() -> bool:
        return await stage.status("/small") == 200

    await eventually(refused, because="they hold all that there is")
    await eventually(let_in, because="they are cut")
    await eventually(stage.is_idle)
    await eventually(lambda: [line["level"] for line in log() if line["event"] == "reader_cut"] == ["info"] * 8)

    lines = log()
    assert all([await _is_cut(connection) for connection in silent])
    assert not [line for line in lines if line["level"] in ("error", "critical")]
    assert {line["status"] for line in lines if line["event"] == "request"} == {200, 503}


async def test_who_reads_slowly_is_waited_for(stage: Stage) -> None:
    """Also while all that they read comes from the buffers of the kernels, and nothing of ours moves."""
    loop, connection = asyncio.get_running_loop(), await stage.asking("/large")

    ends = loop.time() + 2.5 * Impatient.unread_seconds
    async with asyncio.timeout(10):
        while loop.time() < ends:
            assert await loop.sock_recv(connection, BUFFER)
            await asyncio.sleep(0.01)


async def test_who_reads_a_little_now_and_then_is_cut(stage: Stage) -> None:
    loop, connection = asyncio.get_running_loop(), await stage.asking("/page")

    async with asyncio.timeout(10):
        while not stage.ended:
            assert await loop.sock_recv(connection, 100)
            await asyncio.sleep(Impatient.unread_seconds / 4)

    assert await _is_cut(connection)


@pytest.mark.parametrize("behind", [(), ("/small",)])
async def test_a_page_whose_reader_does_not_read_ends(stage: Stage, behind: tuple[str, ...]) -> None:
    """Also when something was asked for behind it, which uvicorn takes for what is under way."""
    await stage.asking("/page", *behind)

    await eventually(lambda: stage.ended == 1)


@pytest.mark.parametrize("behind", [(), ("/small",)])
async def test_a_page_whose_reader_leaves_ends(stage: Stage, behind: tuple[str, ...]) -> None:
    connection = await stage.asking("/page", *behind)
    await asyncio.get_running_loop().sock_recv(connection, 1)

    connection.close()

    await eventually(lambda: stage.ended == 1)


async def _is_cut(connection: socket.socket) -> bool:
    """Read what has come, and tell whether the connection was cut before all that was asked for had come."""
    loop, received = asyncio.get_running_loop(), 0
    async with asyncio.timeout(10):
        with suppress(ConnectionError):
            while received < len(LARGE) and (part := await loop.sock_recv(connection, 1_000_000)):
                received += len(part)
    return received < len(LARGE)
