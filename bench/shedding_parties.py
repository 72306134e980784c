"""The parties of `shedding.py`: a service that can do 320 things a second, and clients that ask whatever it does."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast
from urllib.parse import urlsplit

import httptools
from fastapi import APIRouter

from bench.party import Deed, play
from covey.http.application import application
from covey.http.shedding import priority
from covey.resilience.load_shedding import Priority
from covey.security.access import public
from covey.telemetry.health import Readiness
from covey.telemetry.telemetry import Telemetry, TelemetryOptions
from covey.testing.serving import serving

SERVERS, TAKES_SECONDS = 16, 0.05
CHECKOUTS = 0.03
PATIENCE_SECONDS = 5.0


@asynccontextmanager
async def service(settings: dict[str, Any]) -> AsyncIterator[Mapping[str, Deed]]:
    """Be the service. It logs and counts as any other."""
    dependency = asyncio.Semaphore(SERVERS)
    api = APIRouter(prefix="/api/v1")

    async def needed() -> str:
        async with dependency:
            await asyncio.sleep(TAKES_SECONDS)
        return "done"

    @api.get("/checkout")
    @public
    @priority(Priority.CRITICAL)
    async def checkout() -> str:
        return await needed()

    @api.get("/browse")
    @public
    @priority(Priority.LOW)
    async def browse() -> str:
        return await needed()

    readiness = Readiness()
    readiness.started()
    with Telemetry.open(TelemetryOptions(service="shedding")) as telemetry:
        async with serving(application("shedding", [api], telemetry, readiness)) as url:

            async def where() -> str:
                return url

            yield {"url": where}


class Connection(asyncio.Protocol):
    """One request at a time; `answer` gets the status of each, 0 when the connection is lost."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[int] | None = None
        self.is_open = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._parser = httptools.HttpResponseParser(self)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        """Called by the parser."""
        self._settle(self._parser.get_status_code())

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        self._settle(0)

    def _settle(self, status: int) -> None:
        if self.answer is not None and not self.answer.done():
            self.answer.set_result(status)


class Clients:
    """Ask at the instants that were drawn beforehand, whoever has been answered by then."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = str(parts.hostname), int(parts.port or 80)
        self._idle: list[Connection] = []
        self._chance = random.Random(7)

    async def offer(self, rate: float, seconds: float) -> dict[str, Any]:
        """Offer so many requests a second, and return how many of each kind were offered and done, and their ms."""
        offered, done, ms = Counter[str](), Counter[str](), list[float]()
        asking: set[asyncio.Task[None]] = set()
        begun = at = time.perf_counter()
        while at < begun + seconds:
            at += self._chance.expovariate(rate)
            if (left := at - time.perf_counter()) > 0:
                await asyncio.sleep(left)
            kind = "checkout" if self._chance.random() < CHECKOUTS else "browse"
            offered[kind] += 1
            task = asyncio.create_task(self._ask(kind, done, ms))
            asking.add(task)
            task.add_done_callback(asking.discard)
        if asking:
            await asyncio.wait(asking)
        return {"offered": offered, "done": done, "ms": ms}

    async def _ask(self, kind: str, done: Counter[str], ms: list[float]) -> None:
        begun = time.perf_counter()
        connection = await self._connection()
        connection.answer = asyncio.get_running_loop().create_future()
        connection.transport.write(f"GET /api/v1/{kind} HTTP/1.1\r\nHost: shop\r\n\r\n".encode())
        try:
            status = await asyncio.wait_for(connection.answer, PATIENCE_SECONDS)
        except TimeoutError:
            connection.transport.abort()
            return
        if connection.is_open:
            self._idle.append(connection)
        if status == 200:
            done[kind] += 1
            ms.append((time.perf_counter() - begun) * 1e3)

    async def _connection(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                return connection
        loop = asyncio.get_running_loop()
        return (await loop.create_connection(Connection, self._host, self._port))[1]


@asynccontextmanager
async def clients(settings: dict[str, Any]) -> AsyncIterator[Mapping[str, Deed]]:
    """Be the clients. Settings: the `url` of the service."""
    yield {"offer": Clients(settings["url"]).offer}


if __name__ == "__main__":
    play({"service": service, "clients": clients})
