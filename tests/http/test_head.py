"""A request's head is bounded in size and time, and nothing that comes after the body becomes a part of it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from covey.http.head import BoundedHead

WHOLE = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
SECONDS = 0.3


class Impatient(BoundedHead):
    """Waits for a head no longer than a test does."""

    seconds = SECONDS


async def heads(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the names of the headers, once the body is there; to `/slow` after longer than a head may take."""
    while (await receive()).get("more_body"):
        pass
    if scope["path"] == "/slow":
        await asyncio.sleep(2 * SECONDS)
    body = b" ".join(name for name, _ in scope["headers"])
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Connect to a server of `heads` that is impatient."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(heads, http=Impatient, lifespan="off", log_config=None))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(server.serve([listening]))
            while not server.started:  # noqa: ASYNC110 - uvicorn tells nobody when it has started
                await asyncio.sleep(0.005)
            reader, writer = await asyncio.open_connection(*listening.getsockname())
            yield reader, writer
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
            server.should_exit = True


@pytest.mark.parametrize("piece", [b"X-Long: " + b"a" * 1000 + b"\r\n", b"a" * 1000])
async def test_a_head_that_never_ends_is_cut_off(piece: bytes) -> None:
    async with connected() as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nX-First: ")
        sent = 0
        with suppress(ConnectionError):
            while not reader.at_eof() and sent < 2_000_000:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
                sent += len(piece)

        assert sent < 2_000_000


async def test_a_head_that_is_too_long_is_told_so() -> None:
    async with connected() as (reader, writer):
        writer.write(WHOLE + b"GET / HTTP/1.1\r\nX-Long: ")
        await reader.readuntil(b"\r\n\r\nhost")
        writer.write(b"a" * (BoundedHead.max_bytes + 1))

        assert (await reader.read()).startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize("beginning", [b"", b"\r\n", b"GET / HT", WHOLE[:-2]])
async def test_a_connection_that_sends_no_whole_head_is_closed(beginning: bytes) -> None:
    async with connected() as (reader, writer):
        writer.write(beginning)

        async with asyncio.timeout(20 * SECONDS):
            assert await reader.read() == b""


async def test_a_request_may_take_as_long_as_it_takes() -> None:
    """Also when the head of the next one has begun."""
    async with connected() as (reader, writer):
        writer.write(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\nGET / HT")

        assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")


async def test_many_requests_on_one_connection_are_each_counted_from_their_beginning() -> None:
    long = b"X-Long: " + b"a" * (BoundedHead.max_bytes // 2) + b"\r\n\r\n"
    async with connected() as (reader, writer):
        for _ in range(5):
            for piece in (WHOLE[:-2], long):
                writer.write(piece)
                await writer.drain()
            assert (await reader.readuntil(b"host x-long")).startswith(b"HTTP/1.1 200 ")


async def test_a_trailer_is_no_header() -> None:
    async with connected() as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        writer.write(b"2\r\n{}\r\n0\r\nX-User: admin\r\n\r\n")
        answer = await reader.readuntil(b"transfer-encoding")
        writer.write(WHOLE[:-2] + b"X-Next: 1\r\n\r\n")

        assert answer.startswith(b"HTTP/1.1 200 ")
        assert (await reader.readuntil(b"host x-next")).startswith(b"HTTP/1.1 200 ")
