"""Plain reads run without a transaction around them; whatever might be more than a read does not."""

from __future__ import annotations

import asyncio

import pytest

from covey.database.pool import Database
from covey.errors import DefinitionError, QueryFailed
from covey.testing.eventually import eventually
from covey.testing.interruption import every_interruption
from covey.work.reading import is_plain_read
from covey.work.unit_of_work import Transactions

PLAIN = [
    "SELECT * FROM account WHERE id = $1",
    "\n  select name from account a join place p using (id) where a.id = any($1::uuid[]) order by name limit 3",
    'SELECT lower(email COLLATE "C") FROM account WHERE (name, id) > ($1, $2)',
    "SELECT count(*), coalesce(max(n), 0) FROM thing WHERE n IN (1, 2) AND NOT EXISTS (SELECT FROM other)",
    "SELECT 'FOR UPDATE; nextval(1)' FROM thing -- INTO x; f()\n WHERE /* FOR SHARE */ n = 1",
    "SELECT name /* a */ FROM thing /* b */ WHERE name = 'it''s -- €'",
    "SELECT * FROM unnest($1::int[]) AS n",
    'SELECT "kind" FROM "thing"',
]
MORE = [
    "SELECT 1",
    "SELECT pg_backend_pid()",
    "SELECT * FROM account WHERE id = $1 FOR UPDATE",
    "SELECT * FROM account for no key update skip locked",
    "SELECT * FROM account FOR SHARE",
    "SELECT * INTO other FROM account",
    "SELECT nextval('a') FROM account",
    "SELECT pg_advisory_xact_lock(n) FROM account",
    "SELECT covey.relay(1) FROM account",
    "SELECT * FROM covey.take($1)",
    "SELECT public.lower(name) FROM account",
    "SELECT public . lower (name) FROM account",
    'SELECT "note"(name) FROM account',
    "SELECT \"it's\", nextval('a') FROM account",
    "SELECT E'\\'', nextval('a'), '' FROM account",
    "SELECT set_config('a.b', name, true) FROM account",
    "SELECT /* a /* b */ ' */ nextval('a'), '' FROM account",
    "SELECT name --\r, nextval('a')\n FROM account",
    "SELECT a$x$, nextval('a'), a$x$ FROM account",
    "SELECT $–$ ' $–$, nextval('a'), $–$ ' $–$ FROM account",
    "SELECT –lower(name) FROM account",
    "SELECT lower\N{NO-BREAK SPACE}(name) FROM account",
    "SELECT U&\"n!0065xtval\" UESCAPE '!' ('a') FROM account",
    "SELECT a OPERATOR(public.+) b FROM account",
    "SELECT * FROM ROWS FROM (note(1), lower('a')) AS account",
    "SELECT now() FROM account",
    "SELECT current_timestamp FROM account",
    "SELECT LOCALTIMESTAMP(0) FROM account",
    "SELECT * FROM account; DELETE FROM account",
    "SELECT * FROM account TABLESAMPLE mine(1)",
    "WITH gone AS (DELETE FROM account RETURNING *) SELECT * FROM gone",
    "INSERT INTO account SELECT * FROM other",
    "UPDATE account SET name = '' RETURNING (SELECT 1 FROM other)",
    "EXPLAIN ANALYZE DELETE FROM account",
    "TABLE account",
]
TABLE = "CREATE TABLE thing (n int PRIMARY KEY); INSERT INTO thing VALUES (1), (2)"
READ = "SELECT n FROM thing WHERE n = $1"


@pytest.mark.parametrize("statement", PLAIN)
def test_what_only_reads_is_plain(statement: str) -> None:
    assert is_plain_read(statement)


@pytest.mark.parametrize("statement", MORE)
def test_what_may_be_more_is_not(statement: str) -> None:
    assert not is_plain_read(statement)


async def test_no_name_that_a_function_with_an_effect_may_have_is_plain(database: Database) -> None:
    async with database.acquire() as connection:
        names = await connection.fetch(
            """
            SELECT proname::text FROM pg_proc WHERE provolatile = 'v'
            UNION
            SELECT word FROM pg_get_keywords()
            WHERE catcode IN ('U', 'T') AND NOT EXISTS (SELECT FROM pg_proc WHERE proname = word)
            """
        )
    assert len(names) > 400

    assert [name for (name,) in names if is_plain_read(f"SELECT {name}(n) FROM thing")] == []


@pytest.fixture
async def things(small_pool: Database) -> Database:
    async with small_pool.acquire() as connection:
        await connection.execute(TABLE)
    return small_pool


class TestAPlainRead:
    async def test_is_one_round_trip_and_nothing_is_reset_after_it(
        self, transactions: Transactions, things: Database
    ) -> None:
        asked: list[str] = []
        async with transactions.begin() as work:
            await work.fetchval(READ, 1)  # asyncpg prepares it
        async with things.acquire() as connection:
            connection.add_query_logger(lambda query: asked.append(query.query))

        for n in (1, 2):
            async with transactions.begin() as work:
                assert (await work.fetchval(READ, n), (await work.fetchrow(READ, n))[0]) == (n, n)
                assert [row[0] for row in await work.fetch(READ, n)] == [n]
                assert not work.begun
        async with transactions.begin() as work:
            await work.execute("UPDATE thing SET n = n")

        await eventually(lambda: asked == [READ] * 6 + ["UPDATE thing SET n = n", "COMMIT"])

    async def test_is_prepared_once_on_a_connection(self, transactions: Transactions, things: Database) -> None:
        for n in range(20):
            async with transactions.begin() as work:
                await work.fetchval(READ, n)

        async with things.acquire() as connection:
            calls = await connection.fetchval(
                "SELECT generic_plans + custom_plans FROM pg_prepared_statements WHERE statement = $1", READ
            )
        assert calls == 20

    async def test_keeps_no_connection_while_the_block_goes_on(
        self, transactions: Transactions, things: Database
    ) -> None:
        async with transactions.begin() as one, transactions.begin() as two, transactions.begin() as three:
            for work in (one, two, three):  # of a pool of two
                assert await work.fetchval(READ, 1) == 1

    async def test_is_of_the_transaction_once_that_has_begun(
        self, transactions: Transactions, things: Database
    ) -> None:
        with pytest.raises(ZeroDivisionError):
            async with transactions.begin() as work:
                assert await work.fetchval(READ, 3) is None
                await work.execute("INSERT INTO thing VALUES (3)")
                assert await work.fetchval(READ, 3) == 3
                raise ZeroDivisionError

        async with transactions.begin() as work:
            assert await work.fetchval(READ, 3) is None

    async def test_that_fails_spoils_neither_its_connection_nor_what_comes_after_it(
        self, transactions: Transactions, things: Database
    ) -> None:
        async with transactions.begin() as work:
            with pytest.raises(QueryFailed):
                await work.fetchval("SELECT 1 / (n - 1) FROM thing WHERE n = 1")
            await work.execute("INSERT INTO thing VALUES (3)")

        async with transactions.begin() as work:
            assert await work.fetchval(READ, 3) == 3

    async def test_is_one_at_a_time(self, transactions: Transactions, things: Database) -> None:
        async with transactions.begin() as work:
            outcomes = await asyncio.gather(*(work.fetchval(READ, n) for n in (1, 2)), return_exceptions=True)

        assert outcomes[0] == 1
        assert isinstance(outcomes[1], DefinitionError)

    async def test_is_not_run_when_the_block_has_ended(self, transactions: Transactions, things: Database) -> None:
        async with transactions.begin() as work:
            pass

        with pytest.raises(DefinitionError, match="ended"):
            await work.fetchval(READ, 1)

    async def test_cancelled_at_any_point_gives_its_connection_back(
        self, transactions: Transactions, things: Database
    ) -> None:
        async def read_once() -> None:
            async with transactions.begin() as work:
                await work.fetchval(READ, 1)

        async for _ in every_interruption(read_once):
            async with things.acquire() as one, things.acquire() as two:
                assert await one.fetchval(READ, 1) == await two.fetchval(READ, 1) == 1
            assert things.usage[0] == things.usage[1]


class TestWhatIsMore:
    async def test_keeps_its_locks_until_the_block_ends(self, transactions: Transactions, things: Database) -> None:
        async with transactions.begin() as one, transactions.begin() as other:
            await one.fetchval("SELECT n FROM thing WHERE n = 1 FOR UPDATE")

            assert await other.fetchval("SELECT n FROM thing WHERE n = 1 FOR UPDATE SKIP LOCKED") is None

    async def test_has_no_effect_when_the_block_fails(self, transactions: Transactions, things: Database) -> None:
        async with things.acquire() as connection:
            await connection.execute(
                "CREATE FUNCTION taken(int) RETURNS int LANGUAGE sql AS 'DELETE FROM thing WHERE n = $1 RETURNING n'"
            )
        with pytest.raises(ZeroDivisionError):
            async with transactions.begin() as work:
                assert await work.fetchval("SELECT taken(n) FROM thing WHERE n = 1") == 1
                raise ZeroDivisionError

        async with transactions.begin() as work:
            assert await work.fetchval(READ, 1) == 1
