"""The broker in the memory of one process, for unit tests and for a whole system in one process.

It keeps the contract of covey.messaging.broker and promises nothing more: above all it does not recognize
duplicates, so that a consumer which relies on the broker for that is found out.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager

from covey.errors import BrokerUnavailable, DefinitionError
from covey.ids import new_id
from covey.message import Envelope
from covey.messaging.broker import Entry, Extent, Reader, Topic


class MemoryLogs:
    """The streams that the brokers of one process share: give the same to each `MemoryBroker`. One event loop only."""

    def __init__(self) -> None:
        self._logs: dict[str, _Log] = {}

    def drop(self, stream: str, before: int) -> None:
        """Forget the messages before that sequence, as a broker's retention does."""
        log = self._logs[stream]
        log.entries = [entry for entry in log.entries if entry.sequence >= before]

    def lose(self, stream: str, after: int) -> None:
        """Forget the messages behind that sequence, as a broker does that was restored from a backup."""
        log = self._logs[stream]
        log.entries = [entry for entry in log.entries if entry.sequence <= after]
        log.last = min(log.last, after)

    def delete(self, stream: str) -> None:
        """Delete a stream, which ends its readers; made again it is another one."""
        self._logs.pop(stream).wake()


class MemoryBroker:
    """A Broker for one service of the process. Closing it leaves the logs to the others."""

    def __init__(self, logs: MemoryLogs | None = None) -> None:
        self._logs = (logs or MemoryLogs())._logs
        self._closed = False

    async def ensure_stream(self, stream: str) -> None:
        """See Broker.ensure_stream."""
        self._check_open()
        self._logs.setdefault(stream, _Log())

    async def publish(self, envelopes: Sequence[Envelope]) -> None:
        """See Broker.publish. Stores all or, when a stream is missing, nothing."""
        await asyncio.sleep(0)  # a real broker lets others run in between
        stored = [(self._log(envelope.stream), envelope) for envelope in envelopes]
        for log, envelope in stored:
            log.append(envelope)

    @asynccontextmanager
    async def read(self, stream: str, topics: Collection[Topic], after: int) -> AsyncIterator[Reader]:
        """See Broker.read."""
        if not topics:
            raise DefinitionError(f"reading {stream} takes at least one topic")
        yield _MemoryReader(self, stream, topics, after)

    async def extent(self, stream: str) -> Extent:
        """See Broker.extent."""
        log = self._log(stream)
        return Extent(log.entries[0].sequence if log.entries else log.last + 1, log.last, log.incarnation)

    async def close(self) -> None:
        """See Broker.close."""
        self._closed = True
        for log in self._logs.values():
            log.wake()

    def _check_open(self) -> None:
        if self._closed:
            raise BrokerUnavailable("the broker is closed")

    def _log(self, stream: str) -> _Log:
        self._check_open()
        if stream not in self._logs:
            raise BrokerUnavailable(f"there is no stream {stream}; ensure_stream makes one")
        return self._logs[stream]


class _Log:
    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.last = 0
        self.incarnation = str(new_id())
        self._changed = asyncio.Event()

    def append(self, envelope: Envelope) -> None:
        self.last += 1
        self.entries.append(Entry(self.last, envelope))
        self.wake()

    def behind(self, position: int) -> Sequence[Entry]:
        return self.entries[bisect_right(self.entries, position, key=lambda entry: entry.sequence) :]

    def wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def change(self) -> None:
        await self._changed.wait()


class _MemoryReader:
    def __init__(self, broker: MemoryBroker, stream: str, topics: Collection[Topic], after: int) -> None:
        self._broker = broker
        self._stream = stream
        self._topics = topics
        self._log = broker._log(stream)
        self.position = after

    async def next(self, limit: int) -> list[Entry]:
        """See Reader.next."""
        while True:
            if self._broker._log(self._stream) is not self._log:
                raise BrokerUnavailable(f"reading {self._stream} ended: the stream was deleted")
            if entries := self._take(limit):
                return entries
            await self._log.change()

    def _take(self, limit: int) -> list[Entry]:
        taken: list[Entry] = []
        for entry in self._log.behind(self.position):
            self.position = entry.sequence
            if any(topic.matches(entry.envelope) for topic in self._topics):
                taken.append(entry)
            if len(taken) == limit:
                break
        return taken
