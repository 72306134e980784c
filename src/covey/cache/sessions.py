"""Which entries a process may believe: those that are true since it has been connected without a break.

A process that was cut off may have written and could not say so in Valkey; others that were cut off at the same time
too. So whoever comes back begins an epoch (join.lua), and believes only what was loaded from then on. The same when the
server has begun another life: it may have lost what it had acknowledged, such as the removal of a value. A process that
comes for the first time has missed nothing, and believes what the others do.

A process that is connected and could not say what it changes believes nothing until the transaction has ended, and then
begins an epoch too: one that it began at once would hold for what is loaded before the commit.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta

from covey.errors import CoveyError, ValkeyUnavailable
from covey.valkey.client import Valkey
from covey.valkey.connection import Connection
from covey.valkey.script import Script
from covey.valkey.server import life_of

_JOIN = Script.beside(__name__, "join.lua")

_PAUSE = timedelta(milliseconds=100)
"""So long nobody tries to begin a session after one could not be begun: each read would try."""


@dataclass(frozen=True, slots=True, eq=False)
class Session:
    """A connection, and the epoch from which on entries that are found over it may be believed."""

    connection: Connection
    epoch: bytes


class Sessions:
    """Those of one process with its Valkey, one after the other. `epoch_key` is where its service keeps the epoch."""

    def __init__(self, valkey: Valkey | None, epoch_key: str) -> None:
        self.epoch_key = epoch_key
        self._valkey = valkey
        self._session: Session | None = None
        self._tried = False
        self._doubted_until = 0.0
        self._beginning: asyncio.Task[Session] | None = None

    @property
    def exist(self) -> bool:
        """Tell whether there is a Valkey at all, away or not."""
        return self._valkey is not None

    @property
    def connection(self) -> Connection:
        """Return the present connection, for who writes and believes nothing. Raises ValkeyUnavailable."""
        if self._valkey is None:
            raise ValkeyUnavailable("this service has no Valkey")
        return self._valkey.connection

    @property
    def present(self) -> Session | None:
        """Return the present session, None when there is none, or no longer."""
        session = self._session
        return None if session is None or session.connection.lost.is_set() else session

    async def begun(self) -> Session:
        """Return the present session, or begin one. Raises ValkeyUnavailable, at once while it is away or doubted."""
        if (present := self.present) is not None:
            return present
        if self._beginning is None:
            if asyncio.get_running_loop().time() < self._doubted_until:
                raise ValkeyUnavailable("what is in Valkey may be old, for a change could not be announced there")
            beginning = self._begin(self.connection, self._doubted_until)
            self._beginning = asyncio.create_task(beginning, name="beginning a session with Valkey")
        return await asyncio.shield(self._beginning)  # all who wait go on in one tick, and one of them loads

    def leave(self, session: Session) -> None:
        """Say that a session is worth nothing any more: the server has forgotten its epoch."""
        if session is self._session:
            self._session = None

    def doubt(self, span: timedelta = _PAUSE) -> None:
        """Believe nothing for so long, which is not nothing, and then only what was loaded since."""
        self._session, self._tried = None, True
        self._doubted_until = max(self._doubted_until, asyncio.get_running_loop().time() + span.total_seconds())

    async def _begin(self, connection: Connection, doubted_until: float) -> Session:
        try:
            session = Session(connection, await self._epoch(connection))
        except CoveyError:
            self.doubt()
            raise
        finally:
            self._beginning = None
        if doubted_until != self._doubted_until:
            raise ValkeyUnavailable("a change could not be announced in Valkey meanwhile")
        self._session = session
        return session

    async def _epoch(self, connection: Connection) -> bytes:
        """Return the epoch that there is, or begin one if something may have been missed."""
        assert self._valkey is not None
        missed, self._tried = self._tried or not self._valkey.is_unbroken, True
        life = await life_of(connection)
        missed = missed or not life  # some who run Valkey for others do not tell
        epoch: bytes = await connection.run(_JOIN, [self.epoch_key], life, int(missed))
        return epoch
