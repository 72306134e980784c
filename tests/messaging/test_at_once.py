"""A turn whose handlers run as if nothing stood before their messages: the statement that commits makes sure of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import pytest

from covey.database.errors import translated
from covey.database.pool import Connection, Database
from covey.errors import Contention, Fenced
from covey.message import Envelope
from covey.messaging.brokers.memory import MemoryBroker
from covey.messaging.delivery import Received
from covey.messaging.options import LANES
from covey.messaging.router import Router
from covey.testing.broker_contract import event
from covey.testing.replica import replica
from covey.work.inbox import DEADLINE, command_id_of
from covey.work.unit_of_work import Work, call_all
from tests.messaging.feed import Added, Feed, effects, handled, keep, settled

KEY = "a key"


async def accept(connection: Connection, *envelopes: Envelope, after: int = 0) -> None:
    columns = Received("feed", after, after + len(envelopes), list(envelopes)).columns()
    with translated():
        await call_all(connection, [("accept", [LANES, *columns])])


async def stored(connection: Connection) -> int:
    return int(await connection.fetchval("SELECT count(*) FROM covey.inbox"))


@pytest.fixture
async def connection(database: Database) -> AsyncIterator[Connection]:
    """A connection to a database whose service has read nothing of `feed` yet."""
    async with database.connected() as connection:
        await connection.execute("INSERT INTO covey.ingest VALUES ('feed', 0)")
        yield connection


class TestAccept:
    async def test_stores_what_nothing_stands_before_and_the_position(self, connection: Connection) -> None:
        await accept(connection, event(key=KEY), event(key="another"))
        await accept(connection, event(key=KEY), after=2)

        assert await stored(connection) == 3
        assert await connection.fetchval("SELECT sequence FROM covey.ingest") == 3
        assert await connection.fetchval("SELECT count(*) FROM covey.inbox_pending") == 0

    @pytest.mark.parametrize(
        "obstacle",
        [
            "INSERT INTO covey.inbox_pending SELECT covey.lane($1), 1, 'of the same lane'",
            "INSERT INTO covey.hold (key, lane, state, until, attempts, position)"
            " SELECT $1, covey.lane($1), 'waiting', 'infinity', 1, 1",
        ],
    )
    async def test_refuses_what_would_overtake_a_message_that_waits(
        self, connection: Connection, obstacle: str
    ) -> None:
        await connection.execute(obstacle, KEY)

        with pytest.raises(Contention):
            await accept(connection, event(key="another"), event(key=KEY))

        assert await stored(connection) == 0
        assert await connection.fetchval("SELECT sequence FROM covey.ingest") == 0

    async def test_refuses_a_lane_that_somebody_works_on(self, connection: Connection, database: Database) -> None:
        async with database.acquire() as other:
            await other.execute("BEGIN")
            await other.execute("SELECT pg_advisory_xact_lock($1, covey.lane($2))", LANES, KEY)

            with pytest.raises(Contention):
                await accept(connection, event(key=KEY))

            await other.execute("ROLLBACK")
        assert await stored(connection) == 0

    async def test_refuses_a_message_that_is_known_and_one_that_comes_twice(self, connection: Connection) -> None:
        known, new = event(key=KEY), event(key="another")
        await accept(connection, known)

        for again in ([new, known], [new, new]):
            with pytest.raises(Contention):
                await accept(connection, *again, after=1)

        assert await stored(connection) == 1

    async def test_refuses_a_command_that_was_answered(self, connection: Connection) -> None:
        command = event(key=KEY, kind="command")
        await connection.execute(
            "INSERT INTO covey.reply (command_id, stream, key, body) VALUES ($1, 'order', $2, '{}')",
            command_id_of(command),
            KEY,
        )

        with pytest.raises(Contention):
            await accept(connection, command)

    async def test_refuses_a_command_for_which_nobody_waits_any_more(self, connection: Connection) -> None:
        at = await connection.fetchval("SELECT clock_timestamp()")
        early, late = (
            replace(event(key=KEY, kind="command"), headers={DEADLINE: (at + timedelta(minutes=by)).isoformat()})
            for by in (-1, 1)
        )

        with pytest.raises(Contention):
            await accept(connection, early)
        await accept(connection, late)

        assert await stored(connection) == 1

    async def test_of_a_reader_that_was_overtaken_stores_nothing(self, connection: Connection) -> None:
        await accept(connection, event(key=KEY))

        with pytest.raises(Fenced):
            await accept(connection, event(key=KEY))

        assert await stored(connection) == 1


class TestReceive:
    @pytest.mark.parametrize("direct", [pytest.param(0, id="for the workers"), pytest.param(8, id="to be handled")])
    async def test_of_a_reader_that_was_overtaken_stores_nothing(self, connection: Connection, direct: int) -> None:
        await accept(connection, event(key=KEY))

        with pytest.raises(Fenced), translated():
            columns = Received("feed", 0, 1, [event(key=KEY)]).columns()
            await call_all(connection, [("receive", [LANES, direct, *columns])])

        assert await stored(connection) == 1


_STATE = "SELECT state FROM pg_stat_activity WHERE datname = current_database() AND application_name = $1"


class TestTurn:
    async def test_takes_one_statement_once_nothing_waits(
        self, memory_broker: MemoryBroker, feed: Feed, shop_url: str
    ) -> None:
        states: list[str] = []
        router = Router()

        @router.on(Added)
        async def handle(message: Added, work: Work) -> None:
            states.append(await shop.fetchval(_STATE, f"covey ingest {message.message_type.partition('.')[0]}"))
            work.defer("INSERT INTO effect (key, n) VALUES ($1, $2)", message.name, message.n)

        async with replica("shop", shop_url, memory_broker, [router]) as shop:
            for n in range(4):
                await feed.publish([feed.envelope(KEY, n)])
                await handled(shop, n + 1)

            assert states[1:] == ["idle"] * 3  # no transaction yet; the first was perhaps there before its reader
            assert await effects(shop, KEY) == [0, 1, 2, 3]

    async def test_is_repeated_with_care_when_something_stood_before_it_after_all(
        self, memory_broker: MemoryBroker, feed: Feed, shop_url: str
    ) -> None:
        """A handler that hides the error of its first statement must not pass for one that has done its work."""
        router = Router()
        hidden: list[Contention] = []
        obstacles: list[Connection] = []

        @router.on(Added)
        async def handle(message: Added, work: Work) -> None:
            try:
                await keep(message, work)
            except Contention as error:
                hidden.append(error)
                await obstacles[0].execute("ROLLBACK")

        async with replica("shop", shop_url, memory_broker, [router]) as shop, shop.database.acquire() as other:
            obstacles.append(other)
            for n in range(3):
                await feed.publish([feed.envelope(KEY, n)])
                await handled(shop, n + 1)
            await other.execute("BEGIN")
            await other.execute("SELECT pg_advisory_xact_lock($1, covey.lane($2))", LANES, KEY)
            await feed.publish([feed.envelope(KEY, 3)])
            await handled(shop, 4)

            assert len(hidden) == 1
            assert await effects(shop, KEY) == [0, 1, 2, 3]

    async def test_leaves_no_transaction_behind_when_a_handler_fails(
        self, memory_broker: MemoryBroker, feed: Feed, shop_url: str
    ) -> None:
        router = Router()
        failed: set[int] = set()

        @router.on(Added)
        async def handle(message: Added, work: Work) -> None:
            await keep(message, work)
            if message.n % 2 and message.n not in failed:
                failed.add(message.n)
                raise ValueError("the first time only")

        async with replica("shop", shop_url, memory_broker, [router]) as shop:
            for n in range(6):
                await feed.publish([feed.envelope(KEY, n)])
                await handled(shop, n + 1)
            await settled(shop)

            assert await effects(shop, KEY) == [0, 1, 2, 3, 4, 5]

    async def test_that_takes_long_is_left_to_workers_and_has_its_effect_once(
        self, memory_broker: MemoryBroker, feed: Feed, shop_url: str
    ) -> None:
        router = Router()
        slow = [1]

        @router.on(Added)
        async def handle(message: Added, work: Work) -> None:
            if message.n in slow:
                slow.remove(message.n)
                await asyncio.Event().wait()
            await keep(message, work)

        async with replica("shop", shop_url, memory_broker, [router]) as shop:
            for n in range(3):
                await feed.publish([feed.envelope(KEY, n)])
            await handled(shop, 3)
            await settled(shop)

            assert await effects(shop, KEY) == [0, 1, 2]
