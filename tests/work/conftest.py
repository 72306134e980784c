"""A database with a table for effects, and where work on it begins."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from covey.database.pool import Database, PoolOptions
from covey.work.unit_of_work import Transactions


@pytest.fixture
async def small_pool(database_url: str) -> AsyncIterator[Database]:
    """Two connections, and little patience."""
    from datetime import timedelta

    async with Database.open(database_url, PoolOptions(size=2, wait=timedelta(milliseconds=200))) as opened:
        async with opened.acquire() as connection:
            await connection.execute("CREATE TABLE effect (n int PRIMARY KEY)")
        yield opened


@pytest.fixture
def transactions(small_pool: Database) -> Transactions:
    """Where the work of the service `shop` begins."""
    return Transactions(small_pool, "shop")
