"""The processes of the question about reads: the same accounts, read through covey, SQLAlchemy's ORM and asyncpg."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

from bench.party import Deed, play
from covey.database.pool import Database, PoolOptions
from covey.work.unit_of_work import Transactions

ROWS = 1_000_000
READERS = ("covey", "sqlalchemy", "sqlalchemy-autocommit", "asyncpg")

TABLES = f"""
CREATE TABLE account (id uuid PRIMARY KEY, version bigint NOT NULL, name text NOT NULL, email text NOT NULL,
    age smallint, created_at timestamptz NOT NULL);
INSERT INTO account SELECT lpad(to_hex(n), 32, '0')::uuid, 1, 'name ' || n, n || '@example.org', n % 100, now()
FROM generate_series(0, {ROWS} - 1) AS n;
ANALYZE account;
"""
READ = "SELECT id, version, name, email, age, created_at FROM account WHERE id = $1"

Read = Callable[[UUID], Awaitable[Any]]
"""Returns the account with this id as an object that has an `email`."""


@dataclass(frozen=True, slots=True)
class Account:
    """What a service makes of a row."""

    id: UUID
    version: int
    name: str
    email: str
    age: int | None
    created_at: Any


def reading(read: Read) -> Mapping[str, Deed]:
    """Return the deed: reads a second, with so many in flight, of ids by chance."""

    async def reads(in_flight: int, seconds: float) -> float:
        begun = time.perf_counter()
        ends = begun + seconds

        async def reader() -> int:
            done = 0
            while time.perf_counter() < ends:
                number = random.randrange(ROWS)
                if (await read(UUID(int=number))).email != f"{number}@example.org":
                    raise RuntimeError("that is somebody else")
                done += 1
            return done

        counts = await asyncio.gather(*(reader() for _ in range(in_flight)))
        return sum(counts) / (time.perf_counter() - begun)

    return {"reads": reads}


@asynccontextmanager
async def covey(settings: dict[str, Any]) -> AsyncIterator[Mapping[str, Deed]]:
    """Read as a route does."""
    options = PoolOptions(size=settings["pool"], application="bench")
    async with Database.open(settings["database_url"], options) as database:
        transactions = Transactions(database, "bench")

        async def read(id_: UUID) -> Account:
            async with transactions.begin() as work:
                return Account(*await work.fetchrow(READ, id_))

        yield reading(read)


@asynccontextmanager
async def sqlalchemy(settings: dict[str, Any], **options: Any) -> AsyncIterator[Mapping[str, Deed]]:
    """Read through the ORM: https://docs.sqlalchemy.org/en/21/orm/extensions/asyncio.html."""
    from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

    from bench.orm import Account

    url = settings["database_url"].replace("postgresql://", "postgresql+asyncpg://", 1)
    engine = create_async_engine(url, pool_size=settings["pool"], max_overflow=0, **options)
    sessions = async_sessionmaker(engine, expire_on_commit=False)

    async def read(id_: UUID) -> Account | None:
        async with sessions() as session:
            return await session.get(Account, id_)

    try:
        yield reading(read)
    finally:
        await engine.dispose()


@asynccontextmanager
async def asyncpg(settings: dict[str, Any]) -> AsyncIterator[Mapping[str, Deed]]:
    """Read through asyncpg and its own pool."""
    import asyncpg

    async with asyncpg.create_pool(settings["database_url"], min_size=2, max_size=settings["pool"]) as pool:

        async def read(id_: UUID) -> Account:
            return Account(*await pool.fetchrow(READ, id_))

        yield reading(read)


if __name__ == "__main__":
    autocommit = partial(sqlalchemy, isolation_level="AUTOCOMMIT")
    play({"covey": covey, "sqlalchemy": sqlalchemy, "sqlalchemy-autocommit": autocommit, "asyncpg": asyncpg})
