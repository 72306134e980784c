"""No exception of asyncpg leaves the database layer, and each says whether a retry may help."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator

import asyncpg
import pytest

from covey.database.errors import DRIVER_ERRORS, FENCED, ServerFull, translate, translated
from covey.database.pool import Database
from covey.errors import (
    ConstraintViolated,
    Contention,
    CoveyError,
    DatabaseUnavailable,
    Fenced,
    Invalid,
    QueryFailed,
    TransactionAborted,
)
from covey.work.unit_of_work import Transactions


def vendor_classes() -> Iterator[type[Exception]]:
    for _, found in inspect.getmembers(asyncpg.exceptions, inspect.isclass):
        if issubclass(found, Exception) and found.__module__.startswith("asyncpg") and not issubclass(found, Warning):
            yield found


def test_no_class_of_asyncpg_is_left_untranslated() -> None:
    classes = list(vendor_classes())

    leaking = [found.__name__ for found in classes if not isinstance(translate(found("text")), CoveyError)]

    assert len(classes) > 250
    assert leaking == []


@pytest.mark.parametrize(
    ("vendor", "ours"),
    [
        (asyncpg.UniqueViolationError, ConstraintViolated),
        (asyncpg.ExclusionViolationError, ConstraintViolated),
        (asyncpg.DeadlockDetectedError, Contention),
        (asyncpg.SerializationError, Contention),
        (asyncpg.LockNotAvailableError, Contention),
        (asyncpg.InvalidCachedStatementError, Contention),
        (asyncpg.TooManyConnectionsError, ServerFull),
        (asyncpg.AdminShutdownError, DatabaseUnavailable),
        (asyncpg.CannotConnectNowError, DatabaseUnavailable),
        (asyncpg.QueryCanceledError, DatabaseUnavailable),
        (asyncpg.IdleInTransactionSessionTimeoutError, DatabaseUnavailable),
        (asyncpg.ConnectionDoesNotExistError, DatabaseUnavailable),
        (asyncpg.ReadOnlySQLTransactionError, DatabaseUnavailable),
        (asyncpg.DiskFullError, DatabaseUnavailable),
        (asyncpg.InFailedSQLTransactionError, TransactionAborted),
        (asyncpg.UndefinedTableError, QueryFailed),
        (asyncpg.NotNullViolationError, ConstraintViolated),
        (asyncpg.PostgresSyntaxError, QueryFailed),
        (ConnectionResetError, DatabaseUnavailable),
        (TimeoutError, DatabaseUnavailable),
    ],
)
def test_an_error_is_told_by_what_may_be_done_about_it(vendor: type[Exception], ours: type[CoveyError]) -> None:
    assert type(translate(vendor("text"))) is ours


def test_a_refusal_of_our_own_functions_is_fenced() -> None:
    error = asyncpg.PostgresError.new({"C": FENCED, "M": "somebody else has it"})

    assert type(translate(error)) is Fenced


def test_other_errors_and_cancellation_pass() -> None:
    for other in (ValueError("mine"), asyncio.CancelledError(), DatabaseUnavailable("mine")):
        with pytest.raises(type(other)) as caught, translated():
            raise other
        assert caught.value is other


def test_the_cause_is_kept_and_the_constraint_is_named() -> None:
    error = asyncpg.PostgresError.new({"C": "23505", "M": "duplicate", "D": "Key (n)=(1)", "n": "effect_pkey"})

    with pytest.raises(ConstraintViolated) as caught, translated():
        raise error

    assert caught.value.__cause__ is error
    assert caught.value.constraint == "effect_pkey"


async def test_a_row_that_is_refused_is_not_quoted_to_whoever_sent_it(database: Database) -> None:
    """A caller is told what a constraint says, and a dead letter keeps it; the rest of the row is not theirs."""
    transactions = Transactions(database, "shop")
    async with transactions.begin() as work:
        await work.execute("CREATE TABLE account (id int PRIMARY KEY, secret text, cents int CHECK (cents >= 0))")
        await work.execute("INSERT INTO account VALUES (1, 'hush', 5)")
    for sql in (
        "UPDATE account SET cents = cents - 6",
        "UPDATE account SET id = NULL",
        "INSERT INTO account VALUES (1, 'hush', 1)",
    ):
        with pytest.raises(ConstraintViolated) as caught:
            async with transactions.begin() as work:
                await work.execute(sql)
        assert not any(word in str(caught.value) for word in ("hush", "DETAIL", "Key ("))


async def test_wrong_arguments_are_a_defect_and_no_outage(database: Database) -> None:
    transactions = Transactions(database, "shop")
    for sql, argument in (("SELECT $1::int", "text"), ("SELECT 1", 2), ("SELECT $1::text", "\udc80")):
        with pytest.raises(QueryFailed):
            async with transactions.begin() as work:
                await work.fetchval(sql, argument)


@pytest.mark.parametrize(
    ("sql", "argument"),
    [("SELECT $1::text", "a\0b"), ("SELECT $1::jsonb", '"a\\u0000b"'), ("SELECT convert_from($1, 'utf8')", b"\xff")],
)
async def test_a_text_that_no_database_stores_is_the_fault_of_who_sent_it(
    database: Database, sql: str, argument: object
) -> None:
    transactions = Transactions(database, "shop")

    with pytest.raises(Invalid):
        async with transactions.begin() as work:
            await work.fetchval(sql, argument)


async def test_a_column_that_a_migration_adds_costs_a_retry_and_no_failure(database: Database) -> None:
    """Version N beside N-1: a cached statement whose result has changed is refused once in a transaction."""
    transactions = Transactions(database, "shop")
    async with database.acquire() as connection:
        await connection.execute("CREATE TABLE thing (n int)")

    async def read() -> None:
        async with transactions.begin() as work:
            await work.execute("SET LOCAL lock_timeout TO 1000")
            await work.fetch("SELECT * FROM thing")

    await read()
    async with database.acquire() as one, database.acquire() as other:
        await other.execute("ALTER TABLE thing ADD COLUMN m int")
        assert one is not other
    with pytest.raises(Contention):
        for _ in range(3):
            await read()

    await read()


async def test_a_column_that_a_migration_adds_costs_a_read_in_no_transaction_nothing(database: Database) -> None:
    transactions = Transactions(database, "shop")
    async with database.acquire() as connection:
        await connection.execute("CREATE TABLE thing (n int); INSERT INTO thing VALUES (1)")

    async def read() -> list[tuple[int | None, ...]]:
        async with transactions.begin() as work:
            return [tuple(row) for row in await work.fetch("SELECT * FROM thing")]

    assert await read() == [(1,)]
    async with database.acquire() as one, database.acquire() as other:
        await other.execute("ALTER TABLE thing ADD COLUMN m int")
        assert one is not other

    assert [await read() for _ in range(3)] == [[(1, None)]] * 3


@pytest.mark.parametrize("kind", list(vendor_classes()), ids=lambda kind: kind.__name__)
def test_who_expects_what_asyncpg_raises_expects_all_of_it(kind: type[Exception]) -> None:
    assert issubclass(kind, DRIVER_ERRORS)
