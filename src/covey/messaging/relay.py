"""The relay: publishes what the outbox holds, in order, and forgets it only when the broker has confirmed.

One replica has this role. It reads by state (what is pending), never by "greater than the last": positions of
concurrent transactions become visible out of order, and a high-water mark would skip the late one for ever (H1).

Crash points. Before the broker stored: published by the next relay. After it confirmed, before the row left the
queue: published again under the same id; the broker recognizes it within its window, the inbox after that. Two
relays at once (one was stopped): each publishes every key in order, so first arrivals are in order.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
import structlog

from covey.database.errors import translated
from covey.database.pool import Connection, Database
from covey.errors import CoveyError
from covey.message import Envelope
from covey.messaging.broker import Broker
from covey.messaging.ending import end
from covey.messaging.observation import Observation
from covey.messaging.retention import OUTBOX_AGE

CHANNEL = "covey_outbox"
LIMIT = 500
IDLE_SECONDS = 1.0
RETRY_SECONDS = 0.1
PAUSE_CAP_SECONDS = 5.0
VACUUM_SECONDS = 0.5
LULL_SECONDS = 0.05
"""So long, at most, what was published waits to be marked together with the next read: half the statements."""

_RELAY = "SELECT * FROM covey.relay($1, $2, $3)"
_REPUBLISH = """
INSERT INTO covey.outbox_pending
SELECT position, stream FROM covey.outbox
WHERE created_at >= $1 AND created_at > now() - $2::interval AND position <> ALL ($3)
ON CONFLICT DO NOTHING RETURNING position
"""

log = structlog.get_logger("covey.messaging")


class Relay:
    """Moves messages from one service's outbox to the broker. A stream that takes none now does not stop the others."""

    def __init__(self, database: Database, service: str, broker: Broker, observation: Observation) -> None:
        self._database = database
        self._service = service
        self._broker = broker
        self._observation = observation
        self._wake = asyncio.Event()
        self._known: set[str] = set()
        self._failing: dict[str, _Pause] = {}

    def wake(self) -> None:
        """Say that there is something to publish. Only saves waiting: the relay looks each second anyway."""
        self._wake.set()

    async def run(self) -> None:
        """Publish until cancelled. Errors are logged and waited out; nothing is ever skipped."""
        while True:
            try:
                await self._publish_all()
            except CoveyError as error:
                log.warning("relay_waits", error=f"{type(error).__name__}: {error}")
            await asyncio.sleep(random.uniform(0.1, 0.5))

    async def _publish_all(self) -> None:
        """Read, publish, mark and read the next, on one connection until that fails."""
        # Its commits need not be on disk when they are answered: what it forgets to have published is published again.
        async with (
            self._vacuumed(),
            self._database.connected(application_name="covey relay", synchronous_commit="off") as connection,
        ):
            published: list[int] = []
            try:
                with translated():
                    await connection.add_listener(CHANNEL, lambda *_: self._wake.set())
                while True:
                    self._wake.clear()
                    with translated():
                        rows = await connection.fetch(_RELAY, published, LIMIT, self._paused())
                    published = await self._publish(rows) if rows else []
                    if len(rows) < LIMIT:
                        await self._wait(LULL_SECONDS if published else IDLE_SECONDS)
            finally:
                await _mark(connection, published)

    async def _publish(self, rows: list[Any]) -> list[int]:
        """Publish to each stream, independently of the others; return the positions that the broker has confirmed."""
        streams: dict[str, list[Any]] = {}
        for row in rows:
            streams.setdefault(row[2], []).append(row)
        outcomes = await asyncio.gather(*(self._publish_to(stream, of_it) for stream, of_it in streams.items()))
        return [position for positions in outcomes for position in positions]

    async def _publish_to(self, stream: str, rows: list[Any]) -> list[int]:
        """Publish rows to their stream. A failure pauses the stream: its outcome is unknown, and nothing is marked."""
        envelopes = [_envelope(row, self._service) for row in rows]
        try:
            if stream not in self._known:
                await self._broker.ensure_stream(stream)
                self._known.add(stream)
            with self._observation.publishing(envelopes):
                await self._broker.publish(envelopes)
        except CoveyError as error:
            self._known.discard(stream)
            pause = self._failing[stream] = _Pause.after(self._failing.get(stream))
            log.warning("relay_waits", stream=stream, seconds=pause.seconds, error=f"{type(error).__name__}: {error}")
            return []
        self._failing.pop(stream, None)
        return [row[0] for row in rows]

    def _paused(self) -> list[str]:
        now = time.monotonic()
        return [stream for stream, pause in self._failing.items() if pause.until > now]

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(min(seconds, RETRY_SECONDS) if self._failing else seconds):
                await self._wake.wait()
        except TimeoutError:
            return

    @asynccontextmanager
    async def _vacuumed(self) -> AsyncIterator[None]:
        """Keep the heads of the queues clean: dead index entries there cost the relay half a core (decision 0002)."""
        vacuum = asyncio.create_task(self._vacuum(), name="vacuum of the queues")
        try:
            yield
        finally:
            await end([vacuum])

    async def _vacuum(self) -> None:
        while True:
            with suppress(CoveyError):
                async with self._database.connected(application_name="covey vacuum") as connection:
                    while True:
                        await asyncio.sleep(VACUUM_SECONDS)
                        with translated():
                            await connection.execute("VACUUM (TRUNCATE off, INDEX_CLEANUP on) covey.outbox_pending")
                            await connection.execute("VACUUM (TRUNCATE off, INDEX_CLEANUP on) covey.inbox_pending")
            await asyncio.sleep(VACUUM_SECONDS)


async def republish(database: Database, since: datetime) -> int:
    """Publish again, under the same ids, what was written since then: for a broker that has lost what it confirmed.

    Safe at any time: consumers drop what they know. A message that waited for the broker was written long before it was
    published: begin with the oldest that may be lost, or with all. What is older than 7 days, and only by chance still
    there, is left out: they might have forgotten it. Returns how many messages are to be published.
    """
    again: list[int] = []
    async with database.acquire() as connection:
        with translated():
            again += [row[0] for row in await connection.fetch(_REPUBLISH, since, OUTBOX_AGE, again)]
            # What a relay has just published is marked a little later, and would then not be there any more.
            await asyncio.sleep(2 * LULL_SECONDS)
            again += [row[0] for row in await connection.fetch(_REPUBLISH, since, OUTBOX_AGE, again)]
    return len(again)


@dataclass(frozen=True, slots=True)
class _Pause:
    """How long a stream that cannot be published to is left alone."""

    failures: int
    seconds: float
    until: float

    @classmethod
    def after(cls, last: _Pause | None) -> _Pause:
        """Return the pause that follows another one: longer, up to a cap, with jitter."""
        failures = last.failures + 1 if last else 1
        seconds = min(PAUSE_CAP_SECONDS, 0.1 * 2 ** min(failures - 1, 6)) * random.uniform(0.5, 1.0)
        return cls(failures, seconds, time.monotonic() + seconds)


def _envelope(row: Any, service: str) -> Envelope:
    """Build an envelope from a row of the outbox."""
    return Envelope(
        id=row[1],
        stream=row[2],
        kind=row[3],
        type=row[4],
        key=row[5],
        source=service,
        time=row[6],
        headers=orjson.loads(row[7]),
        body=row[8],
    )


async def _mark(connection: Connection, published: list[int]) -> None:
    """Mark what was published last, on the way out: it would only be published again, but why should it."""
    with suppress(CoveyError, TimeoutError):
        async with asyncio.timeout(1):
            with translated():
                await connection.fetch(_RELAY, published, 0, [])
