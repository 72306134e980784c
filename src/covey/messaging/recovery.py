"""Recovery: gives back the keys whose effect outside was under way in a process that is gone, and handles suspects.

Without it those keys would wait for their lease. One replica has this role; asking is one short statement. A suspect is
a message that was there in two deaths of processes on end: it is handled here, one at a time in the whole service, so
that the next death is certainly its own (docs/decisions/0007).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from covey.database.errors import translated
from covey.database.pool import Database
from covey.messaging.options import LANES, OWNERS, MessagingOptions
from covey.messaging.turn import Turns

PERIOD_SECONDS = 0.25

_RECOVER = "SELECT covey.recover($1, $2, $3)"


class Recovery:
    """Looks for abandoned work of one service."""

    def __init__(self, database: Database, turns: Turns, options: MessagingOptions, wake: Callable[[], None]) -> None:
        self._database = database
        self._turns = turns
        self._options = options
        self._wake = wake

    async def run(self) -> None:
        """Look until cancelled; an error ends the role, and whoever gets it next goes on."""
        while True:
            async with self._database.acquire() as connection:
                with translated():
                    freed = await connection.fetchval(_RECOVER, OWNERS, LANES, self._options.batch)
            if freed:
                self._wake()
            if await self._handle_suspect():  # one, and then a look: while there are suspects, others may have died
                self._wake()
            else:
                await asyncio.sleep(PERIOD_SECONDS)

    async def _handle_suspect(self) -> bool:
        """Handle one, and wait for what it asks of the outside; tell whether there was one."""
        async with self._database.acquire() as connection:
            begun = await self._turns.run_suspect(connection)
        if begun:
            await asyncio.wait(begun)
        return begun is not None
