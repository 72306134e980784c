"""Keeps the lanes of a service busy, as another replica does that is in the middle of long turns.

What arrives meanwhile cannot be handled at once: it is stored, and a worker handles it when the lanes are free.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

import asyncpg

from covey.messaging.options import LANES
from covey.testing.eventually import eventually

_HOLD = "SELECT pg_advisory_lock($1, lane) FROM generate_series(0, 15) AS lane"
_FREE = "SELECT pg_advisory_unlock_all()"
_WAITING = "SELECT EXISTS (SELECT FROM covey.inbox_pending) OR EXISTS (SELECT FROM covey.hold)"
_NOTHING_WAITS = f"SELECT NOT ({_WAITING.removeprefix('SELECT ')})"
_LONG = timedelta(minutes=5)


@asynccontextmanager
async def busy_lanes(*database_urls: str) -> AsyncIterator[None]:
    """Hold all lanes in these databases, and let go of them only while something waits, or is held."""
    tasks = [asyncio.create_task(_keep_busy(url)) for url in database_urls]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task


async def _keep_busy(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        while True:
            await connection.execute(_HOLD.replace("$1", str(LANES)))
            await eventually(lambda: connection.fetchval(_WAITING), _LONG)
            await connection.execute(_FREE)
            await eventually(lambda: connection.fetchval(_NOTHING_WAITS), _LONG)
    finally:
        await connection.close(timeout=1)
