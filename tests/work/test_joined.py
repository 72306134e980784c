"""Messages in a transaction that somebody else owns, as an application on SQLAlchemy has it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from covey.database.pool import Connection, Database
from covey.errors import DefinitionError, TooLarge
from covey.message import Event
from covey.work.unit_of_work import Transactions


class Placed(Event, type="shop.placed.v1", key="order"):
    order: str


@pytest.fixture
async def engine(database_url: str, small_pool: Database) -> AsyncIterator[AsyncEngine]:
    """SQLAlchemy on asyncpg, which sets codecs of its own on its connections."""
    engine = create_async_engine(database_url.replace("postgresql://", "postgresql+asyncpg://"))
    yield engine
    await engine.dispose()


async def driver(session: AsyncSession) -> Connection:
    raw = await (await session.connection()).get_raw_connection()
    return raw.driver_connection


async def counts(database: Database) -> tuple[int, ...]:
    async with database.acquire() as connection:
        return tuple(
            await connection.fetchrow(
                "SELECT (SELECT count(*) FROM effect), (SELECT count(*) FROM covey.outbox),"
                " (SELECT count(*) FROM covey.outbox_pending)"
            )
        )


async def test_messages_commit_with_a_transaction_of_sqlalchemy(
    engine: AsyncEngine, transactions: Transactions, small_pool: Database
) -> None:
    async with AsyncSession(engine) as session, session.begin():
        await session.execute(text("INSERT INTO effect VALUES (1)"))
        async with transactions.joined(await driver(session)) as work:
            message_id = work.publish(Placed(order="a"), {"note": "é"})

    assert await counts(small_pool) == (1, 1, 1)
    async with small_pool.acquire() as connection:
        row = await connection.fetchrow("SELECT id, body, headers->>'note' AS note FROM covey.outbox")
    assert (row["id"], bytes(row["body"]), row["note"]) == (message_id, b'{"order":"a"}', "é")


async def test_messages_are_rolled_back_with_a_transaction_of_sqlalchemy(
    engine: AsyncEngine, transactions: Transactions, small_pool: Database
) -> None:
    with pytest.raises(ZeroDivisionError):
        async with AsyncSession(engine) as session, session.begin():
            await session.execute(text("INSERT INTO effect VALUES (1)"))
            async with transactions.joined(await driver(session)) as work:
                work.publish(Placed(order="a"))
            raise ZeroDivisionError

    assert await counts(small_pool) == (0, 0, 0)


async def test_the_owner_of_the_transaction_decides_when_it_ends(
    engine: AsyncEngine, transactions: Transactions, small_pool: Database
) -> None:
    async with AsyncSession(engine) as session:
        await session.execute(text("INSERT INTO effect VALUES (1)"))
        async with transactions.joined(await driver(session)) as work:
            work.publish(Placed(order="a"))
        assert await counts(small_pool) == (0, 0, 0)

        await session.commit()

    assert await counts(small_pool) == (1, 1, 1)


async def test_a_session_that_has_run_no_statement_has_begun_nothing_to_join(
    engine: AsyncEngine, transactions: Transactions
) -> None:
    async with AsyncSession(engine) as session:
        with pytest.raises(DefinitionError, match="first statement"):
            async with transactions.joined(await driver(session)):
                pytest.fail("messages would be written without their effect")


async def test_a_connection_without_a_transaction_is_refused(transactions: Transactions, small_pool: Database) -> None:
    async with small_pool.acquire() as connection:
        with pytest.raises(DefinitionError, match="open transaction"):
            async with transactions.joined(connection) as work:
                work.publish(Placed(order="a"))

    assert await counts(small_pool) == (0, 0, 0)


async def test_an_error_in_the_block_writes_no_messages_even_if_its_owner_goes_on(
    engine: AsyncEngine, transactions: Transactions, small_pool: Database
) -> None:
    async with AsyncSession(engine) as session, session.begin():
        await session.execute(text("INSERT INTO effect VALUES (1)"))
        with pytest.raises(TooLarge):
            async with transactions.joined(await driver(session)) as work:
                work.publish(Placed(order="a"))
                work.publish(Placed(order="k" * 1_000))

    assert await counts(small_pool) == (1, 0, 0)
