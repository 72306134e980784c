"""The broker on Valkey Streams: one stream for each service, appended to by a script, read from a position with XREAD.

What it promises depends on how the server writes. With `appendonly yes` and `appendfsync always` what is confirmed is
on the disk, as long as that is one server: a failover to a replica may lose what was confirmed. With anything less
every start of the server may have lost messages, and readers are told so (HistoryLost), whether it has or not. What a
stream holds is in the server's memory: `maxmemory-policy noeviction`, or it may throw a whole stream away.
docs/patterns/valkey-streams.md says more. Valkey, or Redis 7 and newer.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from functools import lru_cache
from typing import Self

from covey.errors import BrokerUnavailable, ConfigurationError, DefinitionError
from covey.message import Envelope
from covey.messaging.broker import Extent, Reader, Topic
from covey.messaging.brokers.valkey_entries import Outgoing, outgoing
from covey.messaging.brokers.valkey_reader import BLOCK_SECONDS, SILENT_SECONDS, ValkeyReader
from covey.messaging.brokers.valkey_streams import Keeping, Keys, Streams, keeping_of, translated
from covey.messaging.ending import end
from covey.valkey.client import Valkey, ValkeyOptions

ANSWER = timedelta(seconds=5)
"""How long the server may be silent when it was asked something."""

APPEND_MOST = 500
"""So many messages are appended in one step, in which the server does nothing else: some milliseconds."""

APPEND_BYTES = 4 * 2**20
"""About so much is appended in one step."""

TRIM_SECONDS = 60.0

_WORD = re.compile(r"[A-Za-z0-9_-]+")

_log = logging.getLogger(__name__)


class ValkeyBroker:
    """A Broker on one Valkey server. Open it with `ValkeyBroker.open`, `close` it when the service stops."""

    def __init__(self, valkey: Valkey, system: str, reader: str, keeping: Keeping, opened: AsyncExitStack) -> None:
        self._valkey = valkey
        self._system = system
        self._reader = reader
        self._streams = Streams(valkey, keeping)
        self._told_seconds = keeping.told.total_seconds()
        self._opened = opened
        self._closed = False
        self._readers: set[ValkeyReader] = set()
        self._known: set[str] = set()
        self._trimming = asyncio.create_task(self._trim_now_and_then(), name="trimming of Valkey streams")

    @classmethod
    async def open(cls, url: str, system: str, *, reader: str = "", keeping: Keeping | None = None) -> Self:
        """Connect to the server of `url` for the streams of `system`; a server that is away does not keep it from that.

        Until there is a connection everything raises BrokerUnavailable. `reader` is the name under which positions are
        told to the streams, that of the service: what it has not read is then not trimmed early (`Keeping`), where the
        address says that anything is: `?keep_read_hours=24`.
        Raises ConfigurationError for a malformed url or system, and for a password that opens nothing.
        """
        if not _WORD.fullmatch(system):
            raise ConfigurationError(f"the system name {system!r} may have letters, digits and dashes only")
        keeping = keeping or keeping_of(url)
        async with AsyncExitStack() as stack:
            options = ValkeyOptions(name=f"covey-broker-{reader or system}", answer=ANSWER)
            valkey = await stack.enter_async_context(Valkey.open(url, options))
            return cls(valkey, system, reader, keeping, stack.pop_all())

    async def ensure_stream(self, stream: str) -> None:
        """See Broker.ensure_stream. Whose log or memory of it was lost is made anew, as another one."""
        keys = self._keys(stream)
        with translated(f"creating the stream {keys.log}"):
            await self._streams.settle(keys, make=True)
        self._known.add(stream)

    async def publish(self, envelopes: Sequence[Envelope]) -> None:
        """See Broker.publish. Up to 500 messages of a stream are stored in one step, all or none."""
        self._check_open()
        streams: dict[str, list[Outgoing]] = {}
        for envelope in envelopes:
            _require_type(envelope.type)
            streams.setdefault(envelope.stream, []).append(outgoing(envelope))
        outcomes = await asyncio.gather(
            *(self._publish(stream, messages) for stream, messages in streams.items()), return_exceptions=True
        )
        for failure in filter(None, outcomes):
            raise failure

    @asynccontextmanager
    async def read(self, stream: str, topics: Collection[Topic], after: int) -> AsyncIterator[Reader]:
        """See Broker.read. The reader has a connection of its own; a server that is silent for 3 s ends it."""
        if not topics:
            raise DefinitionError(f"reading {stream} takes at least one topic")
        keys = self._keys(stream)
        async with AsyncExitStack() as stack:
            with translated(f"reading {stream}"):
                extent = await self._streams.settle(keys)
                answer = timedelta(seconds=BLOCK_SECONDS + SILENT_SECONDS)
                connection = await stack.enter_async_context(self._valkey.connected(answer))
                reader = ValkeyReader(
                    connection, keys, stream, extent, topics, after, lambda: self._streams.settle(keys)
                )
                await reader.introduce(self._reader, self._told_seconds)
            self._check_open()
            self._readers.add(reader)
            try:
                yield reader
            finally:
                self._readers.discard(reader)
                await reader.close()

    async def extent(self, stream: str) -> Extent:
        """See Broker.extent."""
        keys = self._keys(stream)
        with translated(f"asking for the extent of {keys.log}"):
            return await self._streams.settle(keys)

    async def trim(self, stream: str) -> int:
        """Drop from a stream what is too old (`Keeping`); return the first sequence that stays, 0 if all does.

        Every broker does so each minute for the streams that it has ensured.
        """
        keys = self._keys(stream)
        with translated(f"trimming {keys.log}"):
            return await self._streams.trim(keys)

    async def close(self) -> None:
        """See Broker.close. Closing twice is harmless."""
        self._closed = True
        for reader in list(self._readers):
            await reader.close()
        await end([self._trimming])
        await self._opened.aclose()

    async def _publish(self, stream: str, messages: Sequence[Outgoing]) -> None:
        """Append to one stream, one step after the other, so that no message is stored without those before it."""
        keys = self._keys(stream)
        with translated(f"publishing into {keys.log}"):
            for step in _steps(messages):
                await self._streams.append(keys, step)

    async def _trim_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(TRIM_SECONDS)
            for stream in list(self._known):
                try:
                    await self.trim(stream)
                except BrokerUnavailable as error:
                    _log.debug("%s", error)

    def _check_open(self) -> None:
        if self._closed:
            raise BrokerUnavailable("the broker is closed")

    def _keys(self, stream: str) -> Keys:
        self._check_open()
        if not _WORD.fullmatch(stream):
            raise DefinitionError(f"{stream!r} names no stream: it may have letters, digits and dashes only")
        return Keys(self._system, stream)


def _steps(messages: Sequence[Outgoing]) -> Iterator[Sequence[Outgoing]]:
    first, size = 0, 0
    for number, message in enumerate(messages):
        if number - first == APPEND_MOST or (size and size + message.size_bytes > APPEND_BYTES):
            yield messages[first:number]
            first, size = number, 0
        size += message.size_bytes
    if first < len(messages):
        yield messages[first:]


@lru_cache(maxsize=1024)
def _require_type(message_type: str) -> None:
    words = message_type.split(".")[1:]
    if not words or not all(map(_WORD.fullmatch, words)):
        raise DefinitionError(f"the type {message_type!r} must read like 'order.placed.v1'")
