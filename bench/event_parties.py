"""The two services of the questions about events: one publishes, one handles. Each has a process and a database.

Both are opened as a service opens itself: telemetry with a live collector, logs, pool, relay, ingest, workers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from bench.party import Deed, play
from covey.message import Event
from covey.messaging.brokers.nats import NatsBroker
from covey.messaging.router import Router
from covey.service import Parts, Running, Service
from covey.settings import ServiceSettings
from covey.work.outbox import wrap
from covey.work.unit_of_work import Work

TABLES = "CREATE TABLE placed (n bigint NOT NULL, body text NOT NULL); CREATE TABLE seen (n bigint NOT NULL)"
TEXT = "x" * 900
KEYS = 997
INSERT_PLACED = "INSERT INTO placed (n, body) VALUES ($1, $2)"
INSERT_SEEN = "INSERT INTO seen (n) VALUES ($1)"


class Placed(Event, type="producer.placed.v1", key="order_id"):
    """An event of 1 KB."""

    n: int
    order_id: str
    text: str


def placed(n: int) -> Placed:
    """Return the n-th event."""
    return Placed(n=n, order_id=f"order-{n % KEYS}", text=TEXT)


def settings_of(given: dict[str, Any]) -> ServiceSettings:
    """Return a service's settings from what a party is told."""
    return ServiceSettings(
        database_url=given["database_url"],
        nats_url=given["nats_url"],
        system=given["system"],
        otel_exporter_otlp_endpoint=given["collector"],
        pool_size=given.get("pool_size", 10),
    )


class Producer:
    """Publishes events in several ways. `broker` is for the one without an outbox."""

    def __init__(self, running: Running, broker: NatsBroker) -> None:
        self._transactions = running.messaging.transactions
        self._clock = running.messaging.transactions.clock
        self._broker = broker
        self._next = 0

    async def outbox(self, n: int) -> None:
        """Write a row and publish an event, in one transaction."""
        async with self._transactions.begin() as work:
            await work.execute(INSERT_PLACED, n, "placed")
            work.publish(placed(n))

    async def unsafe(self, n: int) -> None:
        """Write a row, commit, then publish and wait for the confirmation: a crash in between loses the event."""
        async with self._transactions.begin() as work:
            await work.execute(INSERT_PLACED, n, "placed")
        await self._broker.publish([wrap(placed(n), "producer", self._clock.now())])

    async def paced(self, rate: float, seconds: float) -> dict[str, list[int]]:
        """Publish so many a second, whatever happens; return when each began and was committed.

        Open loop: an event that is late does not delay the next.
        """
        begun: dict[int, int] = {}
        committed: dict[int, int] = {}

        async def one(n: int) -> None:
            begun[n] = time.monotonic_ns()
            await self.outbox(n)
            committed[n] = time.monotonic_ns()

        first, start = self._next, time.monotonic()
        self._next += round(rate * seconds)
        async with asyncio.TaskGroup() as tasks:
            for n in range(first, self._next):
                await asyncio.sleep(max(0.0, start + (n - first) / rate - time.monotonic()))
                tasks.create_task(one(n))
        wanted = range(first, self._next)
        return {"n": list(wanted), "begun": [begun[n] for n in wanted], "committed": [committed[n] for n in wanted]}

    async def saturated(self, how: str, count: int, in_flight: int) -> float:
        """Publish `count` events one a transaction, `in_flight` at a time; return the seconds until the last commit."""
        publish: Callable[[int], Awaitable[None]] = {"outbox": self.outbox, "unsafe": self.unsafe}[how]
        numbers = iter(range(self._next, self._next + count))
        self._next += count

        async def writer() -> None:
            for n in numbers:
                await publish(n)

        begun = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(in_flight):
                tasks.create_task(writer())
        return time.monotonic() - begun


@asynccontextmanager
async def producer(settings: dict[str, Any]) -> AsyncIterator[Mapping[str, Deed]]:
    """Be the service that publishes."""
    broker = await NatsBroker.open(settings["nats_url"], settings["system"])
    async with Service("producer", Parts()).running(settings_of(settings)) as running:
        publishing = Producer(running, broker)
        yield {"paced": publishing.paced, "saturated": publishing.saturated}
    await broker.close()


@asynccontextmanager
async def filler(settings: dict[str, Any]) -> AsyncIterator[Mapping[str, Deed]]:
    """Be a service that has published while its broker was away: nothing runs until it is told to."""
    service = Service("producer", Parts())

    async def fill(count: int) -> None:
        """Put `count` events into the outbox, 500 a transaction."""
        from covey.database.pool import Database
        from covey.work.unit_of_work import Transactions

        async with Database.open(settings["database_url"]) as database:
            transactions = Transactions(database, "producer")
            for first in range(0, count, 500):
                async with transactions.begin() as work:
                    for n in range(first, min(first + 500, count)):
                        work.publish(placed(n))

    stop = asyncio.Event()
    tasks: list[asyncio.Task[None]] = []

    async def run() -> None:
        async with service.running(settings_of(settings)):
            await stop.wait()

    async def relay() -> int:
        """Begin to publish; return when, on this machine's clock."""
        begun = time.monotonic_ns()
        tasks.append(asyncio.create_task(run()))
        return begun

    yield {"fill": fill, "relay": relay}
    stop.set()
    await asyncio.gather(*tasks)


class Consumer:
    """Handles events in one of several ways and remembers when."""

    def __init__(self) -> None:
        self.at: dict[int, int] = {}
        self._changed = asyncio.Event()
        self._wanted = 0

    def router(self, how: str) -> Router:
        """Return a router whose handler `parses` only, `writes` a row, or has one written at the end (`defers`)."""
        router = Router()

        async def parses(event: Placed, work: Work) -> None:
            self._saw(event.n)

        async def writes(event: Placed, work: Work) -> None:
            self._saw(event.n)
            await work.execute(INSERT_SEEN, event.n)

        async def defers(event: Placed, work: Work) -> None:
            self._saw(event.n)
            work.defer(INSERT_SEEN, event.n)

        router.on(Placed)({"parses": parses, "writes": writes, "defers": defers}[how])
        return router

    async def wait(self, count: int, seconds: float = 60) -> int:
        """Wait until `count` different events were seen since the last `forget`; return when the last was."""
        self._wanted = count
        async with asyncio.timeout(seconds):
            while len(self.at) < count:
                self._changed.clear()
                await self._changed.wait()
        return max(self.at.values())

    async def seen(self) -> dict[str, list[int]]:
        """Return which events were seen, and when each handler was first called."""
        return {"n": list(self.at), "at": list(self.at.values())}

    async def forget(self) -> None:
        """Begin anew."""
        self.at.clear()

    def _saw(self, n: int) -> None:
        self.at.setdefault(n, time.monotonic_ns())
        if len(self.at) >= self._wanted:
            self._changed.set()


@asynccontextmanager
async def consumer(settings: dict[str, Any]) -> AsyncIterator[Mapping[str, Deed]]:
    """Be the service that handles."""
    handling = Consumer()
    parts = Parts(messages=[handling.router(settings["how"])])
    async with Service("consumer", parts).running(settings_of(settings)):
        yield {"wait": handling.wait, "seen": handling.seen, "forget": handling.forget}


if __name__ == "__main__":
    play({"producer": producer, "filler": filler, "consumer": consumer})
