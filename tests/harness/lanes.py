"""Keeps the lanes of a service busy, as another replica does that is in the middle of long turns.

What arrives meanwhile cannot be handled at once: it is stored, and a worker handles it when the lanes are free.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import asyncpg

from covey.messaging.options import LANES

_HOLD = f"SELECT pg_advisory_lock({LANES}, lane) FROM generate_series(0, 63) AS lane"
_FREE = "SELECT pg_advisory_unlock_all()"


class Lanes:
    """The lanes of one service. They are busy from the first `hold` until there was a `free` for each."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._turn = asyncio.Lock()
        self._holds = 0

    async def hold(self) -> None:
        """Take all lanes; waits until turns that have some are over."""
        self._holds += 1
        async with self._turn:
            await self._connection.execute(_HOLD)

    async def free(self) -> None:
        """Let go of them, unless somebody else wants them held as well."""
        self._holds = max(0, self._holds - 1)
        if self._holds == 0:
            await self.free_all()

    async def free_all(self) -> None:
        """Let go of them, whoever wanted them held."""
        self._holds = 0
        async with self._turn:
            await self._connection.execute(_FREE)


@asynccontextmanager
async def lanes_of(databases: Mapping[str, str]) -> AsyncIterator[dict[str, Lanes]]:
    """Have the lanes of several services, by their names, for the length of a block."""
    async with AsyncExitStack() as stack:
        found = {}
        for service, url in databases.items():
            connection = await asyncpg.connect(url)
            stack.push_async_callback(connection.close, timeout=1)
            found[service] = Lanes(connection)
        yield found
