"""Order per key comes from the database: what is read first was committed first (H1)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable

import pytest

from covey.database.pool import Connection, Database
from covey.message import Event
from covey.work.unit_of_work import Transactions

KEY_LOCK = """    PERFORM pg_advisory_xact_lock(lock)
    FROM (SELECT DISTINCT hashtextextended(key, 0) AS lock FROM unnest(p_keys) AS key ORDER BY 1) AS locks;
"""


class Moved(Event, type="shop.moved.v1", key="cart"):
    cart: str
    n: int = 0


@pytest.fixture
async def relay(small_pool: Database) -> AsyncIterator[Callable[[], object]]:
    """What a relay does: mark what it has read and read on."""
    read: list[tuple[str, int]] = []
    last: list[int] = []

    async with small_pool.connected() as connection:

        async def step() -> list[tuple[str, int]]:
            rows = await connection.fetch("SELECT * FROM covey.relay($1, 500, '{}')", last)
            last[:] = [row["position"] for row in rows]
            read.extend((row["key"], row["position"]) for row in rows)
            return read

        yield step


async def remove_the_lock_per_key(connection: Connection) -> None:
    source = await connection.fetchval("SELECT pg_get_functiondef('covey.publish'::regproc)")
    assert KEY_LOCK in source
    await connection.execute(source.replace(KEY_LOCK, ""))


def overtaken(read: list[tuple[str, int]]) -> int:
    """Count what was read after something later of its key."""
    highest: dict[str, int] = {}
    count = 0
    for key, position in read:
        count += position < highest.get(key, 0)
        highest[key] = max(position, highest.get(key, 0))
    return count


async def write(transactions: Transactions, times: int, keys: int, seed: int, messages: int) -> None:
    """Publish so many messages again and again, with a pause of random length between the writing and the commit."""
    chance = random.Random(seed)
    for n in range(times):
        async with transactions.begin() as work:
            for key in chance.sample(range(keys), messages):
                work.publish(Moved(cart=str(key), n=n))
            await work.flush()
            await asyncio.sleep(chance.uniform(0, 0.004))


async def write_and_read(database: Database, relay: Callable[[], object], messages: int = 2) -> list[tuple[str, int]]:
    transactions = Transactions(database, "shop")
    writers = asyncio.gather(*(write(transactions, 25, keys=4, seed=seed, messages=messages) for seed in range(8)))
    while not writers.done():
        await relay()
    await writers
    await relay()
    return await relay()


async def test_concurrent_writers_of_one_key_are_read_in_the_order_of_their_commits(
    database: Database, small_pool: Database, relay: Callable[[], object]
) -> None:
    read = await write_and_read(database, relay)

    assert len(read) == 8 * 25 * 2
    assert overtaken(read) == 0


async def test_concurrent_writers_of_one_message_each_are_read_in_the_order_of_their_commits(
    database: Database, small_pool: Database, relay: Callable[[], object]
) -> None:
    read = await write_and_read(database, relay, messages=1)

    assert len(read) == 8 * 25
    assert overtaken(read) == 0


async def test_without_the_lock_per_key_they_overtake_each_other(
    database: Database, small_pool: Database, relay: Callable[[], object]
) -> None:
    async with small_pool.acquire() as connection:
        await remove_the_lock_per_key(connection)

    read = await write_and_read(database, relay)

    assert len(read) == 8 * 25 * 2
    assert overtaken(read) > 0


async def test_a_late_commit_is_not_skipped(transactions: Transactions, relay: Callable[[], object]) -> None:
    async with transactions.begin() as late:
        late.publish(Moved(cart="late"))
        await late.flush()
        async with transactions.begin() as early:
            early.publish(Moved(cart="early"))
        before = list(await relay())
        await relay()

    after = await relay()

    assert [key for key, _ in before] == ["early"]
    assert [key for key, _ in after] == ["early", "late"]
    assert after[1][1] < after[0][1]


async def test_transactions_that_publish_the_same_keys_in_another_order_do_not_deadlock(database: Database) -> None:
    transactions = Transactions(database, "shop")

    async def publish(keys: list[int]) -> None:
        async with transactions.begin() as work:
            for key in keys:
                work.publish(Moved(cart=str(key)))

    chance = random.Random(1)
    await asyncio.gather(*(publish(chance.sample(range(100), 100)) for _ in range(20)))
