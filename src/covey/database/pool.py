"""Connections to a service's own PostgreSQL: a pool for short work, single ones for roles that last.

No round trip resets a connection when it goes back to the pool (it would cost more than half of a read).
That is safe because `Work` is the only way to run statements on a pooled connection: it ends its transaction,
and refuses the statements whose effect would outlive it (covey.work.lasting).
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Any

from covey.database import pipeline
from covey.database.connections import Connections, uncancelled
from covey.database.errors import translated
from covey.errors import ConfigurationError, DatabaseUnavailable
from covey.telemetry.metrics import Metrics

Connection = Any  # asyncpg's connections carry no types; `Work` is the typed surface.

# Beside the pool a process holds: roles, relay and its vacuum, saga timers, readiness, workers, an ingest for each
# stream.
ENGINE_CONNECTIONS = 12

_REFUSED_SECONDS = (0.1, 0.3)
"""So long after a refusal the next attempt is made, by chance: not all processes at the same time."""

_MALFORMED = (
    "the database's URL (DATABASE_URL) must read like postgresql://role:password@host:port/database;"
    " in the password, / is written %2F, and likewise ? # [ ] @ : and %"
)

CLOSE_SECONDS = 2.0
"""How long work that has a connection may keep the pool from closing."""


@dataclass(frozen=True, kw_only=True)
class PoolOptions:
    """How a process uses its database. Spans are enforced by PostgreSQL, except the wait for a connection.

    `network_grace` is how long after `statement_timeout` an answer may still come: past it the server is not there.
    """

    size: int = 10
    wait: timedelta = timedelta(seconds=2)
    statement_timeout: timedelta = timedelta(seconds=10)
    idle_in_transaction_timeout: timedelta = timedelta(seconds=10)
    connect_timeout: timedelta = timedelta(seconds=5)
    network_grace: timedelta = timedelta(seconds=5)
    application: str = "covey"


# What the server has without what it keeps for others, and what role and database may have. Only from PostgreSQL 16 on
# there is the second of the reserves, for a role that we do not assume.
_CONNECTIONS_GRANTED = """
SELECT least(current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
                 - coalesce(current_setting('reserved_connections', true)::int, 0),
             (SELECT nullif(rolconnlimit, -1) FROM pg_roles WHERE rolname = current_user),
             (SELECT nullif(datconnlimit, -1) FROM pg_database WHERE datname = current_database()))
"""


class Database:
    """The database of one service. Open it with `async with Database.open(url) as database`."""

    def __init__(self, url: str, options: PoolOptions) -> None:
        self._url = url
        self._options = options
        self._pool = Connections(
            self._connect_for_pool, options.size, min(2, options.size), options.wait.total_seconds()
        )
        self._refusal: DatabaseUnavailable | None = None
        self._trying = False
        self._try_again = 0.0
        self._for_checks = Connections(self._connect_for_pool, 1, 0, options.wait.total_seconds())

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, options: PoolOptions | None = None) -> AsyncIterator[Database]:
        """Connect, check that the server can hold what this process may open, and close everything at the end.

        Raises DatabaseUnavailable when it cannot connect, ConfigurationError when the server grants fewer than `size`
        or when the URL cannot be read.
        """
        database = cls(url, options or PoolOptions())
        try:
            await database._pool.open()
            await database._check_size()
            yield database
        finally:
            await database._for_checks.close(CLOSE_SECONDS)
            await database._pool.close(CLOSE_SECONDS)

    def acquire(self) -> Acquired:
        """Borrow a connection, as a block. Raises PoolExhausted after the wait, DatabaseUnavailable."""
        return Acquired(self._pool)

    @asynccontextmanager
    async def connected(self, **server_settings: str) -> AsyncIterator[Connection]:
        """Have a connection of one's own, outside the pool, as a block; nothing of it is left however that ends."""
        connecting = self._connect(self._options.connect_timeout, server_settings)
        opening = asyncio.create_task(connecting, name="opening a connection")
        connection = await uncancelled(opening, lambda connection: connection.terminate())
        try:
            yield connection
        finally:
            with suppress(Exception):
                await connection.close(timeout=1)  # not in a task: that might be cancelled before it has begun

    @property
    def usage(self) -> tuple[int, int]:
        """Return how many pooled connections are open, and how many of these are idle."""
        return self._pool.usage

    @property
    def idle_in_transaction_timeout(self) -> timedelta:
        """Return for how long a transaction may do nothing: then PostgreSQL ends its session."""
        return self._options.idle_in_transaction_timeout

    def observe(self, metrics: Metrics) -> None:
        """Show the pool: its size, what of it is open, in use and idle, who waits, for how long, and in vain."""
        pool, size = self._pool, float(self._options.size)
        metrics.observe("covey_pool_size", "How many database connections the pool may have", lambda: {(): size})
        metrics.observe("covey_pool_connections", "Database connections of the pool", self._connections, ("state",))
        metrics.observe("covey_pool_waiting", "Work that waits for a connection", lambda: {(): float(pool.waiting)})
        waits = metrics.histogram(
            "covey_pool_wait_seconds", "How long work has waited for a connection when none was free"
        )
        pool.waited = waits.observe
        metrics.observe(
            "covey_pool_exhausted_total",
            "Work that has waited for a connection in vain",
            lambda: {(): float(pool.exhausted)},
            kind="counter",
        )

    def _connections(self) -> Mapping[tuple[str, ...], float]:
        opened, idle = self._pool.usage
        return {("open",): float(opened), ("active",): float(opened - idle), ("idle",): float(idle)}

    async def check(self) -> None:
        """Raise unless the database answers; for readiness.

        On a connection of its own: a service whose requests have taken the whole pool is busy, and still ready.
        """
        async with Acquired(self._for_checks) as connection:
            with translated():
                await connection.fetchval("SELECT 1")

    async def _connect_for_pool(self) -> Connection:
        """Open one. While the server refuses, one at a time finds out whether it is back, a few times a second.

        All others are refused at once: each attempt costs the server a process, which one that recovers has not got.
        """
        if self._refusal and (self._trying or time.monotonic() < self._try_again):
            raise type(self._refusal)(f"the database could not be reached a moment ago: {self._refusal}")
        self._trying = True
        try:
            connection = await self._connect(min(self._options.connect_timeout, self._options.wait), {})
        except DatabaseUnavailable as error:
            self._refusal = error
            self._try_again = time.monotonic() + random.uniform(*_REFUSED_SECONDS)
            raise
        finally:
            self._trying = False
        self._refusal = None
        return connection

    async def _connect(self, within: timedelta, server_settings: dict[str, str]) -> Connection:
        try:
            with translated():
                return await pipeline.connect(
                    self._url,
                    timeout=within.total_seconds(),
                    command_timeout=_command_seconds(self._options),
                    server_settings=_server_settings(self._options) | server_settings,
                    # Or connections to what is a standby since a failover would be lent for as long as they last.
                    target_session_attrs="read-write",
                )
        except (ValueError, OverflowError):  # of urllib or int(), which quote what they could not read: a password, say
            raise ConfigurationError(_MALFORMED) from None

    async def _check_size(self) -> None:
        async with self.acquire() as connection:
            with translated():
                limit = await connection.fetchval(_CONNECTIONS_GRANTED)
        if self._options.size + ENGINE_CONNECTIONS > limit:
            raise ConfigurationError(
                f"POOL_SIZE is {self._options.size} and the engine needs {ENGINE_CONNECTIONS} more connections,"
                f" but this PostgreSQL grants {limit} to all replicas together:"
                " lower POOL_SIZE or raise max_connections"
            )


class Acquired:
    """A borrowed connection; a class, because this is on the path of every request."""

    __slots__ = ("_connection", "_pool")

    def __init__(self, pool: Connections) -> None:
        self._pool = pool

    async def __aenter__(self) -> Connection:
        self._connection = await self._pool.take()
        return self._connection

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.give(self._connection)


def is_lost(connection: Connection) -> bool:
    """Tell whether a connection is gone."""
    return bool(connection.is_closed())


def _server_settings(options: PoolOptions) -> dict[str, str]:
    return {
        "application_name": options.application,
        "statement_timeout": str(_milliseconds(options.statement_timeout)),
        "idle_in_transaction_session_timeout": str(_milliseconds(options.idle_in_transaction_timeout)),
        "default_transaction_isolation": "read committed",  # what the queues' statements are written for
        "jit": "off",
    }


def _command_seconds(options: PoolOptions) -> float:
    """Return when this side gives a statement up: without it a connection to a machine that vanished waits for ever."""
    return (options.statement_timeout + options.network_grace).total_seconds()


def _milliseconds(span: timedelta) -> int:
    return int(span.total_seconds() * 1000)
