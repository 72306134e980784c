"""Messaging of one service: relay, ingest and workers put together, with a start and a graceful end.

Usable inside any asyncio application; it needs a database with the schema `covey`, a broker, and routers.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, assert_never

from covey.clock import Clock, Grace, SystemClock
from covey.database.errors import translated
from covey.database.pool import Database
from covey.errors import ConfigurationError, DefinitionError, Unavailable
from covey.message import is_service, stream_of
from covey.messaging.broker import Broker, Topic, name_of
from covey.messaging.ending import end
from covey.messaging.external import Calls
from covey.messaging.ingest import Ingest
from covey.messaging.observation import Observation
from covey.messaging.options import MessagingOptions
from covey.messaging.recording import Recording
from covey.messaging.recovery import Recovery
from covey.messaging.relay import CHANNEL, Relay
from covey.messaging.retention import Retention
from covey.messaging.roles import Roles
from covey.messaging.router import Engine, External, Handled, Ignored, Router, is_command, merged
from covey.messaging.turn import Turns
from covey.messaging.worker import Worker
from covey.telemetry.telemetry import Telemetry
from covey.work.unit_of_work import Transactions, Work

Role = Callable[[], Awaitable[None]]


class Messaging:
    """Everything that moves messages in one replica of a service.

    `transactions` is where the application begins its work, so that what it publishes leaves at once. Make it, then
    `async with messaging.running()`.
    """

    def __init__(
        self,
        service: str,
        database: Database,
        broker: Broker,
        routers: Iterable[Router],
        telemetry: Telemetry,
        *,
        options: MessagingOptions | None = None,
        clock: Clock | None = None,
    ) -> None:
        if not is_service(service):
            raise DefinitionError(f"{service!r} cannot name a service: use lower-case letters, digits and dashes")
        options, clock = options or MessagingOptions(), clock or SystemClock()
        router = merged(routers)
        owner = random.getrandbits(31)
        self.observation = Observation(telemetry, service, database)
        self.transactions = Transactions(database, service, clock, self.committed, telemetry.tracer)
        self._service = service
        self._database = database
        self._engines = {
            id(entry.raw): entry.raw for entry in router.table.values() if isinstance(entry, Engine)
        }.values()
        self._broker = broker
        self._relay = Relay(database, service, broker, self.observation)
        recording = Recording(self.transactions, options)
        self._calls = Calls(recording, options, self.observation, self.wake, lambda: self._roles.alive)
        resources = self.transactions.resources
        longest = options.turn(database.idle_in_transaction_timeout)
        turns = Turns(
            service, router, clock, options, longest, owner, self._calls, self.committed, self.observation, resources
        )
        self._workers = [Worker(database, turns, options, self.wake) for _ in range(options.workers)]
        streams = subscriptions(router, service)
        own: dict[str, Role] = {"relay": self._relay.run, "recovery": Recovery(database, turns, options, self.wake).run}
        own["retention"] = Retention(database).run
        self._ingests = [
            Ingest(database, broker, stream, topics, options, self.observation, turns, self.wake)
            for stream, topics in streams.items()
        ]
        own |= {f"ingest {ingest.stream}": ingest.run for ingest in self._ingests}
        self._roles = Roles(database, owner, own, options.batch, router.table.keys())
        self._unannounced = False
        self._announcing: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def running(self, grace: Grace | None = None) -> AsyncIterator[Messaging]:
        """Move messages while the block runs; at its end finish what was begun, for at most `grace`: else 10 s.

        The number under which this process calls the outside is locked before the first turn, so that no other
        process takes its calls for abandoned. Raises ConfigurationError for a database without covey's tables.
        """
        await self._require_tables()
        await self._ensure_stream()
        async with asyncio.TaskGroup() as tasks:
            roles = tasks.create_task(self._roles.run(), name="roles")
            await self._roles.claimed.wait()
            workers = [tasks.create_task(worker.run(), name="worker") for worker in self._workers]
            try:
                yield self
            finally:
                await self._drain(workers, grace or Grace(timedelta(seconds=10)))
                await end(workers)
                await self._roles.stop()  # a reader begins calls, too
                await self._calls.abandon()
                await self._roles.leave()
                await end([roles])

    def add_role(self, name: str, run: Role) -> None:
        """Have one replica of the service run this; before `running`. Two may for a moment believe that they do."""
        self._roles.add(name, run)

    def committed(self, work: Work) -> None:
        """Wake whoever moves what this work has published or enqueued, and tell engines."""
        for engine in self._engines:
            engine.committed(work)
        if work.enqueued:
            self.wake()
        if work.published:
            if self._roles.holds("relay"):
                self._relay.wake()
            else:
                self._unannounced = True
                self._announcing = self._announcing or asyncio.get_running_loop().create_task(self._announce())

    def wake(self) -> None:
        """Say that the inbox may have work. One worker that has nothing to do is enough, and gets help if it is not."""
        for worker in self._workers:
            if worker.waiting:
                worker.wake()
                return
        for worker in self._workers:
            worker.wake()

    async def _announce(self) -> None:
        """Wake the relay in another replica; one notification at a time covers all commits before it (H3)."""
        try:
            while self._unannounced:
                self._unannounced = False
                await self._roles.notify(CHANNEL)
        finally:
            self._announcing = None

    async def _require_tables(self) -> None:
        """Refuse to begin without them; while the database is away nobody knows, and the roles wait for it."""
        try:
            async with self._database.acquire() as connection:
                with translated():
                    found = await connection.fetchval("SELECT to_regclass('covey.process')")
        except Unavailable:
            return
        if found is None:
            raise ConfigurationError(
                f"the database of {self._service} has no tables of covey: migrate it first, with `covey migrate`, or"
                " with migrate() of covey.database.migrations"
            )

    async def _ensure_stream(self) -> None:
        """Make the service's own stream at start when the broker is there; the roles see to it when it is not."""
        try:
            await self._broker.ensure_stream(self._service)
        except Unavailable:
            return

    async def _drain(self, workers: list[asyncio.Task[None]], grace: Grace) -> None:
        for worker in self._workers:
            worker.stop()
        await _finish(asyncio.wait([*workers, *(asyncio.create_task(i.drain()) for i in self._ingests)]), grace)
        await _finish(self._calls.drain(), grace)


def subscriptions(router: Router, service: str) -> dict[str, list[Topic]]:
    """Return what a service reads: the events that it handles, and all commands and replies sent to it.

    Commands and replies without their names and events without their versions, so that what it does not know
    arrives too and is seen as a dead letter instead of being passed over.
    """
    topics: dict[str, set[Topic]] = {}
    for message_type, registration in router.table.items():
        match registration:
            case Handled() | External() if is_command(registration):
                topics.setdefault(service, set()).add(Topic("command"))
            case Engine(kind="reply", wanted=True):
                topics.setdefault(service, set()).add(Topic("reply"))
            case Engine():
                pass
            case Handled() | External() | Ignored():
                topics.setdefault(stream_of(message_type), set()).add(Topic("event", name_of(message_type)))
            case _:
                assert_never(registration)
    return {stream: sorted(of_it, key=str) for stream, of_it in topics.items()}


async def _finish(work: Coroutine[Any, Any, Any], grace: Grace) -> None:
    try:
        async with asyncio.timeout(grace.seconds_left()):
            await work
    except TimeoutError:
        return
