"""A TCP proxy in front of one engine, for one process: what passes through it can be seen, held, delayed and cut."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import count
from typing import Self

from tests.wire.exchange import Exchange, Open, Session, Stage, Tap

READ_BYTES = 262_144


class Line:
    """Two sockets, one to the process and one to the server, until either closes."""

    def __init__(self, session: Session, process: Socket, server: Socket) -> None:
        self.session = session
        self.process = process
        self.server = server

    def cut(self) -> None:
        """Close both at once; what is on its way is lost."""
        self.process.writer.transport.abort()
        self.server.writer.transport.abort()


class Socket:
    """One end of a line."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def read(self) -> bytes:
        """Return what has arrived, b"" at the end."""
        return await self.reader.read(READ_BYTES)

    async def write(self, data: bytes) -> None:
        """Hand data to the kernel."""
        self.writer.write(data)
        await self.writer.drain()


Speak = Callable[[Line, Tap], Awaitable[None]]
"""Carry everything that is said on a line, in the protocol of the server, past the tap."""


class Proxy:
    """Listens on `port` and speaks to the server at `host`:`server_port`. Open it with `await Proxy.open(...)`."""

    def __init__(self, host: str, server_port: int, speak: Speak) -> None:
        self.tap: Tap = Open()
        self._server_address = (host, server_port)
        self._speak = speak
        self._lines: set[Line] = set()
        self._numbers = count(1)
        self._refusing = False
        self._listener: asyncio.Server
        self._talks: set[asyncio.Task[None]] = set()

    @classmethod
    async def open(cls, host: str, server_port: int, speak: Speak) -> Self:
        """Listen on a free port."""
        proxy = cls(host, server_port, speak)
        proxy._listener = await asyncio.start_server(proxy._accept, "127.0.0.1", 0)
        return proxy

    @property
    def port(self) -> int:
        """Return where it listens."""
        port: int = self._listener.sockets[0].getsockname()[1]
        return port

    async def passes(self, stage: Stage, exchange: Exchange) -> bool:
        """Ask the present tap, also on lines that are older than it."""
        return await self.tap.passes(stage, exchange)

    def cut(self) -> None:
        """Close every line at once, and refuse new ones until `mend`."""
        self._refusing = True
        for line in list(self._lines):
            line.cut()

    def mend(self) -> None:
        """Take new lines again."""
        self._refusing = False

    async def close(self) -> None:
        """Cut, and stop to listen."""
        self.cut()
        self._listener.close()
        for talk in list(self._talks):
            talk.cancel()
        await asyncio.gather(*self._talks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talk = asyncio.create_task(self._talk(Socket(reader, writer)), name="line")
        self._talks.add(talk)
        talk.add_done_callback(self._talks.discard)
        talk.add_done_callback(lambda _: writer.transport.abort())  # also of one that was cancelled before it began

    async def _talk(self, process: Socket) -> None:
        if self._refusing:
            return
        with suppress(OSError, asyncio.IncompleteReadError):
            line = Line(
                Session(next(self._numbers)), process, Socket(*await asyncio.open_connection(*self._server_address))
            )
            self._lines.add(line)
            try:
                if not self._refusing:
                    await self._speak(line, self)
            finally:
                self._lines.discard(line)
                line.cut()


async def both(*directions: Awaitable[None]) -> None:
    """Run both directions of a line; when one ends, whatever the reason, the other ends too."""
    tasks = [asyncio.ensure_future(direction) for direction in directions]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        with suppress(asyncio.CancelledError):
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(result, Exception):
                    raise result
