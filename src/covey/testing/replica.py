"""A replica of a service in the test's own process: handlers, sagas and messaging, without HTTP.

Any number of services and replicas can run beside each other, each service on a database of its own, all of them
on one broker or on one set of `MemoryLogs`:

    async with replica("order", order_url, broker, sagas=[place_order]) as order, replica("stock", …) as stock:
        async with order.transactions.begin() as work:
            saga_id = await place_order.start(work, data)
        await eventually(lambda: ended(order, saga_id))
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from covey.clock import Clock, Grace
from covey.database.pool import Database, PoolOptions
from covey.messaging.broker import Broker
from covey.messaging.messaging import Messaging
from covey.messaging.options import MessagingOptions
from covey.messaging.router import Router
from covey.saga.definition import Definition
from covey.saga.engine import SagaEngine
from covey.saga.timers import SagaTimers
from covey.telemetry.telemetry import Telemetry
from covey.work.unit_of_work import Transactions


@dataclass(frozen=True, kw_only=True)
class ReplicaOptions:
    """How a replica runs in tests: like a service, but with little patience between attempts."""

    messaging: MessagingOptions = field(
        default_factory=lambda: MessagingOptions(
            backoff=timedelta(milliseconds=5), backoff_cap=timedelta(milliseconds=50), poll=timedelta(milliseconds=20)
        )
    )
    pool: PoolOptions = field(default_factory=PoolOptions)
    drain: timedelta = timedelta(seconds=5)


@dataclass(frozen=True, slots=True)
class Replica:
    """One replica that runs. `transactions` is where work on its database begins."""

    database: Database
    messaging: Messaging
    telemetry: Telemetry

    @property
    def transactions(self) -> Transactions:
        """Return where work begins; what it publishes leaves at once."""
        return self.messaging.transactions

    async def fetch(self, sql: str, *args: Any) -> list[Any]:
        """Return the rows of a query, in a transaction of its own."""
        async with self.transactions.begin() as work:
            return await work.fetch(sql, *args)

    async def fetchval(self, sql: str, *args: Any) -> Any:
        """Return the first value of a query, in a transaction of its own."""
        async with self.transactions.begin() as work:
            return await work.fetchval(sql, *args)


@asynccontextmanager
async def replica(
    service: str,
    database_url: str,
    broker: Broker,
    routers: Sequence[Router] = (),
    sagas: Sequence[Definition[Any]] = (),
    *,
    options: ReplicaOptions | None = None,
    clock: Clock | None = None,
) -> AsyncIterator[Replica]:
    """Run one replica of `service` inside the block; at its end it drains as a service does."""
    options = options or ReplicaOptions()
    telemetry = Telemetry.in_memory(service)
    engine = SagaEngine(service, sagas, telemetry)
    async with Database.open(database_url, options.pool) as database:
        messaging = Messaging(
            service,
            database,
            broker,
            [*routers, engine.router()],
            telemetry,
            options=options.messaging,
            clock=clock,
        )
        if sagas:
            messaging.add_role("saga timers", SagaTimers(database, messaging.transactions, messaging.wake).run)
        async with messaging.running(Grace(options.drain)):
            yield Replica(database, messaging, telemetry)
