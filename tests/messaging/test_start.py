"""How messaging begins."""

from __future__ import annotations

import pytest

from covey.database.pool import Database
from covey.errors import ConfigurationError
from covey.messaging.brokers.memory import MemoryBroker
from covey.testing.replica import replica


async def test_a_database_that_nobody_has_migrated_is_refused_with_what_to_do(
    memory_broker: MemoryBroker, shop_url: str
) -> None:
    """Or an app without covey's Service would wait for ever, and say nothing where it has set no logging up."""
    async with Database.open(shop_url) as database, database.acquire() as connection:
        await connection.execute("DROP SCHEMA covey CASCADE")

    with pytest.raises(ConfigurationError, match="the database of shop has no tables of covey: migrate it first"):
        async with replica("shop", shop_url, memory_broker, []):
            pytest.fail("it has begun")
