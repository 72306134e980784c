"""Ingest: stores what a stream holds for this service, together with the position, in one transaction.

One replica has this role for a stream. There are no acknowledgements: after a crash, a lost connection or a gap
it reads on from the stored position, so the broker never redelivers and order is never disturbed. A reader that
was overtaken finds the position moved and stores nothing (H9). What the inbox knows already is dropped (H4).
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable, Collection

import structlog

from covey.database.errors import translated
from covey.database.pool import Connection, Database
from covey.errors import CoveyError, HistoryLost
from covey.messaging.broker import Broker, Entry, Reader, Topic
from covey.messaging.delivery import Received
from covey.messaging.observation import Observation
from covey.messaging.options import MessagingOptions
from covey.messaging.storable import storable
from covey.messaging.turn import Turns

_POSITION = """
WITH new AS (INSERT INTO covey.ingest (stream, sequence) VALUES ($1, 0) ON CONFLICT DO NOTHING RETURNING sequence)
SELECT sequence FROM new UNION ALL SELECT sequence FROM covey.ingest WHERE stream = $1
"""
# Only while nothing of it was read: so an operator who sets the position back accepts the stream that is there.
_BEGIN = "UPDATE covey.ingest SET incarnation = $2 WHERE stream = $1 AND sequence = 0"
_INCARNATION = "SELECT incarnation FROM covey.ingest WHERE stream = $1"

IDLE_SECONDS = 10.0
TURN_SECONDS = 1.0
"""So long a turn may keep the stream's next messages from being stored; then it is rolled back and left to workers."""
LONG_TURN_SECONDS = 0.25
"""After a turn of this length messages are only stored, for workers to share, for `REST` times its length."""
REST = 20

log = structlog.get_logger("covey.messaging")


class Ingest:
    """Reads one stream for one service. A service new to a stream begins with the oldest message held (H12)."""

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
        self._topics = topics
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
            with translated():
                position = int(await connection.fetchval(_POSITION, self.stream))
            async with self._broker.read(self.stream, self._topics, position) as reader:
                await self._require_history(connection, position)
                while True:
                    entries = await self._next(reader)
                    upto = entries[-1].sequence if entries else reader.position
                    if upto > position:
                        await self._take_in(connection, _received(self.stream, position, upto, entries))
                        position = upto

    async def _next(self, reader: Reader) -> list[Entry]:
        """Wait for messages, at times in vain: then the position moves over what is not for us, or it would age."""
        try:
            async with asyncio.timeout(IDLE_SECONDS):
                return await reader.next(self._options.read_batch)
        except TimeoutError:
            return []

    async def _require_history(self, connection: Connection, position: int) -> None:
        """Raise HistoryLost when the stream no longer fits our position: silence here would be lost events.

        Asked once the reader is open: a stream that is made anew from then on ends the reader.
        """
        extent = await self._broker.extent(self.stream)
        with translated():
            if position == 0:
                await connection.execute(_BEGIN, self.stream, extent.incarnation)
            known = await connection.fetchval(_INCARNATION, self.stream)
        if known != extent.incarnation:
            raise self._lost(
                f"was deleted and made anew, and this service has read up to {position} of the one before:"
                " what this one holds up to there would be passed over"
            )
        if position > 0 and extent.first > position + 1:
            raise self._lost(
                f"holds messages from {extent.first} on, and this service has read up to {position}:"
                " what lies between has outlived the stream's retention"
            )
        if extent.lost(position):
            end = next((after for after, upto in extent.gaps if position <= upto), extent.last)
            raise self._lost(
                f"ends at {end}, and this service has read up to {position}: the broker has lost messages"
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
