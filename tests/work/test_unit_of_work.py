"""One transaction: all of it or nothing, and never a connection that it has spoilt."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import pytest

from covey.database.pool import Database
from covey.errors import (
    ConstraintViolated,
    DatabaseUnavailable,
    DefinitionError,
    Invalid,
    PoolExhausted,
    QueryFailed,
    TooLarge,
)
from covey.ids import new_id
from covey.message import Command, Event
from covey.testing.eventually import eventually
from covey.testing.interruption import every_interruption
from covey.work.outbox import MAX_BODY_BYTES, MAX_HEADERS_BYTES, MAX_KEY_LENGTH, MAX_KEYS
from covey.work.unit_of_work import Transactions, Work


class Placed(Event, type="shop.placed.v1", key="order"):
    order: str
    note: str = ""


class Foreign(Event, type="billing.paid.v1", key="order"):
    order: str


class Bill(Command, type="billing.bill.v1", key="order"):
    order: str


class Untyped(Event):
    order: str


class Keyless(Event, type="shop.noted.v1"):
    order: str


async def stored(database: Database) -> tuple[int, int, int]:
    """Return how many effects, messages and messages to publish there are."""
    async with database.acquire() as connection:
        row = await connection.fetchrow(
            "SELECT (SELECT count(*) FROM effect), (SELECT count(*) FROM covey.outbox),"
            " (SELECT count(*) FROM covey.outbox_pending)"
        )
    return tuple(row)


async def sessions(database: Database) -> list[tuple[str, int]]:
    """Return the states of the pool's sessions, and how many locks each holds on rows or by number."""
    async with database.acquire() as connection:
        rows = await connection.fetch(
            "SELECT state, (SELECT count(*) FROM pg_locks l WHERE l.pid = a.pid"
            " AND locktype IN ('transactionid', 'advisory', 'tuple')) FROM pg_stat_activity a"
            " WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
    return [(row[0], row[1]) for row in rows]


async def backends(work: Work) -> int:
    return int(await work.fetchval("SELECT pg_backend_pid()"))


class TestAtomicity:
    async def test_effect_and_message_are_there_together_after_the_block(
        self, transactions: Transactions, small_pool: Database
    ) -> None:
        async with transactions.begin() as work:
            await work.execute("INSERT INTO effect VALUES (1)")
            work.publish(Placed(order="a"))

        assert await stored(small_pool) == (1, 1, 1)

    async def test_an_error_in_the_block_leaves_neither(self, transactions: Transactions, small_pool: Database) -> None:
        with pytest.raises(ZeroDivisionError):
            async with transactions.begin() as work:
                await work.execute("INSERT INTO effect VALUES (1)")
                work.defer("INSERT INTO effect VALUES ($1)", 2)
                work.publish(Placed(order="a"))
                raise ZeroDivisionError

        assert await stored(small_pool) == (0, 0, 0)

    async def test_a_message_that_cannot_be_written_takes_the_effect_with_it(
        self, transactions: Transactions, small_pool: Database
    ) -> None:
        with pytest.raises(Invalid):
            async with transactions.begin() as work:
                await work.execute("INSERT INTO effect VALUES (1)")
                work.publish(Placed(order="a\x00b"))

        assert await stored(small_pool) == (0, 0, 0)

    async def test_a_deferred_statement_that_fails_takes_everything_with_it(
        self, transactions: Transactions, small_pool: Database
    ) -> None:
        with pytest.raises(ConstraintViolated) as caught:
            async with transactions.begin() as work:
                await work.execute("INSERT INTO effect VALUES (1)")
                work.defer("INSERT INTO effect VALUES ($1)", 1)
                work.publish(Placed(order="a"))

        assert caught.value.constraint == "effect_pkey"
        assert await stored(small_pool) == (0, 0, 0)

    async def test_deferred_statements_of_one_text_are_all_run(
        self, transactions: Transactions, small_pool: Database
    ) -> None:
        async with transactions.begin() as work:
            for n in range(50):
                work.defer("INSERT INTO effect VALUES ($1)", n)

        assert await stored(small_pool) == (50, 0, 0)

    async def test_what_only_publishes_needs_no_statement(
        self, transactions: Transactions, small_pool: Database
    ) -> None:
        async with transactions.begin() as work:
            message_id = work.publish(Placed(order="a"))

        async with small_pool.acquire() as connection:
            assert await connection.fetchval("SELECT id FROM covey.outbox") == message_id

    async def test_work_without_a_statement_takes_no_connection(self, transactions: Transactions) -> None:
        async with transactions.begin(), transactions.begin(), transactions.begin(), transactions.begin() as work:
            assert await work.fetchval("SELECT 1") == 1

    async def test_whoever_waits_is_told_after_the_commit_and_only_then(self, small_pool: Database) -> None:
        told: list[Work] = []
        transactions = Transactions(small_pool, "shop", on_commit=told.append)

        with pytest.raises(ZeroDivisionError):
            async with transactions.begin() as work:
                work.publish(Placed(order="a"))
                raise ZeroDivisionError
        async with transactions.begin() as reading:
            await reading.fetchval("SELECT 1")
        assert told == []

        async with transactions.begin() as work:
            work.publish(Placed(order="a"))
            await work.flush()
            assert told == []

        assert told == [work]


class TestOneStatement:
    """What is written at the end in one statement, after nothing, is a transaction without another around it."""

    async def test_takes_one_round_trip(self, transactions: Transactions, small_pool: Database) -> None:
        asked: list[str] = []
        async with transactions.begin() as work:  # asyncpg asks for types the first time
            work.publish(Placed(order="a"))
            work.publish(Placed(order="b"))
        async with small_pool.acquire() as connection:
            connection.add_query_logger(lambda query: asked.append(query.query))

        async with transactions.begin() as work:
            work.publish(Placed(order="c"))
            work.publish(Placed(order="d"))

        assert await stored(small_pool) == (0, 4, 4)
        await eventually(lambda: len(asked) == 2)
        assert "covey.publish" in asked[0]
        assert "count(*)" in asked[1]

    async def test_beside_another_is_not_one(self, transactions: Transactions, small_pool: Database) -> None:
        with pytest.raises(ConstraintViolated):
            async with transactions.begin() as work:
                work.defer("INSERT INTO effect VALUES ($1)", 1)
                work.defer("INSERT INTO effect VALUES ($1 + 0)", 1)

        assert await stored(small_pool) == (0, 0, 0)

    async def test_for_many_rows_is_all_of_them_or_none(self, transactions: Transactions, small_pool: Database) -> None:
        with pytest.raises(ConstraintViolated):
            async with transactions.begin() as work:
                for n in [*range(20_000), 7]:
                    work.defer("INSERT INTO effect VALUES ($1)", n)

        assert await stored(small_pool) == (0, 0, 0)

    async def test_that_is_refused_when_it_commits_is_an_error(
        self, transactions: Transactions, small_pool: Database
    ) -> None:
        async with transactions.begin() as work:
            await work.execute("CREATE TABLE late (n int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
            await work.execute("INSERT INTO late VALUES (1)")

        with pytest.raises(ConstraintViolated):
            async with transactions.begin() as work:
                work.defer("INSERT INTO late VALUES ($1)", 1)

        async with transactions.begin() as work:
            assert await work.fetchval("SELECT count(*) FROM late") == 1

    async def test_after_a_flush_is_part_of_the_transaction(
        self, transactions: Transactions, small_pool: Database
    ) -> None:
        with pytest.raises(ZeroDivisionError):
            async with transactions.begin() as work:
                work.publish(Placed(order="a"))
                await work.flush()
                raise ZeroDivisionError

        assert await stored(small_pool) == (0, 0, 0)

    async def test_cancelled_at_any_point_leaves_nothing_or_everything(
        self, transactions: Transactions, small_pool: Database
    ) -> None:
        async def work_once() -> None:
            async with transactions.begin() as work:
                work.publish(Placed(order="a"))
                work.publish(Placed(order="b"))

        before = 0
        async for point in every_interruption(work_once):
            _, messages, pending = await stored(small_pool)
            assert messages == pending
            assert messages in (before, before + 2), point
            assert not point.completed or messages == before + 2
            await eventually(lambda: _idle(small_pool))
            before = messages

        assert before > 0


class TestAFailedTransaction:
    async def test_whose_error_was_caught_does_not_commit_in_silence(
        self, transactions: Transactions, small_pool: Database
    ) -> None:
        with pytest.raises(QueryFailed, match="rolled back"):
            async with transactions.begin() as work:
                await work.execute("INSERT INTO effect VALUES (1)")
                with pytest.raises(ConstraintViolated):
                    await work.execute("INSERT INTO effect VALUES (1)")

        assert await stored(small_pool) == (0, 0, 0)

    async def test_may_go_on_from_a_savepoint(self, transactions: Transactions, small_pool: Database) -> None:
        async with transactions.begin() as work:
            await work.execute("INSERT INTO effect VALUES (1)")
            await work.execute("SAVEPOINT before")
            with pytest.raises(ConstraintViolated):
                await work.execute("INSERT INTO effect VALUES (1)")
            await work.execute("ROLLBACK TO SAVEPOINT before")

        assert await stored(small_pool) == (1, 0, 0)

    async def test_leaves_its_connection_usable(self, transactions: Transactions) -> None:
        for _ in range(5):
            with pytest.raises(QueryFailed):
                async with transactions.begin() as work:
                    await work.execute("SELECT * FROM nowhere")

        async with transactions.begin() as work:
            assert await work.fetchval("SELECT 1") == 1

    async def test_that_was_ended_inside_does_not_count_as_committed(
        self, transactions: Transactions, small_pool: Database
    ) -> None:
        with pytest.raises(QueryFailed, match="ended"):
            async with transactions.begin() as work:
                await work.execute("INSERT INTO effect VALUES (1); /* hidden: /* */ ' */ ROLLBACK WORK -- '")

        assert await stored(small_pool) == (0, 0, 0)


LASTING = [
    "SET search_path TO public",
    "set session statement_timeout = 0",
    "SET SESSION AUTHORIZATION DEFAULT",
    "RESET ALL",
    "DISCARD ALL",
    "LISTEN x",
    "UNLISTEN *",
    "PREPARE p AS SELECT 1",
    "DEALLOCATE ALL",
    "LOAD 'auto_explain'",
    "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
    "CREATE TEMP TABLE t (n int)",
    "CREATE TEMPORARY TABLE t (n int)",
    "SELECT pg_advisory_lock(1)",
    "SELECT pg_try_advisory_lock_shared(1)",
    "SELECT n, pg_advisory_lock(n) FROM generate_series(1, 2) n",
    "WITH x AS (SELECT 1) SELECT pg_catalog.pg_advisory_lock(1) FROM x",
    "SELECT set_config('search_path', 'x', false)",
    "SELECT set_config('search_path', $1, FALSE )",
    "SELECT set_config('a.b', (SELECT 'x'), false)",
    "SELECT coalesce(set_config('a.b', lower('X'), (1 = 2)), '')",
    "SELECT set_config('a.b', 'x, true)', $1)",
    "SELECT set_config('a.b', 'x', false), coalesce(NULL, true)",
    "SELECT set_config('a.b', set_config('a.c', 'x', false), true)",
    "SELECT pg_catalog.\"set_config\" ('a.b', 'x', 'f')",
    "DO $$ BEGIN PERFORM set_config('a.b', 'x', false); END $$",
    "DO LANGUAGE plpgsql 'BEGIN SET a.b = 1; END'",
    "SELECT 1; DO $$ BEGIN PERFORM 1; END $$",
    "UPDATE pg_settings SET setting = 'x' WHERE name = 'search_path'",
    "SELECT 1 AS n INTO TEMP t",
    "CREATE OR REPLACE TEMP VIEW v AS SELECT 1",
    "BEGIN",
    "START TRANSACTION",
    "COMMIT",
    "END",
    "ROLLBACK",
    "ROLLBACK;",
    "ABORT",
    "-- why\nSET search_path TO public",
    "/* why */ COMMIT",
    "  \n\tCOMMIT",
    "SELECT 1; COMMIT; BEGIN",
    "SELECT ';' ;-- why\nSET search_path TO public",
    "DO $$ BEGIN PERFORM 1; END $$; RESET ALL",
]
HARMLESS = [
    "SET LOCAL search_path TO public",
    "SET CONSTRAINTS ALL DEFERRED",
    "SET TRANSACTION READ ONLY",
    "SAVEPOINT a",
    "DECLARE c CURSOR FOR SELECT 1",
    "SELECT pg_advisory_xact_lock(1)",
    "SELECT pg_try_advisory_xact_lock(1)",
    "SELECT set_config('search_path', 'public', true)",
    "SELECT 'SET' AS reset",
    "CREATE TEMP TABLE t (n int) ON COMMIT DROP",
    "/* SET x */ SELECT 1",
    "-- COMMIT\nSELECT 1",
    "SELECT 1; SET LOCAL search_path TO public",
    "SELECT '; COMMIT', $x$ ; COMMIT $x$ /* ; COMMIT */ -- ; COMMIT",
    'SELECT 1 AS "; COMMIT"',
    "SELECT set_config('a.b', (SELECT lower('X, false)')), TRUE )",
    "CREATE TABLE temp (n int)",
    "INSERT INTO temp VALUES (1)",
]


class TestWhatWouldOutliveTheTransaction:
    async def test_is_refused(self, transactions: Transactions, subtests: pytest.Subtests) -> None:
        async with transactions.begin() as work:
            for statement in LASTING:
                with subtests.test(statement), pytest.raises(DefinitionError, match="not allowed in a Work"):
                    await work.execute(statement)

    async def test_is_told_from_what_does_not(self, transactions: Transactions, subtests: pytest.Subtests) -> None:
        for statement in HARMLESS:
            with subtests.test(statement):
                async with transactions.begin() as work:
                    await work.execute(statement)

    async def test_is_refused_however_it_is_asked(self, transactions: Transactions) -> None:
        async with transactions.begin() as work:
            for ask in (work.execute, work.fetch, work.fetchrow, work.fetchval):
                with pytest.raises(DefinitionError):
                    await ask("SELECT pg_advisory_lock(1)")
            with pytest.raises(DefinitionError):
                work.defer("SELECT pg_advisory_lock(1)")


class TestPublishing:
    async def test_an_event_of_another_service_is_refused(self, transactions: Transactions) -> None:
        with pytest.raises(DefinitionError, match="send a Command"):
            async with transactions.begin() as work:
                work.publish(Foreign(order="a"))

    async def test_a_command_to_another_service_is_not(self, transactions: Transactions, small_pool: Database) -> None:
        async with transactions.begin() as work:
            work.publish(Bill(order="a"))

        async with small_pool.acquire() as connection:
            row = await connection.fetchrow("SELECT stream, kind, type, key FROM covey.outbox")
        assert tuple(row) == ("billing", "command", "billing.bill.v1", "a")

    async def test_a_message_without_type_or_key_is_refused(self, transactions: Transactions) -> None:
        async with transactions.begin() as work:
            with pytest.raises(DefinitionError, match="declares no type"):
                work.publish(Untyped(order="a"))
            with pytest.raises(DefinitionError, match="declares no key"):
                work.publish(Keyless(order="a"))

    async def test_what_is_too_large_is_refused_when_it_is_published(self, transactions: Transactions) -> None:
        async with transactions.begin() as work:
            with pytest.raises(TooLarge):
                work.publish(Placed(order="a", note="x" * MAX_BODY_BYTES))
            with pytest.raises(TooLarge):
                work.publish(Placed(order="k" * (MAX_KEY_LENGTH + 1)))
            with pytest.raises(TooLarge):
                work.publish(Placed(order="a"), {"note": "é" * (MAX_HEADERS_BYTES // 2)})
            work.publish(Placed(order="k" * MAX_KEY_LENGTH, note="x" * (MAX_BODY_BYTES - MAX_KEY_LENGTH - 100)))

    async def test_too_many_keys_are_refused_and_leave_nothing(
        self, transactions: Transactions, small_pool: Database
    ) -> None:
        with pytest.raises(TooLarge, match="at most"):
            async with transactions.begin() as work:
                await work.execute("INSERT INTO effect VALUES (1)")
                for n in range(MAX_KEYS + 1):
                    work.publish(Placed(order=str(n)))

        assert await stored(small_pool) == (0, 0, 0)

    async def test_messages_keep_the_order_of_the_calls(self, transactions: Transactions, small_pool: Database) -> None:
        async with transactions.begin() as work:
            ids = [work.publish(Placed(order=str(n % 3))) for n in range(200)]

        async with small_pool.acquire() as connection:
            rows = await connection.fetch("SELECT id FROM covey.outbox ORDER BY position")
        assert [row[0] for row in rows] == ids

    async def test_an_id_is_made_with_the_message_and_is_a_uuid_of_version_7(self, transactions: Transactions) -> None:
        async with transactions.begin() as work:
            message_id = work.publish(Placed(order="a"))

        assert isinstance(message_id, UUID)
        assert message_id.version == 7


class TestThePool:
    async def test_that_is_exhausted_says_so_within_its_budget(self, transactions: Transactions) -> None:
        loop = asyncio.get_running_loop()
        async with transactions.begin() as one, transactions.begin() as two:
            await one.fetchval("SELECT 1")
            await two.fetchval("SELECT 1")

            begun = loop.time()
            with pytest.raises(PoolExhausted) as caught:
                async with transactions.begin() as three:
                    await three.fetchval("SELECT 1")

        assert 0.15 < loop.time() - begun < 1.0
        assert caught.value.retry_after is not None

    async def test_gets_its_connections_back_from_work_that_tried_again(self, transactions: Transactions) -> None:
        """A handler that catches the error of its first statement and asks again must not keep two connections."""
        async with transactions.begin() as one, transactions.begin() as two:
            await one.fetchval("SELECT 1")
            async with transactions.begin() as refused:
                await two.fetchval("SELECT 1")
                for _ in range(2):
                    with pytest.raises(PoolExhausted):
                        await refused.fetchval("SELECT 1")

        async with transactions.begin() as one, transactions.begin() as two:
            assert await one.fetchval("SELECT 1") == await two.fetchval("SELECT 1")

    async def test_is_not_robbed_by_two_statements_at_once(
        self, transactions: Transactions, small_pool: Database
    ) -> None:
        """Two first statements of one work must not become two transactions, one of which is forgotten."""
        with pytest.raises((DefinitionError, QueryFailed)):
            async with transactions.begin() as work:
                await asyncio.gather(
                    work.execute("INSERT INTO effect VALUES (1)"), work.execute("INSERT INTO effect VALUES (2)")
                )

        assert await stored(small_pool) == (0, 0, 0)
        async with transactions.begin() as one, transactions.begin() as two:
            assert await one.fetchval("SELECT 1") == await two.fetchval("SELECT 1")

    async def test_gives_none_to_work_whose_block_has_ended(self, transactions: Transactions) -> None:
        async with transactions.begin() as work:
            pass
        for _ in range(3):
            with pytest.raises(DefinitionError, match="has ended"):
                await work.execute("INSERT INTO effect VALUES (1)")

        async with transactions.begin() as one, transactions.begin() as two:
            assert await one.fetchval("SELECT 1") == await two.fetchval("SELECT 1")

    async def test_is_not_reached_through_a_work_whose_block_has_ended(
        self, transactions: Transactions, small_pool: Database
    ) -> None:
        """A stream or a task that still holds it would write into the transaction of whoever has the connection now."""
        async with transactions.begin() as old:
            await old.fetchval("SELECT 1")
        async with transactions.begin() as one, transactions.begin() as two:
            for work in (one, two):
                await work.fetchval("SELECT 1")
            with pytest.raises(DefinitionError, match="has ended"):
                await old.execute("INSERT INTO effect VALUES (1)")

        assert await stored(small_pool) == (0, 0, 0)

    async def test_gets_nothing_to_write_from_a_work_whose_block_has_ended(self, transactions: Transactions) -> None:
        async with transactions.begin() as old:
            await old.fetchval("SELECT 1")

        with pytest.raises(DefinitionError, match="has ended"):
            old.defer("INSERT INTO effect VALUES (1)")
        with pytest.raises(DefinitionError, match="has ended"):
            old.publish(Placed(order="a"))

    async def test_gets_back_a_connection_whose_server_process_died(self, transactions: Transactions) -> None:
        with pytest.raises(DatabaseUnavailable):
            async with transactions.begin() as work:
                mine = await backends(work)
                async with transactions.begin() as killer:
                    await killer.fetchval("SELECT pg_terminate_backend($1)", mine)
                await work.fetchval("SELECT 1")

        async with transactions.begin() as one, transactions.begin() as two:
            assert await backends(one) != await backends(two)

    async def test_of_a_commit_that_is_cut_off_says_that_nobody_knows(self, transactions: Transactions) -> None:
        with pytest.raises(DatabaseUnavailable):
            async with transactions.begin() as work:
                mine = await backends(work)
                async with transactions.begin() as killer:
                    await killer.fetchval("SELECT pg_terminate_backend($1)", mine)


class TestCancellation:
    async def test_at_any_point_leaves_nothing_or_everything_and_a_clean_connection(
        self, transactions: Transactions, small_pool: Database
    ) -> None:
        number = 0

        async def work_once() -> None:
            nonlocal number
            number += 1
            async with transactions.begin() as work:
                await work.execute("INSERT INTO effect VALUES ($1)", number)
                await work.fetchval("SELECT pg_advisory_xact_lock(7)")
                work.defer("UPDATE effect SET n = n WHERE n = $1", number)
                work.publish(Placed(order="a"))

        points = 0
        before = (0, 0, 0)
        async for point in every_interruption(work_once):
            points += 1
            after = await stored(small_pool)
            assert after == before or after == (before[0] + 1, before[1] + 1, before[2] + 1), point
            assert not point.completed or after != before
            await eventually(lambda: _idle(small_pool))
            before = after

        assert points > 5

    async def test_at_any_point_gives_every_connection_back(self, transactions: Transactions) -> None:
        async def work_once() -> None:
            async with transactions.begin() as work:
                await work.fetchval("SELECT 1")

        async for _ in every_interruption(work_once):
            async with transactions.begin() as one, transactions.begin() as two:
                assert await backends(one) != await backends(two)

    async def test_of_a_statement_that_waits_for_a_lock_frees_what_it_had_locked(
        self, transactions: Transactions, small_pool: Database
    ) -> None:
        async with transactions.begin() as holder:
            await holder.fetchval("SELECT pg_advisory_xact_lock(1)")

            async def wait() -> None:
                async with transactions.begin() as work:
                    await work.fetchval("SELECT pg_advisory_xact_lock(2)")
                    await work.fetchval("SELECT pg_advisory_xact_lock(1)")

            waiting = asyncio.create_task(wait())
            await eventually(lambda: _locked_by_another(holder, 2))
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting

            assert await holder.fetchval("SELECT pg_try_advisory_xact_lock(2)")


async def _idle(database: Database) -> bool:
    found = await sessions(database)
    assert all(one == ("idle", 0) for one in found), found
    return True


async def _locked_by_another(work: Work, number: int) -> Any:
    return await work.fetchval(
        "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = $1 AND pid <> pg_backend_pid())",
        number,
    )


def test_ids_of_one_process_are_unique() -> None:
    assert len({new_id() for _ in range(10_000)}) == 10_000
