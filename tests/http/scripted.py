"""A server that says what it is told to, byte by byte: what no library would send, and what a broken one does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

Reply = bytes | Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
"""What is written for a request; or what is done with the connection, which is closed when that returns."""


class Scripted:
    """The requests that came, and on which connection: `seen` has their bytes, `connections` counts."""

    def __init__(self, replies: list[Reply]) -> None:
        self._replies = replies
        self.seen: list[bytes] = []
        self.connections = 0
        self.closed = 0
        self.url = ""
        self.tasks: set[asyncio.Task[None] | None] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of a connection; the last reply again and again."""
        self.connections += 1
        self.tasks.add(asyncio.current_task())
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = next(
                    (int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
                )
                self.seen.append(head + await reader.readexactly(length))
                reply = self._replies.pop(0) if len(self._replies) > 1 else self._replies[0]
                if not isinstance(reply, bytes):
                    await reply(reader, writer)
                    break
                writer.write(reply)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.closed += 1
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()


@asynccontextmanager
async def scripted(*replies: Reply, port: int = 0) -> AsyncIterator[Scripted]:
    """Serve what was scripted inside the block, on a free port unless one is given."""
    script = Scripted(list(replies))
    server = await asyncio.start_server(script.serve, "127.0.0.1", port)
    try:
        script.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield script
    finally:
        server.close()
        for task in filter(None, script.tasks):
            task.cancel()
        await asyncio.gather(*filter(None, script.tasks), return_exceptions=True)


def answer(content: bytes = b"{}", status: str = "200 OK", *headers: str) -> bytes:
    """Return an answer with a length."""
    lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {len(content)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Close the connection without a word."""


async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Cut the connection."""
    writer.transport.abort()


async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Keep the connection and send nothing, until the other side leaves."""
    await reader.read()


def cut_off_after(content: bytes) -> Reply:
    """Return what sends so much and closes the connection."""

    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(content)
        await writer.drain()

    return reply
