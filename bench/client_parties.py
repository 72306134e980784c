"""The processes of the question about clients: a server that does next to nothing, and who calls it in several ways."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import aiohttp
import circuitbreaker
import ry
import tenacity
import wreq
from httptools import HttpResponseParser
from pyreqwest.client import ClientBuilder

from bench.party import Deed, play
from covey import context
from covey.clock import SystemClock
from covey.http.client import HttpClient
from covey.resilience.policy import Policy, PolicyOptions

CONTENT = b'{"id":"0199f2c0-0000-7000-8000-000000000000","name":"Ada Lovelace of Ockham","email":"ada@example.com"}'
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\nx-correlation-id: a\r\n\r\n"
ANSWER = HEAD % len(CONTENT) + CONTENT
PATH = "/api/v1/users/0199f2c0-0000-7000-8000-000000000000"
DEADLINE = timedelta(minutes=10)

Fetch = Callable[[], Awaitable[object]]
"""Makes one call and returns its body: bytes, or what the client has instead, which equals them."""


class _Server(asyncio.Protocol):
    """Answers each request with the same; a request is what ends in an empty line."""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._transport.write(ANSWER * data.count(b"\r\n\r\n"))


@asynccontextmanager
async def server(settings: dict[str, Any]) -> AsyncIterator[Mapping[str, Deed]]:
    """Be the server; tells its port."""
    listening = await asyncio.get_running_loop().create_server(_Server, "127.0.0.1", 0)

    async def port() -> int:
        return int(listening.sockets[0].getsockname()[1])

    async with listening:
        yield {"port": port}


class _Loop(asyncio.Protocol):
    """A connection that does what must be done, and nothing if anything goes wrong."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._parser = HttpResponseParser(self)
        self._body = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        self._waiter.set_result(self._body)

    async def fetch(self, request: bytes) -> bytes:
        self._body = b""
        self._waiter: asyncio.Future[bytes] = self._loop.create_future()
        self._transport.write(request)
        return await self._waiter


@asynccontextmanager
async def with_loop(port: int) -> AsyncIterator[Fetch]:
    """The least that can be done, and no client: one request, made once, on connections that are kept."""
    request = f"GET {PATH} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUser-Agent: bare\r\n\r\n".encode()
    free: deque[_Loop] = deque()

    async def fetch() -> bytes:
        connection = free.pop() if free else await _connected(port)
        body = await connection.fetch(request)
        free.append(connection)
        return body

    yield fetch
    for connection in free:
        connection._transport.close()


async def _connected(port: int) -> _Loop:
    _, connection = await asyncio.get_running_loop().create_connection(_Loop, "127.0.0.1", port)
    return connection


@asynccontextmanager
async def with_aiohttp(port: int) -> AsyncIterator[Fetch]:
    """The session of aiohttp, without a timeout, and with as many connections as calls."""
    url, connector = f"http://127.0.0.1:{port}", aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(url, connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as session:

        async def fetch() -> bytes:
            async with session.get(PATH) as response:
                return await response.read()

        yield fetch


@asynccontextmanager
async def with_pyreqwest(port: int) -> AsyncIterator[Fetch]:
    """reqwest, the client of Rust, as pyreqwest binds it."""
    async with ClientBuilder().base_url(f"http://127.0.0.1:{port}").http1_only().build() as client:

        async def fetch() -> object:
            response = await client.get(PATH).build().send()
            return await response.bytes()

        yield fetch


@asynccontextmanager
async def with_ry(port: int) -> AsyncIterator[Fetch]:
    """reqwest, as ry binds it."""
    client, url = ry.Client(http1_only=True), f"http://127.0.0.1:{port}{PATH}"

    async def fetch() -> object:
        response = await client.get(url)
        return await response.bytes()

    yield fetch


@asynccontextmanager
async def with_wreq(port: int) -> AsyncIterator[Fetch]:
    """wreq, which goes back to reqwest and was rnet before."""
    client, url = wreq.Client(http1_only=True), f"http://127.0.0.1:{port}{PATH}"

    async def fetch() -> object:
        response = await client.get(url)
        return await response.bytes()

    yield fetch


@asynccontextmanager
async def with_covey(port: int) -> AsyncIterator[Fetch]:
    """covey's client: its whole policy, deadline of the caller, correlation, trace and token."""
    url = f"http://127.0.0.1:{port}"
    async with HttpClient.open("user", url, caller="bench", token="x" * 200) as client:

        async def fetch() -> bytes:
            return (await client.send("GET", PATH)).body

        yield fetch


FLOOR = "hand-made loop"
PEERS = {"aiohttp": with_aiohttp, "pyreqwest": with_pyreqwest, "ry": with_ry, "wreq": with_wreq}
CLIENTS = {"covey": with_covey, **PEERS, FLOOR: with_loop}


@asynccontextmanager
async def caller(settings: dict[str, Any]) -> AsyncIterator[Mapping[str, Deed]]:
    """Be who calls: over HTTP, and what does nothing, to see what policies cost."""
    async with AsyncExitStack() as stack:
        clients = {name: await stack.enter_async_context(make(settings["port"])) for name, make in CLIENTS.items()}

        async def calls(client: str, in_flight: int, seconds: float) -> float:
            return await _rate(clients[client], in_flight, seconds)

        yield {"calls": calls, "policies": policies}


async def _rate(fetch: Fetch, in_flight: int, seconds: float) -> float:
    begun = time.perf_counter()
    ends = begun + seconds

    async def one() -> int:
        done = 0
        while time.perf_counter() < ends:
            if await fetch() != CONTENT:
                raise RuntimeError("that is not what was asked for")
            done += 1
        return done

    with context.use(replace(context.new_context(), deadline=SystemClock().now() + DEADLINE)):
        counts = await asyncio.gather(*(one() for _ in range(in_flight)))
    return sum(counts) / (time.perf_counter() - begun)


async def policies(number: int) -> dict[str, float]:
    """Return what a call costs in µs beyond the call itself, through covey's policy and through what is assembled."""
    policy = Policy("nothing", PolicyOptions(), SystemClock())
    direct = await _us(lambda: _nothing(1.0), number)
    return {
        "covey": await _us(lambda: policy.call(_nothing, repeatable=True), number) - direct,
        "assembled": await _us(assembled(), number // 10) - direct,
    }


def assembled() -> Callable[[], Awaitable[None]]:
    """Return a call through tenacity, circuitbreaker, asyncio.timeout and a semaphore, as one wires them up."""
    breaker = circuitbreaker.CircuitBreaker(failure_threshold=20, recovery_timeout=5)
    places = asyncio.Semaphore(64)
    retry = tenacity.retry(
        stop=tenacity.stop_after_attempt(3),
        wait=tenacity.wait_random_exponential(multiplier=0.05, max=1),
        retry=tenacity.retry_if_exception_type(OSError),
        reraise=True,
    )

    @retry
    @breaker
    async def call() -> None:
        async with places, asyncio.timeout(2):
            await _nothing(2.0)

    async def whole() -> None:
        async with asyncio.timeout(5):
            await call()

    return whole


async def _nothing(seconds: float) -> None:
    return None


async def _us(call: Callable[[], Awaitable[None]], number: int) -> float:
    begun = time.perf_counter()
    for _ in range(number):
        await call()
    return (time.perf_counter() - begun) / number * 1e6


if __name__ == "__main__":
    play({"server": server, "caller": caller})
