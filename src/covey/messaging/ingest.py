"""Ingest: stores what a stream holds for this service, together with the position, in one transaction.

One replica has this role for a stream. There are no acknowledgements: after a crash, a lost connection or a gap
it reads on from the stored position, so the broker never redelivers and order is never disturbed. A reader that
was overtaken finds the position moved and stores nothing (H9). What the inbox knows already is dropped (H4).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection

import structlog

from covey.database.errors import translated
from covey.database.pool import Connection, Database
from covey.errors import CoveyError, Fenced, HistoryLost
from covey.message import Envelope
from covey.messaging.broker import Broker, Entry, Reader, Topic
from covey.messaging.delivery import UNREADABLE
from covey.messaging.observation import Observation
from covey.messaging.options import MessagingOptions
from covey.work.inbox import inbox_columns

_STORE = "SELECT covey.store($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)"
_POSITION = """
WITH new AS (INSERT INTO covey.ingest (stream, sequence) VALUES ($1, 0) ON CONFLICT DO NOTHING RETURNING sequence)
SELECT sequence FROM new UNION ALL SELECT sequence FROM covey.ingest WHERE stream = $1
"""

IDLE_SECONDS = 10.0

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
        stored: Callable[[], None],
    ) -> None:
        self._database = database
        self._broker = broker
        self._stream = stream
        self._topics = topics
        self._options = options
        self._observation = observation
        self._stored = stored

    async def run(self) -> None:
        """Store until cancelled. Errors are logged and waited out, from where the database says we are."""
        failures = 0
        while True:
            try:
                await self._store_all()
            except CoveyError as error:
                failures += 1
                log.warning("ingest_waits", stream=self._stream, error=f"{type(error).__name__}: {error}")
            await asyncio.sleep(min(5.0, 0.1 * 2 ** min(failures, 6)) * random.uniform(0.5, 1.0))

    async def _store_all(self) -> None:
        await self._broker.ensure_stream(self._stream)
        connection = await self._database.connect(application_name=f"covey ingest {self._stream}")
        try:
            with translated():
                position = int(await connection.fetchval(_POSITION, self._stream))
            await self._require_history(position)
            async with self._broker.read(self._stream, self._topics, position) as reader:
                while True:
                    entries = await self._next(reader)
                    upto = entries[-1].sequence if entries else reader.position
                    if upto > position:
                        await self._store(connection, position, upto, entries)
                        position = upto
        finally:
            await asyncio.gather(connection.close(timeout=1), return_exceptions=True)

    async def _next(self, reader: Reader) -> list[Entry]:
        """Wait for messages, at times in vain: then the position moves over what is not for us, or it would age."""
        try:
            async with asyncio.timeout(IDLE_SECONDS):
                return await reader.next(self._options.read_batch)
        except TimeoutError:
            return []

    async def _require_history(self, position: int) -> None:
        """Raise HistoryLost when the stream no longer fits our position: silence here would be lost events."""
        extent = await self._broker.extent(self._stream)
        if position > 0 and extent.first > position + 1:
            raise self._lost(
                f"holds messages from {extent.first} on, and this service has read up to {position}:"
                " what lies between has outlived the stream's retention"
            )
        if position > extent.last:
            raise self._lost(
                f"ends at {extent.last}, and this service has read up to {position}: the broker has lost messages"
                " that it had confirmed"
            )
        self._observation.history_lost.pop(self._stream, None)

    def _lost(self, what: str) -> HistoryLost:
        text = f"the stream {self._stream} {what}. See docs/patterns/delivery.md, 'When history is lost'"
        self._observation.history_lost[self._stream] = text
        return HistoryLost(text)

    async def _store(self, connection: Connection, position: int, upto: int, entries: list[Entry]) -> None:
        envelopes = [_storable(entry.envelope) for entry in entries]
        with self._observation.storing(self._stream, len(entries)), translated():
            stored = await connection.fetchval(_STORE, self._stream, position, upto, *inbox_columns(envelopes))
        if stored < 0:
            raise Fenced(f"another replica is ahead in the stream {self._stream}")
        if stored:
            self._stored()


def _storable(envelope: Envelope) -> Envelope:
    """PostgreSQL's text holds no NUL. A message that has one must not stop its stream: it becomes a dead letter."""
    texts = (envelope.type, envelope.key, envelope.source, *envelope.headers, *envelope.headers.values())
    if not any("\x00" in text for text in texts):
        return envelope
    return Envelope(
        id=envelope.id,
        type=envelope.type.replace("\x00", "␀"),
        key=envelope.key.replace("\x00", "␀"),
        source=envelope.source.replace("\x00", "␀"),
        time=envelope.time,
        body=envelope.body,
        kind=envelope.kind,
        stream=envelope.stream,
        headers={UNREADABLE: "a header contains a NUL character"},
    )
