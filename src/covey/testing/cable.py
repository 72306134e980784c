"""A network that fails on demand: a TCP line to a server that can be frozen, thawed, cut and mended.

async with Cable.to(database_url) as cable, Database.open(cable.url) as database:
    cable.freeze()       # nothing flows and nothing is closed, as with a stopped process or a lost route
    cable.thaw()         # what was on its way arrives
    cable.cut()          # every connection is reset, new ones are refused, as with a process that was killed
    cable.mend()
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Self
from urllib.parse import urlsplit, urlunsplit

_CHUNK_BYTES = 65_536


class Cable:
    """One line; make it with `Cable.to`. `url` is the server's, by way of this line."""

    def __init__(self, url: str) -> None:
        self._target = urlsplit(url)
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._cut = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.url = ""

    @classmethod
    @asynccontextmanager
    async def to(cls, url: str) -> AsyncIterator[Self]:
        """Lay a line to the server of `url` for as long as the block runs."""
        cable = cls(url)
        server = await asyncio.start_server(cable._accept, "127.0.0.1", 0)
        login = cable._target.netloc.rpartition("@")[0]
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        cable.url = urlunsplit(cable._target._replace(netloc=f"{login}@{address}" if login else address))
        try:
            yield cable
        finally:
            server.close()
            await cable._tear()

    def freeze(self) -> None:
        """Let nothing flow; connections stay open, also new ones."""
        self._flowing.clear()

    def thaw(self) -> None:
        """Let everything flow again, first what was held back."""
        self._flowing.set()

    def cut(self) -> None:
        """Reset all connections and refuse new ones."""
        self._cut = True
        for writer in self._writers:
            writer.transport.abort()

    def mend(self) -> None:
        """Let new connections through."""
        self._cut = False

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        if (connecting := asyncio.current_task()) is not None:
            self._tasks.add(connecting)
        try:
            if self._cut:
                raise ConnectionRefusedError
            there, thither = await asyncio.open_connection(self._target.hostname, self._target.port)
        except OSError:
            writer.transport.abort()
            return
        self._writers.add(thither)
        for source, sink in ((reader, thither), (there, writer)):
            self._tasks.add(asyncio.create_task(self._pump(source, sink)))

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(_CHUNK_BYTES):
                await self._flowing.wait()
                sink.write(data)
                await sink.drain()
            await self._flowing.wait()
        sink.close()

    async def _tear(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.gather(*(writer.wait_closed() for writer in self._writers), return_exceptions=True)
