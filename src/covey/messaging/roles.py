"""Roles that one replica of a service has at a time: relaying, reading a stream, keeping timers.

A role is a session advisory lock on one dedicated connection, so it is free the moment its holder dies. A holder
that is merely stopped (SIGSTOP, a frozen machine) keeps its connection, so PostgreSQL ends sessions that have
been idle for `LEASE`; a living holder asks every `BEAT`. For up to a lease two replicas may believe that they have
a role: every role is written so that this does no harm (docs/patterns/roles.md).
"""

from __future__ import annotations

import asyncio
import random
import zlib
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress

import structlog

from covey.database.errors import translated
from covey.database.pool import Connection, Database
from covey.errors import CoveyError
from covey.messaging.ending import end
from covey.messaging.options import LANES, OWNERS, ROLES

BEAT_SECONDS = 0.25
LEASE_SECONDS = 5

_HOLDER = """
SELECT a.application_name FROM pg_locks l JOIN pg_stat_activity a USING (pid)
WHERE l.locktype = 'advisory' AND l.granted AND l.classid::bigint = $1 AND l.objid::bigint = $2 AND l.objsubid = 2
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
_TELL = "UPDATE covey.process SET handles = $2 WHERE owner = $1"
_TRY = "SELECT n FROM unnest($2::int[]) AS n WHERE pg_try_advisory_lock($1, n)"
_GIVE_BACK = """
UPDATE covey.hold SET state = 'waiting', token = NULL, owner = NULL, until = clock_timestamp()
WHERE owner = $1 AND state = 'working'
"""

log = structlog.get_logger("covey.messaging")


class Roles:
    """Competes for roles and runs those that it has won. `owner` is this process's number, locked while it lives.

    A process whose number is stored and not locked has died; `batch` messages of each lane may have been its last.
    Beside the number it is told which types the process `handles`.
    """

    def __init__(
        self,
        database: Database,
        owner: int,
        roles: Mapping[str, Callable[[], Awaitable[None]]],
        batch: int = 200,
        handles: Collection[str] = (),
    ) -> None:
        self._database = database
        self._roles = {_number(name): (name, run) for name, run in roles.items()}
        self._running: dict[int, asyncio.Task[None]] = {}
        self._connection: Connection | None = None
        self._turn = asyncio.Lock()
        self._owner = owner
        self._batch = batch
        self._handles = sorted(handles)
        self._stopping = False
        self.claimed = asyncio.Event()

    def add(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        """Compete for one more role; before `run`."""
        self._roles[_number(name)] = (name, run)

    async def run(self) -> None:
        """Compete until cancelled. A lost connection ends every role of this replica, then competing begins anew."""
        while True:
            try:
                await self._compete()
            except CoveyError as error:
                log.warning("roles_lost", error=str(error))
            finally:
                self.claimed.clear()
                await self._stop_all()
            await asyncio.sleep(random.uniform(0.05, 0.3))

    @property
    def alive(self) -> bool:
        """Tell whether others see that this process lives: its number is locked."""
        return self.claimed.is_set()

    def holds(self, name: str) -> bool:
        """Tell whether this replica has the role now."""
        return _number(name) in self._running

    async def notify(self, channel: str) -> None:
        """Wake whoever listens on a channel, from outside any transaction (H3). Lost when not connected."""
        connection = self._connection
        if connection is None:
            return
        with suppress(CoveyError):
            async with self._turn:
                with translated():
                    await connection.execute(f"NOTIFY {channel}")

    async def stop(self) -> None:
        """End every role of this replica and begin none any more; others still see that this process lives."""
        self._stopping = True
        await self._stop_all()

    async def leave(self) -> None:
        """Say that this process ends without harm: no message is to be blamed for it, and what it had is given back."""
        connection = self._connection
        if connection is not None:
            with suppress(CoveyError):
                await self._execute(connection, "SELECT covey.leave($1)", self._owner)
                await self._execute(connection, _GIVE_BACK, self._owner)

    async def _compete(self) -> None:
        async with self._database.connected(idle_session_timeout=f"{LEASE_SECONDS}s") as connection:
            with translated():
                await connection.execute("SELECT pg_advisory_lock($1, $2)", OWNERS, self._owner)
                await connection.execute("SELECT covey.arrive($1, $2, $3, $4)", OWNERS, LANES, self._batch, self._owner)
                await connection.execute(_TELL, self._owner, self._handles)
            self._connection = connection
            self.claimed.set()
            try:
                while True:
                    await self._claim(connection)
                    await asyncio.sleep(BEAT_SECONDS)
            finally:
                self._connection = None

    async def _claim(self, connection: Connection) -> None:
        """Try for every role that is not running; the question also shows PostgreSQL that we live."""
        for number in [n for n, task in self._running.items() if task.done()]:
            self._report(number, self._running.pop(number))
            await self._execute(connection, "SELECT pg_advisory_unlock($1, $2)", ROLES, number)
        wanted = [number for number in self._roles if number not in self._running and not self._stopping]
        async with self._turn:
            with translated():
                won = await connection.fetch(_TRY, ROLES, wanted)
        for row in won if not self._stopping else ():
            name, run = self._roles[row[0]]
            self._running[row[0]] = asyncio.create_task(_awaited(run), name=f"role {name}")

    async def _execute(self, connection: Connection, sql: str, *args: object) -> None:
        async with self._turn:
            with translated():
                await connection.execute(sql, *args)

    def _report(self, number: int, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.warning("role_failed", role=self._roles[number][0], error=f"{type(error).__name__}: {error}")

    async def _stop_all(self) -> None:
        tasks, self._running = list(self._running.values()), {}
        await end(tasks)


async def holder_of(connection: Connection, name: str) -> str | None:
    """Return the name of the application whose session has a role, None while nobody's has. Raises DatabaseUnavailable.

    For who looks on: at the next moment it may be another's.
    """
    with translated():
        found: str | None = await connection.fetchval(_HOLDER, ROLES, _number(name))
    return found


async def _awaited(run: Callable[[], Awaitable[None]]) -> None:
    await run()


def _number(name: str) -> int:
    """Return the lock's number for a role: the same in every process."""
    return zlib.crc32(name.encode()) >> 1
