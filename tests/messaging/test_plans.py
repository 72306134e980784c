"""The queues stay quick when they are long: their statements use indexes, whatever they were planned on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import asyncpg
import pytest

from covey.database.errors import NOT_AS_ASSUMED
from covey.database.pool import Connection, Database
from covey.ids import new_id
from covey.messaging.delivery import Received
from covey.messaging.options import LANES, OWNERS
from covey.messaging.turn import _RECEIVE as RECEIVE
from covey.testing.broker_contract import event

MESSAGES = 5_000

_FILL = f"""
WITH m AS (
    INSERT INTO covey.inbox (id, stream, kind, type, key, source, time, headers, body)
    SELECT gen_random_uuid(), 'feed', 'event', 't', 'key ' || n % 997, 'feed', now(), '{{}}', '{{}}'
    FROM generate_series(1, {MESSAGES}) n RETURNING position, key
), p AS (INSERT INTO covey.inbox_pending SELECT covey.lane(key), position, key FROM m)
INSERT INTO covey.inbox_held SELECT 'due', position FROM m;
WITH o AS (
    INSERT INTO covey.outbox (id, stream, kind, type, key, time, headers, body)
    SELECT gen_random_uuid(), 'feed', 'event', 't', 'key ' || n % 997, now(), '{{}}', '{{}}'
    FROM generate_series(1, {MESSAGES}) n RETURNING position, stream
)
INSERT INTO covey.outbox_pending SELECT position, stream FROM o;
INSERT INTO covey.hold (key, lane, state, until, attempts, position)
SELECT 'hold ' || n, n % 64, 'dead', 'infinity', 5, n FROM generate_series(1, {MESSAGES}) n;
INSERT INTO covey.hold (key, lane, state, until, attempts, position)
VALUES ('due', covey.lane('due'), 'waiting', now(), 1, 1);
INSERT INTO covey.saga (id, name, version, status, step, data, deadline)
SELECT gen_random_uuid(), 'place', 1, 'running', 0, '{{}}', now() + interval '1 hour'
FROM generate_series(1, {MESSAGES});
INSERT INTO covey.reply (command_id, stream, key, body)
SELECT gen_random_uuid(), 'feed', 'k', '' FROM generate_series(1, {MESSAGES});
"""
_READ = """
SELECT coalesce(sum(seq_tup_read), 0)::int FROM pg_stat_xact_user_tables WHERE schemaname = 'covey'
"""
_LOOKS = "SELECT seq_tup_read + idx_scan FROM pg_stat_xact_user_tables WHERE relid = 'covey.hold'::regclass"


async def take(connection: Connection) -> None:
    rows = await connection.fetch("SELECT * FROM covey.take($1, 8, 200)", LANES)
    if rows:
        lanes, positions = [row["lane"] for row in rows], [row["position"] for row in rows]
        await connection.execute("SELECT covey.finish($1, $2)", lanes, positions)


async def look(connection: Connection) -> None:
    await connection.fetch("SELECT * FROM covey.look()")


async def take_due(connection: Connection) -> None:
    rows = await connection.fetch("SELECT * FROM covey.take_due($1, 200)", LANES)
    if rows:
        positions = [row["position"] for row in rows]
        await connection.execute("SELECT covey.finish_held($1, $2)", ["due"] * len(rows), positions)


async def relay(connection: Connection) -> None:
    rows = await connection.fetch("SELECT * FROM covey.relay('{}', 500, '{}')")
    await connection.fetch("SELECT * FROM covey.relay($1, 500, '{}')", [row["position"] for row in rows])


async def park(connection: Connection) -> None:
    arguments = "'{key 1}', '{1}', '{waiting}', '{1 s}', '{1}', '{NULL}', '{NULL}', '{why}'"
    await connection.execute(f"SELECT covey.park({arguments})")


async def receive(connection: Connection) -> None:
    await connection.execute("INSERT INTO covey.ingest VALUES ('feed', 0) ON CONFLICT DO NOTHING")
    envelopes = [event(key=f"key {n}", stream="feed", kind="command") for n in range(20)]
    received = Received("feed", 0, 20, envelopes)
    await connection.fetch(RECEIVE, LANES, 200, *received.columns())


async def accept(connection: Connection) -> None:
    await connection.execute("INSERT INTO covey.ingest VALUES ('feed', 0) ON CONFLICT DO NOTHING")
    envelopes = [event(key=f"key {n}", stream="feed", kind="command") for n in range(20)]
    columns = Received("feed", 0, 20, envelopes).columns()
    arguments = ", ".join(f"${n}" for n in range(1, len(columns) + 2))
    await connection.execute("SAVEPOINT before")
    try:
        await connection.execute(f"SELECT covey.accept({arguments})", LANES, *columns)
    except asyncpg.PostgresError as refusal:  # where lanes have work it refuses; how it has looked is what counts
        assert refusal.sqlstate == NOT_AS_ASSUMED
        await connection.execute("ROLLBACK TO before")


async def move_sagas(connection: Connection) -> None:
    rows = await connection.fetch("SELECT id FROM covey.saga LIMIT 20")
    n = len(rows)
    await connection.execute(
        "SELECT covey.move_sagas($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
        *([row["id"] for row in rows], ["running"] * n, [1] * n, [0] * n, [0] * n, [None] * n, ["{}"] * n, [None] * n),
        *([1] * n, [None] * n, [1] * n, [0] * n, [True] * n),
    )


async def load_sagas(connection: Connection) -> None:
    await connection.fetch("SELECT * FROM covey.load_sagas($1)", [new_id() for _ in range(20)])


async def fire_timers(connection: Connection) -> None:
    await connection.fetch("SELECT * FROM covey.due_sagas(500)")


async def recover(connection: Connection) -> None:
    await connection.execute("INSERT INTO covey.process VALUES (1)")
    await connection.fetchval("SELECT covey.recover($1, $2, 1)", OWNERS, LANES)


async def retention(connection: Connection) -> None:
    for function in ("forget_inbox", "forget_outbox", "forget_replies", "forget_idempotency", "forget_sagas"):
        await connection.fetch(f"SELECT * FROM covey.{function}('1 day', 100, 0)")


STATEMENTS: list[Callable[[Connection], Awaitable[None]]] = [
    look,
    take,
    take_due,
    relay,
    park,
    receive,
    accept,
    load_sagas,
    move_sagas,
    fire_timers,
    recover,
    retention,
]


@dataclass
class Session:
    """A connection whose statements were planned while everything was empty."""

    connection: Connection

    async def rows_read_by_scans(self, statement: Callable[[Connection], Awaitable[None]]) -> int:
        """Return how many rows of covey's tables it reads by going through a whole table."""
        await self.connection.execute("BEGIN")
        try:
            await statement(self.connection)
            return int(await self.connection.fetchval(_READ))
        finally:
            await self.connection.execute("ROLLBACK")


@pytest.fixture
async def session(database: Database) -> AsyncIterator[Session]:
    """Use each statement on empty tables as often as it takes PostgreSQL to keep a plan, then fill the tables."""
    async with database.connected() as connection:
        for _ in range(8):
            for statement in STATEMENTS:
                await connection.execute("BEGIN")
                await statement(connection)
                await connection.execute("ROLLBACK")
        async with database.acquire() as other:
            await other.execute(_FILL)
        yield Session(connection)


@pytest.mark.parametrize("statement", STATEMENTS, ids=lambda statement: statement.__name__)
async def test_a_statement_planned_on_empty_tables_reads_no_full_one_through(
    session: Session, statement: Callable[[Connection], Awaitable[None]]
) -> None:
    assert await session.rows_read_by_scans(statement) < 500


async def test_a_turn_looks_for_holds_no_further_than_it_may_come(session: Session) -> None:
    """With 50,000 messages waiting and a few keys held, to look at 1,000 of each lane left 40 messages a second."""
    lanes, limit = 8, 5
    await session.connection.execute("UPDATE covey.inbox_pending SET key = 'key ' || position")
    await session.connection.execute("BEGIN")
    rows = await session.connection.fetch("SELECT * FROM covey.take($1, $2, $3)", LANES, lanes, limit)
    looks = await session.connection.fetchval(_LOOKS)
    await session.connection.execute("ROLLBACK")

    assert len(rows) == limit
    assert 0 < looks <= 6 * lanes * limit


async def test_without_the_settings_of_the_functions_it_would(session: Session, database: Database) -> None:
    """What the settings are for, and that this test would notice if they went."""
    async with database.acquire() as other:
        for function in ("receive", "take", "take_due", "relay", "park", "finish", "finish_held"):
            await other.execute(f"ALTER FUNCTION covey.{function} RESET ALL")

    read = [await session.rows_read_by_scans(statement) for statement in STATEMENTS]

    assert max(read) > MESSAGES
