"""Reading a stream in order from a position, on a connection that blocks until something comes (XREAD).

After each read the reader looks whether the stream is still the one that it began in, so that it never goes on in
another one of that name. What arrives is chosen by topic here: Valkey cannot.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection
from typing import Any

from covey.errors import BrokerUnavailable
from covey.messaging.broker import Entry, Extent, Topic
from covey.messaging.brokers.valkey_entries import entry_of
from covey.messaging.brokers.valkey_streams import Keys, translated
from covey.valkey.connection import Connection

BLOCK_SECONDS = 1.0
"""So long a read waits; then the stream is looked at again."""

SILENT_SECONDS = 3.0
"""A server that has not answered for so long, though it should have after `BLOCK_SECONDS`, is given up."""

MOST = 1_000
"""So many messages are read at once, at most. A reader begins with one, and takes twice as many each time."""

AT_ONCE_BYTES = 4 * 2**20
"""About so much is read at once, and so much is in memory while the caller handles as much.

As if messages had the size of those before them: where large ones follow small ones, one read may be of a thousand.
"""


class ValkeyReader:
    """A Reader on a connection of its own."""

    def __init__(
        self,
        connection: Connection,
        keys: Keys,
        stream: str,
        extent: Extent,
        topics: Collection[Topic],
        after: int,
        extent_now: Callable[[], Awaitable[Extent]],
    ) -> None:
        self._connection = connection
        self._keys = keys
        self._stream = stream
        self._incarnation = extent.incarnation.encode()
        self._extent_now = extent_now
        self._behind = max(after, extent.first - 1)  # what had gone before is the caller's to ask: Extent.continues
        self._topics = topics
        self._position = self._fetched = after
        self._count = 1  # of a size that nobody knows yet; it doubles
        self._arrived: deque[tuple[int, Entry | None]] = deque()
        self._fetching: asyncio.Task[None] | None = None
        self._name = ""
        self._tell_seconds = 0.0
        self._told_at = 0.0
        self._told = after

    @property
    def position(self) -> int:
        """See Reader.position."""
        return self._position

    async def introduce(self, name: str, tell_seconds: float) -> None:
        """Have the stream keep, within its greatest age, what a reader of this name has not read; no name is none.

        How far it has come is told after `tell_seconds` at the earliest.
        """
        self._name, self._tell_seconds = name, tell_seconds
        if name:
            await self._connection.call("HSET", self._keys.readers, name, self._position)

    async def next(self, limit: int) -> list[Entry]:
        """See Reader.next."""
        self._tell()
        while True:
            if entries := self._take(limit):
                return entries
            if self._fetching is None:
                self._fetching = asyncio.create_task(self._fetch(), name=f"reading {self._stream}")
            await asyncio.wait([self._fetching])  # which a cancellation of this call does not end
            self._fetching.result()
            self._fetching = None

    async def close(self) -> None:
        """Stop. A call of `next` under way raises BrokerUnavailable."""
        self._connection.lose("the reader was closed")
        if self._fetching is not None:
            await asyncio.wait([self._fetching])
            _heeded(self._fetching)

    def _take(self, limit: int) -> list[Entry]:
        taken: list[Entry] = []
        while self._arrived and len(taken) < limit:
            self._position, entry = self._arrived.popleft()
            if entry is not None:
                taken.append(entry)
        return taken

    async def _fetch(self) -> None:
        """Wait for what comes behind what has arrived, for a while."""
        call, log = self._connection.call, self._keys.log
        with translated(f"reading {self._stream}"):
            block = int(BLOCK_SECONDS * 1_000)
            reading = call("XREAD", "COUNT", self._count, "BLOCK", block, "STREAMS", log, f"0-{self._fetched}")
            found, incarnation = await asyncio.gather(reading, call("HGET", self._keys.meta, "incarnation"))
        if incarnation != self._incarnation:
            raise BrokerUnavailable(f"reading {self._stream} ended: the stream was deleted, or has lost messages")
        if found:
            stored = found[log.encode()]
            if _sequence(self._stream, stored[0][0]) > self._behind + 1:
                with translated(f"reading {self._stream}"):
                    extent = await self._extent_now()
                if extent.first - 1 > self._behind:
                    raise BrokerUnavailable(f"reading {self._stream} ended: it dropped what was not read yet")
            self._arrive(stored)

    def _arrive(self, stored: list[tuple[bytes, list[bytes]]]) -> None:
        size = 0
        for place, fields in stored:
            sequence = _sequence(self._stream, place)
            self._arrived.append((sequence, entry_of(self._stream, sequence, fields, self._topics)))
            self._fetched = self._behind = sequence
            size += sum(map(len, fields))
        self._count = max(1, min(MOST, 2 * self._count, AT_ONCE_BYTES * len(stored) // max(1, size)))

    def _tell(self) -> None:
        """Say how far the caller has come: who asks for more has stored what it got. Said without waiting for it."""
        now = asyncio.get_running_loop().time()
        if self._name and self._position > self._told and now - self._told_at >= self._tell_seconds:
            if self._connection.lost.is_set():
                return
            telling = self._connection.call("HSET", self._keys.readers, self._name, self._position)
            telling.add_done_callback(_heeded)
            self._told, self._told_at = self._position, now


def _sequence(stream: str, place: bytes) -> int:
    first, _, sequence = place.partition(b"-")
    if first != b"0":
        raise BrokerUnavailable(f"somebody else has written into the stream {stream}: it holds an entry {place!r}")
    return int(sequence)


def _heeded(outcome: asyncio.Future[Any]) -> None:
    _ = outcome.cancelled() or outcome.exception()  # or the loop complains that nobody has asked
