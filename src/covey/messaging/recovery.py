"""Recovery: gives back the keys whose effect outside was under way in a process that is gone.

Without it they would wait for their lease. One replica has this role; asking is one short statement.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from covey.database.errors import translated
from covey.database.pool import Database
from covey.messaging.options import OWNERS

PERIOD_SECONDS = 0.25


class Recovery:
    """Looks for abandoned work of one service."""

    def __init__(self, database: Database, wake: Callable[[], None]) -> None:
        self._database = database
        self._wake = wake

    async def run(self) -> None:
        """Look until cancelled; an error ends the role, and whoever gets it next goes on."""
        while True:
            async with self._database.acquire() as connection:
                with translated():
                    freed = await connection.fetchval("SELECT covey.recover($1)", OWNERS)
            if freed:
                self._wake()
            await asyncio.sleep(PERIOD_SECONDS)
