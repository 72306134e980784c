"""Which entries a process may believe: those that are true since it has been connected without a break.

A process that was cut off may have written and could not say so in Valkey; others that were cut off at the same time
too. So whoever comes back begins an epoch (join.lua), and believes only what was loaded from then on. The same when the
server has begun another life: it may have lost what it had acknowledged, such as the removal of a value. A process that
comes for the first time has missed nothing, and believes what the others do.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from covey.errors import ValkeyUnavailable
from covey.valkey.client import Valkey
from covey.valkey.connection import Connection
from covey.valkey.script import Script
from covey.valkey.server import life_of

_JOIN = Script.beside(__name__, "join.lua")


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
        self._joining = asyncio.Lock()

    @property
    def exist(self) -> bool:
        """Tell whether there is a Valkey at all, away or not."""
        return self._valkey is not None

    @property
    def present(self) -> Session | None:
        """Return the present session, None when there is none, or no longer."""
        session = self._session
        return None if session is None or session.connection.lost.is_set() else session

    async def begun(self) -> Session:
        """Return the present session, or begin one. Raises ValkeyUnavailable, at once while Valkey is away."""
        return self.present or await self._begin()

    def leave(self, session: Session) -> None:
        """Say that a session is worth nothing any more: the server has forgotten its epoch."""
        if session is self._session:
            self._session = None

    async def _begin(self) -> Session:
        if self._valkey is None:
            raise ValkeyUnavailable("this service has no Valkey")
        async with self._joining:
            if (present := self.present) is not None:
                return present
            missed, self._tried = self._tried or not self._valkey.is_unbroken, True
            connection = self._valkey.connection
            life = await life_of(connection)
            missed = missed or not life  # some who run Valkey for others do not tell
            epoch = await connection.run(_JOIN, [self.epoch_key], life, int(missed))
            self._session = session = Session(connection, epoch)
            return session
