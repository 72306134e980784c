"""The relays of a system: which services have one, and whose process has the role just now."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from covey.database.errors import translated
from covey.database.pool import Connection, Database, PoolOptions
from covey.local.running import RunningSystem
from covey.local.unit import Unit
from covey.messaging.roles import holder_of

_OPTIONS = PoolOptions(size=1, application="covey drill")


async def with_relay(system: RunningSystem) -> list[str]:
    """Return the services that have messages to relay: a process of theirs has come to do it. Raises Unavailable."""
    return [name for name in system.system.services if await _has_relay(system.database_url(name))]


async def relay_of(system: RunningSystem, service: str) -> Unit | None:
    """Return whose session has the lock of the service's relay; None while nobody's has. Raises Unavailable.

    One that stands still has it until its lease is over.
    """
    async with _connected(system.database_url(service)) as connection:
        application = await holder_of(connection, "relay")
    return None if application is None else _unit_of(application, system.replicas(service))


async def _has_relay(url: str) -> bool:
    async with _connected(url) as connection:
        with translated():
            there = await connection.fetchval("SELECT to_regclass('covey.process') IS NOT NULL")
            return bool(there and await connection.fetchval("SELECT EXISTS (SELECT FROM covey.process)"))


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator[Connection]:
    async with Database.open(url, _OPTIONS) as database, database.acquire() as connection:
        yield connection


def _unit_of(application: str, replicas: Iterable[Unit]) -> Unit | None:
    """Return the unit of a session, which is named after service and replica: `order 2` is of `order-2`."""
    service, _, replica = application.rpartition(" ")
    name = service if replica == "1" else f"{service}-{replica}"
    return next((unit for unit in replicas if unit.name == name), None)
