"""Ingest: stores what a stream holds for this service, together with the position, in one transaction.

One replica has this role for a stream. There are no acknowledgements: after a crash, a lost connection or a gap
it reads on from the stored position, so the broker never redelivers and order is never disturbed. A reader that
was overtaken finds the position moved and stores nothing (H9). What the inbox knows already is dropped (H4). Topics
that lag behind, because a version had the role that does not handle them, are read first (H12).
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable, Collection

import orjson
import structlog

from covey.database.errors import translated
from covey.database.pool import Connection, Database
from covey.errors import CoveyError, Fenced, HistoryLost
from covey.messaging.broker import Broker, Entry, Reader, Topic
from covey.messaging.delivery import Received
from covey.messaging.observation import Observation
from covey.messaging.options import MessagingOptions
from covey.messaging.position import Position
from covey.messaging.storable import storable
from covey.messaging.turn import Turns

_APPEAR = "INSERT INTO covey.ingest (stream, sequence) VALUES ($1, 0) ON CONFLICT DO NOTHING"
_POSITION = "SELECT sequence, topics, others FROM covey.ingest WHERE stream = $1"
# For which topics this session moves the position: for others it cannot.
_SAY = "SELECT set_config('covey.topics', $1, false)"
_TAKE_UP = """
UPDATE covey.ingest SET sequence = $2, topics = $3, others = $4
WHERE stream = $1 AND sequence = $5 AND topics = $6 AND others = $7
"""
# Only while nothing of it was read: so an operator who sets the position back accepts the stream that is there.
_BEGIN = "UPDATE covey.ingest SET incarnation = $2 WHERE stream = $1 AND sequence = 0"
_INCARNATION = "SELECT incarnation FROM covey.ingest WHERE stream = $1"

IDLE_SECONDS = 10.0
BEHIND_SECONDS = 0.1
"""So long to wait for a message of a topic that lags behind: others wait for it, and there may be none."""
TURN_SECONDS = 1.0
"""So long a turn may keep the stream's next messages from being stored; then it is rolled back and left to workers."""
LONG_TURN_SECONDS = 0.25
"""After a turn of this length messages are only stored, for workers to share, for `REST` times its length."""
REST = 20

log = structlog.get_logger("covey.messaging")


class Ingest:
    """Reads one stream for one service. A stream or topic that is new to it begins with the oldest message (H12)."""

    def __init__(
        self,
        database: Database,
        broker: Broker,
        stream: str,
        topics: Collection[Topic],
        options: MessagingOptions,
        observation: Observation,
        turns: Turns,
        wake: Callable[[], None],
    ) -> None:
        self._database = database
        self._broker = broker
        self.stream = stream
        self._topics = {str(topic): topic for topic in topics}
        self._options = options
        self._observation = observation
        self._turns = turns
        self._wake = wake
        self._turn = asyncio.Lock()
        self._rest_until = 0.0
        self._stored_upto = 0
        self._draining = False
        self._failures = 0

    async def run(self) -> None:
        """Store until cancelled. Errors are logged and waited out, from where the database says we are."""
        try:
            while True:
                await self._store_until_it_fails()
                await asyncio.sleep(min(5.0, 0.1 * 2 ** min(self._failures, 6)) * random.uniform(0.5, 1.0))
        finally:
            self._observation.history_lost.pop(self.stream, None)  # whoever has the role now tells of it

    async def _store_until_it_fails(self) -> None:
        try:
            await self._store_all()
        except CoveyError as error:
            self._failures += 1
            log.warning("ingest_waits", stream=self.stream, error=f"{type(error).__name__}: {error}")

    async def drain(self) -> None:
        """Begin no turn any more and wait for the present one; what comes is stored."""
        self._draining = True
        async with self._turn:
            return

    async def _store_all(self) -> None:
        await self._broker.ensure_stream(self.stream)
        async with self._database.connected(application_name=f"covey ingest {self.stream}") as connection:
            while True:
                await self._store_until_level(connection, await self._take_up(connection))

    async def _take_up(self, connection: Connection) -> Position:
        """Read on from where this service is, for the topics of ours that are furthest behind."""
        with translated():
            await connection.execute(_APPEAR, self.stream)
            sequence, topics, others = await connection.fetchrow(_POSITION, self.stream)
            found = Position(sequence, frozenset(topics.split()), orjson.loads(others))
            position = found.taken_up(self._topics.keys())
            now = " ".join(sorted(position.topics))
            await connection.execute(_SAY, now)
            if position != found:
                args = (position.sequence, now, orjson.dumps(position.others).decode(), sequence, topics, others)
                if await connection.execute(_TAKE_UP, self.stream, *args) != "UPDATE 1":
                    raise Fenced(f"another reader is ahead in the stream {self.stream}")
        return position

    async def _store_until_level(self, connection: Connection, position: Position) -> None:
        """Store what comes; return when the topics of this position have come as far as others of ours were read."""
        level = position.until(self._topics.keys())
        topics = [self._topics[name] for name in sorted(position.topics)]
        async with self._broker.read(self.stream, topics, position.sequence) as reader:
            await self._require_history(connection, position)
            if level is not None:
                names = sorted(position.topics)
                log.info("ingest_catches_up", stream=self.stream, topics=names, after=position.sequence, upto=level)
            place = position.sequence
            while level is None or place < level:
                entries = await self._next(reader, IDLE_SECONDS if level is None else BEHIND_SECONDS)
                upto = entries[-1].sequence if entries else reader.position
                if level is not None and upto > level:
                    upto, entries = level, [entry for entry in entries if entry.sequence <= level]
                if upto > place:
                    await self._take_in(connection, _received(self.stream, place, upto, entries))
                    place = upto

    async def _next(self, reader: Reader, seconds: float) -> list[Entry]:
        """Wait for messages, at times in vain: then the position moves over what is not for us, or it would age."""
        try:
            async with asyncio.timeout(seconds):
                return await reader.next(self._options.read_batch)
        except TimeoutError:
            return []

    async def _require_history(self, connection: Connection, position: Position) -> None:
        """Raise HistoryLost when the stream no longer fits our position: silence here would be lost events.

        Asked once the reader is open: a stream that is made anew from then on ends the reader. A topic that lags behind
        may be older than what the stream holds: no version has wanted it since, and it begins with the oldest.
        """
        extent = await self._broker.extent(self.stream)
        with translated():
            if position.untouched():
                await connection.execute(_BEGIN, self.stream, extent.incarnation)
            known = await connection.fetchval(_INCARNATION, self.stream)
        head = position.head(self._topics.keys())
        if known != extent.incarnation:
            raise self._lost(
                f"was deleted and made anew, and this service has read up to {head} of the one before:"
                " what this one holds up to there would be passed over"
            )
        if head > 0 and extent.first > head + 1:
            raise self._lost(
                f"holds messages from {extent.first} on, and this service has read up to {head}:"
                " what lies between has outlived the stream's retention"
            )
        for place in sorted({head, *map(position.of, self._topics)}):
            if extent.lost(place):
                end = next((after for after, upto in extent.gaps if place <= upto), extent.last)
                raise self._lost(
                    f"ends at {end}, and this service has read up to {place}: the broker has lost messages"
                    " that it had confirmed"
                )
        self._observation.history_lost.pop(self.stream, None)
        # What was there before us may be what our predecessor died of: once it is stored, that is seen (decision 0007).
        self._stored_upto = extent.last

    def _lost(self, what: str) -> HistoryLost:
        text = f"the stream {self.stream} {what}. See docs/patterns/delivery.md, 'When history is lost'"
        self._observation.history_lost[self.stream] = text
        return HistoryLost(text)

    async def _take_in(self, connection: Connection, received: Received) -> None:
        with self._observation.storing(self.stream, len(received.envelopes)):
            left = await self._handle_or_store(connection, received)
        self._failures = 0
        if left:
            self._wake()

    async def _handle_or_store(self, connection: Connection, received: Received) -> int:
        """Handle a few messages at once; leave many, and those of slow handlers, to the workers of all replicas."""
        if self._may_handle(received):
            async with self._turn:
                left = await self._handle(connection, received)
            if left is not None:
                return left
        await self._turns.store(connection, received)
        self._rest_until = min(self._rest_until, time.monotonic() + REST * TURN_SECONDS)
        return len(received.envelopes)

    def _may_handle(self, received: Received) -> bool:
        few = 0 < len(received.envelopes) <= self._options.batch
        fresh = received.upto > self._stored_upto
        return few and fresh and not self._draining and time.monotonic() >= self._rest_until

    async def _handle(self, connection: Connection, received: Received) -> int | None:
        """Handle in a transaction with the storing; return how many are left, or None when it took too long.

        A turn that ends in an error, a lost connection say, may do so again: from then on messages are only stored,
        until that has succeeded, so that a message which harms the connection stops none of another key.
        """
        begun, self._rest_until = time.monotonic(), math.inf
        try:
            async with asyncio.timeout(TURN_SECONDS):
                left: int | None = await self._turns.receive(connection, received)
        except TimeoutError:
            left = None
        spent = time.monotonic() - begun
        self._rest_until = begun + REST * spent if spent > LONG_TURN_SECONDS else 0.0
        return left


def _received(stream: str, after: int, upto: int, entries: list[Entry]) -> Received:
    return Received(stream, after, upto, [storable(entry.envelope) for entry in entries])
