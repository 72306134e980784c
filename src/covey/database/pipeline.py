"""BEGIN sent together with the statement after it, COMMIT with the one before it: two round trips less a transaction.

PostgreSQL runs what comes before one Sync in order and skips the rest after an error (PostgreSQL 18 documentation,
54.2.4, pipelining). So both mean what they mean by themselves: no statement runs without its BEGIN, and after one that
failed there is no COMMIT. asyncpg sends one statement at a time and leaves no room beside it; so both are put into the
bytes that it writes. Their answers are a part of the statement's own to it, whose tag is the last one: COMMIT.

Crash points. All is one write. What of it PostgreSQL has not received when the process dies has no Sync, so the
connection's end undoes it; what it has received whole it does, as it would a COMMIT that came alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import asyncpg

_SYNC = b"S\0\0\0\4"
_BEGIN, _COMMIT = "covey_begin", "covey_commit"
_TEXTS = {_BEGIN: "BEGIN", _COMMIT: "COMMIT"}


class Connection(asyncpg.Connection):  # type: ignore[misc]  # asyncpg carries no types
    """A connection that can begin with its next statement and commit with its next. Made by `connect`."""

    __slots__ = ("_prepared", "pipeline")

    def __init__(self, protocol: Any, transport: Any, *args: Any, **options: Any) -> None:
        super().__init__(protocol, transport, *args, **options)
        self.pipeline: Pipeline = transport
        self._prepared: list[Any] = []

    async def begin_with_next(self) -> None:
        """Put BEGIN before the next statement; the first time that takes two round trips."""
        if not self._prepared:
            try:
                self._prepared = [await self.prepare(text, name=name) for name, text in _TEXTS.items()]
            except BaseException:
                self.terminate()  # nobody knows which of them it has by now
                raise
        self.pipeline.begin_with_next()


async def connect(url: str, **options: Any) -> Connection:
    """Open a connection as `asyncpg.connect` does, with its errors."""
    loop: Any = _Loop(asyncio.get_running_loop())
    connection: Connection = await asyncpg.connect(url, loop=loop, connection_class=Connection, **options)
    return connection


class Pipeline:
    """What a connection writes through: a transport. The bytes are asyncpg's own unless something is to go along."""

    def __init__(self, transport: Any) -> None:
        self.transport = transport
        self._begins = False
        self._parameters: int | None = None

    @property
    def begins(self) -> bool:
        """Tell whether BEGIN still waits for a statement."""
        return self._begins

    def begin_with_next(self) -> None:
        """Put BEGIN before the next statement, of whatever kind."""
        self._begins = True

    def commit_with_next(self, parameters: int) -> None:
        """Put COMMIT after the next statement, should that have so many parameters.

        Others are questions of asyncpg's own, about types: let the statement have none that it does not know, and look
        at its tag, which is COMMIT if there was one.
        """
        self._parameters = parameters

    def forget(self) -> None:
        """Let nothing go along any more."""
        self._begins, self._parameters = False, None

    def write(self, data: Any) -> None:
        """See asyncio.WriteTransport."""
        if self._begins or self._parameters is not None:
            data = self._with_company(bytes(data))
        self.transport.write(data)

    def writelines(self, chunks: list[Any]) -> None:
        """See asyncio.WriteTransport. asyncpg writes so what is executed many times."""
        if self._begins or self._parameters is not None:
            self.write(b"".join(chunks))
        else:
            self.transport.writelines(chunks)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transport, name)

    def _with_company(self, data: bytes) -> bytes:
        """Return what asyncpg writes; with its company, unless it only prepares something."""
        kinds = dict(reversed(_messages(data)))
        if b"Q" in kinds:  # simple query: one message, in which what comes first is run first
            if self._begins:
                self._begins = False
                return _message(b"Q", b"BEGIN;" + kinds[b"Q"])
        elif b"B" in kinds:
            if self._parameters is not None and data.endswith(_SYNC) and _parameters(kinds[b"B"]) == self._parameters:
                self._parameters = None
                data = data[: -len(_SYNC)] + _RUN_COMMIT + _SYNC
            if self._begins:
                self._begins = False
                data = _RUN_BEGIN + data
        return data


class _Loop:
    """The running event loop, but for its connections, which write through a Pipeline."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.create_future = loop.create_future  # what each statement asks for
        self.call_later = loop.call_later

    async def create_connection(self, factory: Callable[[], Any], *args: Any, **options: Any) -> tuple[Any, Any]:
        """See asyncio."""
        _, between = await self._loop.create_connection(lambda: _Between(factory), *args, **options)
        return between.pipeline, between.protocol

    async def create_unix_connection(self, factory: Callable[[], Any], *args: Any, **options: Any) -> tuple[Any, Any]:
        """See asyncio."""
        _, between = await self._loop.create_unix_connection(lambda: _Between(factory), *args, **options)
        return between.pipeline, between.protocol

    async def start_tls(self, transport: Pipeline, *args: Any, **options: Any) -> Any:
        """See asyncio."""
        encrypted = await self._loop.start_tls(transport.transport, *args, **options)
        return encrypted and Pipeline(encrypted)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)


class _Between(asyncio.Protocol):
    """Stands in for a protocol until its connection is made."""

    def __init__(self, factory: Callable[[], Any]) -> None:
        self._factory = factory

    def connection_made(self, transport: Any) -> None:
        """See asyncio."""
        self.pipeline = Pipeline(transport)
        self.protocol = self._factory()
        transport.set_protocol(self.protocol)
        self.protocol.connection_made(self.pipeline)


def _messages(data: bytes) -> list[tuple[bytes, bytes]]:
    """Return the kinds and payloads of the messages that these bytes are (PostgreSQL 18 documentation, 54.7)."""
    found, at = [], 0
    while at < len(data):
        end = at + 1 + int.from_bytes(data[at + 1 : at + 5], "big")
        found.append((data[at : at + 1], data[at + 5 : end]))
        at = end
    return found


def _parameters(bind: bytes) -> int:
    """Return how many parameters a Bind message has: portal, statement, formats, and then their number."""
    at = bind.index(b"\0", bind.index(b"\0") + 1) + 1
    at += 2 + 2 * int.from_bytes(bind[at : at + 2], "big")
    return int.from_bytes(bind[at : at + 2], "big")


def _message(kind: bytes, payload: bytes) -> bytes:
    return kind + (len(payload) + 4).to_bytes(4, "big") + payload


def _run(statement: str) -> bytes:
    """Return the messages that run a prepared statement without parameters and rows: Bind and Execute."""
    return _message(b"B", b"\0" + statement.encode() + bytes(7)) + _message(b"E", bytes(5))


_RUN_BEGIN, _RUN_COMMIT = _run(_BEGIN), _run(_COMMIT)
