"""The processes of the question about caching: one that reads through covey's cache, one that does through cashews.

Both keep the same user of 230 bytes of JSON in the same Valkey. What covey returns is validated on each hit; cashews
unpickles.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from bench.party import Deed, play
from covey.cache.caches import Caches
from covey.cache.options import CacheOptions
from covey.cache.reads import cached
from covey.database.pool import Database
from covey.resilience.bulkhead import BulkheadOptions
from covey.telemetry.metrics import Metrics
from covey.valkey.client import Valkey
from covey.work.unit_of_work import Transactions, Work

TABLES = "CREATE TABLE thing (id bigint PRIMARY KEY, version bigint NOT NULL)"
USERS = 4_999  # a prime, so that steps of any length come to all of them
READERS = 3
HOLD = timedelta(milliseconds=500)


class User(BaseModel):
    """What is read."""

    model_config = ConfigDict(frozen=True)

    id: UUID
    email: str
    name: str
    age: int
    country: str
    tags: tuple[str, ...]
    created_at: str


class Thing(BaseModel):
    """What is changed."""

    model_config = ConfigDict(frozen=True)

    id: int
    version: int


def user(n: int) -> User:
    """Return the n-th user."""
    return User(
        id=UUID(int=n),
        email=f"user{n}@example.com",
        name="Ada Lovelace of Ockham",
        age=36,
        country="GB",
        tags=("early", "prefers-mail"),
        created_at="2026-01-01T00:00:00Z",
    )


@cached("user", CacheOptions(ttl=timedelta(hours=1), loads=BulkheadOptions(waiting=USERS)))
async def user_by_number(work: Work, number: int) -> User | None:
    """Return a user, from nowhere."""
    return user(number)


@cached("thing", CacheOptions(hold=HOLD))
async def thing_by_id(work: Work, id_: int) -> Thing | None:
    """Return a thing from the database."""
    row = await work.fetchrow("SELECT id, version FROM thing WHERE id = $1", id_)
    return Thing(**dict(row)) if row else None


async def rate(read: Callable[[int], Awaitable[User | None]], in_flight: int, seconds: float) -> float:
    """Read from so many tasks for so long; return reads a second.

    Each in an order of its own: readers of one thing at one moment share an answer of cashews, and would from then on.
    """
    count, until = 0, time.perf_counter() + seconds

    async def reader(step: int) -> None:
        nonlocal count
        n = random.randrange(USERS)
        while time.perf_counter() < until:
            n = (n + step) % USERS
            found = await read(n)
            assert found is not None
            count += 1

    begun = time.perf_counter()
    await asyncio.gather(*(reader(step) for step in range(1, in_flight + 1)))
    return count / (time.perf_counter() - begun)


class Ours:
    """Reads and changes through covey."""

    def __init__(self, valkey: Valkey, transactions: Transactions) -> None:
        self._valkey = valkey
        self._transactions = transactions

    async def hits(self, in_flight: int, seconds: float) -> float:
        """Return hits a second; each read has a `Work` of its own, as a request has."""

        async def read(n: int) -> User | None:
            async with self._transactions.begin() as work:
                return await user_by_number(work, n)

        await asyncio.gather(*(read(n) for n in range(USERS)))
        return await rate(read, in_flight, seconds)

    async def crowd(self, number: int, key: int, count: str) -> int:
        """Read one thing so often at once; a load takes 50 ms and is counted in Valkey. Return how many found it."""
        cache = self._transactions.resources[Caches].of(user_by_number)

        async def load() -> User:
            await self._valkey.call("INCR", count)
            await asyncio.sleep(0.05)
            return user(key)

        return sum(found == user(key) for found in await asyncio.gather(*(cache.get(key, load) for _ in range(number))))

    async def read(self, first: int, number: int) -> None:
        """Read each of these things several times at random moments."""

        async def one(id_: int) -> None:
            await asyncio.sleep(random.uniform(0, 0.05))
            await self._thing(id_)

        await asyncio.gather(*(one(id_) for id_ in range(first, first + number) for _ in range(READERS)))

    async def write(self, first: int, number: int) -> None:
        """Change each of these things at a random moment."""

        async def one(id_: int) -> None:
            await asyncio.sleep(random.uniform(0, 0.05))
            async with self._transactions.begin() as work:
                await work.execute("UPDATE thing SET version = version + 1 WHERE id = $1", id_)
                await thing_by_id.changing(work, id_)

        await asyncio.gather(*(one(id_) for id_ in range(first, first + number)))

    async def stale(self, first: int, number: int, version: int) -> int:
        """Return how many of these things are not found at that version."""
        found = await asyncio.gather(*(self._thing(id_) for id_ in range(first, first + number)))
        return sum(thing is None or thing.version != version for thing in found)

    async def _thing(self, id_: int) -> Thing | None:
        async with self._transactions.begin() as work:
            return await thing_by_id(work, id_)


@asynccontextmanager
async def ours(settings: dict[str, Any]) -> AsyncIterator[Mapping[str, Deed]]:
    """Open a database and Valkey as a service does."""
    async with Database.open(settings["database_url"]) as database, Valkey.open(settings["valkey_url"]) as valkey:
        transactions = Transactions(database, "bench")
        transactions.resources[Caches] = Caches(valkey, settings["system"], "bench", Metrics())
        party = Ours(valkey, transactions)
        yield {"hits": party.hits, "crowd": party.crowd, "read": party.read, "write": party.write, "stale": party.stale}


@asynccontextmanager
async def theirs(settings: dict[str, Any]) -> AsyncIterator[Mapping[str, Deed]]:
    """Open cashews on the same Valkey; it knows only Redis's name for the scheme."""
    from cashews import Cache

    cache = Cache()
    url = settings["valkey_url"].replace("valkey://", "redis://")
    # By itself it takes what Valkey does not answer within a second for a miss; then it would measure its loads.
    cache.setup(url, max_connections=64, wait_for_connection_timeout=60, socket_timeout=60, suppress=False)
    prefix, loads = settings["system"], 0

    @cache(ttl="1h", key=prefix + ":{n}")
    async def plain(n: int) -> User:
        nonlocal loads
        loads += 1
        return user(n)

    async def hits(in_flight: int, seconds: float) -> float:
        await asyncio.gather(*(plain(n) for n in range(USERS)))
        before = loads
        found = await rate(plain, in_flight, seconds)
        if loads > before:
            raise RuntimeError(f"{loads - before} of these were no hits")
        return found

    try:
        yield {"hits": hits}
    finally:
        await cache.close()


if __name__ == "__main__":
    play({"ours": ours, "theirs": theirs})
