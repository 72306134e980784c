"""Everything that a stream holds for a service is stored once, and nothing that is in it can stop the stream."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from covey.database.pool import Database
from covey.errors import DefinitionError
from covey.ids import new_id
from covey.message import Command, Envelope, Event, Reply
from covey.messaging.broker import Topic
from covey.messaging.brokers.memory import MemoryBroker, MemoryLogs
from covey.messaging.ingest import Ingest
from covey.messaging.messaging import Messaging
from covey.messaging.observation import Observation
from covey.messaging.options import MessagingOptions
from covey.messaging.router import Router
from covey.telemetry.telemetry import Telemetry
from covey.testing.cable import Cable
from covey.testing.eventually import eventually
from covey.testing.replica import Replica, ReplicaOptions, replica
from covey.work.unit_of_work import Work
from tests.messaging.feed import Feed, dead, effects, handled, keeping, settled, unhandled


class Adjust(Command, type="shop.adjust.v1", key="name"):
    name: str
    n: int


class Adjusted(Reply):
    n: int
    note: str = ""


def adjusting() -> Router:
    """Return a router that carries out `shop.adjust.v1`."""
    router = Router()

    @router.on(Adjust)
    async def handle(command: Adjust, work: Work) -> Reply:
        await work.execute("INSERT INTO effect (key, n) VALUES ($1, $2)", command.name, command.n)
        return Adjusted(n=command.n, note="x" * command.n if command.n > 1_000 else "")

    return router


def command(feed: Feed, key: str, n: int, **headers: str) -> Envelope:
    """Return a command to the shop."""
    body = json.dumps({"name": key, "n": n}).encode()
    return feed.envelope(
        key, n, type="shop.adjust.v1", kind="command", stream="shop", body=body, headers={"reply-to": "feed"} | headers
    )


class TestWhatCannotBeHandled:
    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"body": b"{"}, "unreadable: not a feed.added.v1"),
            ({"body": b""}, "unreadable"),
            ({"body": b"\x00\xff"}, "unreadable"),
            ({"body": b'{"name": "a"}'}, "unreadable: not a feed.added.v1: n: Field required"),
            ({"body": b'{"name": "a", "n": "many"}'}, "n: Input should be a valid integer"),
            ({"body": b"[" * 100_000}, "unreadable"),
            ({"type": "feed.added.v2"}, "unknown version: feed.added.v2; shop handles feed.added.v1"),
            ({"headers": {"unreadable": "the header 'ce-id' is absent"}}, "unreadable: the header 'ce-id' is absent"),
            ({"headers": {"note": "a\x00b"}}, "NUL"),
            ({"headers": {"no\x00te": "b"}}, "NUL"),
            ({"key": "a\x00b"}, "NUL"),
            ({"source": "\x00"}, "NUL"),
            ({"key": "k" * 5_000}, "unreadable: the key has 5,000 characters"),
            ({"headers": {"note": "\ud800"}}, "unreadable"),
            ({"key": "\udfff"}, "unreadable"),
            ({"time": datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=5)))}, "unreadable: the time"),
            ({"time": datetime(9999, 12, 31, 23, tzinfo=timezone(timedelta(hours=-5)))}, "unreadable: the time"),
        ],
        ids=lambda value: ascii(value)[:60],
    )
    async def test_is_a_dead_letter_with_a_reason_and_stops_nothing_else(
        self, memory_broker: MemoryBroker, feed: Feed, shop_url: str, changes: dict[str, Any], reason: str
    ) -> None:
        async with replica("shop", shop_url, memory_broker, [keeping()]) as shop:
            bad = replace(feed.envelope("bad", 0), **changes)
            await feed.publish([feed.envelope("before", 1), bad, feed.envelope("after", 2)])
            await handled(shop, 2)

            assert reason in next(iter((await dead(shop)).values()))
            assert await unhandled(shop) == 1

    async def test_of_commands_includes_those_that_nobody_knows(
        self, memory_broker: MemoryBroker, feed: Feed, shop_url: str
    ) -> None:
        async with replica("shop", shop_url, memory_broker, [adjusting()]) as shop:
            await feed.publish(
                [
                    command(feed, "a", 1),
                    feed.envelope("b", 1, type="shop.destroy.v1", kind="command", stream="shop"),
                    feed.envelope("c", 1, type="shop.adjust.v7", kind="command", stream="shop"),
                    command(feed, "d", 1, **{"reply-to": "No Such.Service"}),
                    command(feed, "e", 5),
                ]
            )
            await handled(shop, 2)

            reasons = await dead(shop, 3)
            assert reasons["b"] == "unknown type: shop has no handler for shop.destroy.v1"
            assert reasons["c"] == "unknown version: shop.adjust.v7; shop handles shop.adjust.v1"
            assert reasons["d"] == "unreadable: reply-to is not the name of a service"

    async def test_of_commands_includes_an_answer_that_no_broker_takes(
        self, memory_broker: MemoryBroker, feed: Feed, shop_url: str
    ) -> None:
        """It would stop the stream of whoever asked, for ever."""
        async with replica("shop", shop_url, memory_broker, [adjusting()]) as shop:
            await feed.publish([command(feed, "big", 2_000_000), command(feed, "small", 1)])

            assert "TooLarge" in (await dead(shop))["big"]
            await handled(shop, 1)
            assert await shop.fetchval("SELECT count(*) FROM covey.outbox") == 1

    async def test_of_a_command_with_odd_headers_is_nothing(
        self, memory_broker: MemoryBroker, feed: Feed, shop_url: str
    ) -> None:
        odd: list[dict[str, str]] = [
            {"deadline": "tomorrow"},
            {"deadline": "2026-01-01T00:00:00"},
            {"deadline": "9999-12-31T23:59:59-12:00"},
            {"command-id": "not a uuid"},
            {"command-id": ""},
            {"correlation-id": "\x1b[31m<script>" + "x" * 20_000},
            {"traceparent": "00-zz"},
        ]
        async with replica("shop", shop_url, memory_broker, [adjusting()]) as shop:
            await feed.publish([command(feed, f"key {n}", n, **headers) for n, headers in enumerate(odd)])
            await handled(shop, len(odd))

            rows = await shop.fetch("SELECT headers->>'correlation-id' AS id FROM covey.outbox")
            assert all(len(row["id"]) <= 64 and row["id"].isascii() for row in rows)

    async def test_includes_an_event_in_the_guise_of_a_command(
        self, memory_broker: MemoryBroker, feed: Feed, shop_url: str
    ) -> None:
        async with replica("shop", shop_url, memory_broker, [adjusting(), keeping()]) as shop:
            await feed.publish([feed.envelope("a", 1, kind="command", stream="shop")])

            assert "command" in (await dead(shop))["a"]


class TestADuplicate:
    async def test_of_a_command_gets_the_same_answer_under_a_new_id_and_has_no_second_effect(
        self, memory_broker: MemoryBroker, feed: Feed, shop_url: str
    ) -> None:
        async with replica("shop", shop_url, memory_broker, [adjusting()]) as shop:
            once = {"command-id": str(new_id())}
            await feed.publish([command(feed, "a", 1, **once), command(feed, "a", 1, **once)])  # in one batch
            await eventually(lambda: _answers(shop, 2))
            await feed.publish([command(feed, "a", 1, **once)])  # and later
            await eventually(lambda: _answers(shop, 3))

            assert await effects(shop) == [1]
            rows = await shop.fetch("SELECT id, body FROM covey.outbox")
            assert len({row["id"] for row in rows}) == 3
            assert len({bytes(row["body"]) for row in rows}) == 1

    async def test_of_a_message_that_waits_behind_a_dead_letter_is_dropped_too(
        self, memory_broker: MemoryBroker, feed: Feed, shop_url: str
    ) -> None:
        async with replica("shop", shop_url, memory_broker, [keeping()]) as shop:
            messages = await feed.publish([feed.envelope("a", 0, body=b"{"), *[feed.envelope("a", n) for n in (1, 2)]])
            await dead(shop)
            await feed.publish(messages)
            await feed.add("b", [3])
            await handled(shop, 1)

            assert await unhandled(shop) == 3


class TestACommandWhoseTimeIsOver:
    async def test_is_dropped_and_logged_and_has_no_effect(
        self, memory_broker: MemoryBroker, feed: Feed, shop_url: str
    ) -> None:
        async with replica("shop", shop_url, memory_broker, [adjusting()]) as shop:
            past = (await shop.fetchval("SELECT clock_timestamp() - interval '1 ms'")).isoformat()
            late, _ = await feed.publish([command(feed, "a", 1, deadline=past), command(feed, "a", 2)])
            await handled(shop, 1)

            assert await effects(shop) == [2]
            log = await shop.fetch("SELECT what, message_id FROM covey.dead_letter_log")
            assert [tuple(row) for row in log] == [("expired", late.id)]

    async def test_also_when_it_is_dead_and_what_waits_behind_it_goes_on(
        self, memory_broker: MemoryBroker, feed: Feed, shop_url: str
    ) -> None:
        router = Router()

        @router.on(Adjust)
        async def handle(command: Adjust, work: Work) -> None:
            if command.n == 1:
                raise ValueError("poison")
            await work.execute("INSERT INTO effect (key, n) VALUES ($1, $2)", command.name, command.n)

        options = ReplicaOptions(messaging=MessagingOptions(max_attempts=1, poll=timedelta(milliseconds=20)))
        async with replica("shop", shop_url, memory_broker, [router], options=options) as shop:
            soon = (await shop.fetchval("SELECT clock_timestamp() + interval '1 second'")).isoformat()
            await feed.publish([command(feed, "a", 1, deadline=soon), command(feed, "a", 2)])
            await handled(shop, 1)

            assert await effects(shop) == [2]
            log = await shop.fetch("SELECT what FROM covey.dead_letter_log ORDER BY n")
            assert [row["what"] for row in log] == ["parked", "expired"]
            await settled(shop)

    async def test_is_told_by_the_clock_of_the_database(
        self, memory_broker: MemoryBroker, feed: Feed, shop_url: str, fake_clock: Any
    ) -> None:
        """H10: the clock of the process may be years away."""
        async with replica("shop", shop_url, memory_broker, [adjusting()], clock=fake_clock) as shop:
            now = await shop.fetchval("SELECT clock_timestamp()")
            past, future = now - timedelta(seconds=1), now + timedelta(hours=1)
            await feed.publish(
                [command(feed, "a", 1, deadline=past.isoformat()), command(feed, "b", 2, deadline=future.isoformat())]
            )
            await handled(shop, 1)

            assert await effects(shop) == [2]


class TestALateJoiner:
    async def test_reads_from_the_oldest_message_that_the_stream_holds(self, feed: Feed, shop_url: str) -> None:
        """H12."""
        logs = MemoryLogs()
        broker = MemoryBroker(logs)
        feed = Feed(broker)
        await feed.add("a", range(30))
        logs.drop("feed", before=11)
        async with replica("shop", shop_url, broker, [keeping()]) as shop:
            await handled(shop, 20)

            assert await effects(shop) == list(range(10, 30))

    async def test_that_is_rebuilt_reads_again_what_it_has_forgotten(
        self, memory_broker: MemoryBroker, feed: Feed, shop_url: str
    ) -> None:
        async with replica("shop", shop_url, memory_broker, [keeping()]) as shop:
            await feed.add("a", range(10))
            await handled(shop, 10)
        async with Database.open(shop_url) as database, database.acquire() as connection:
            await connection.execute("TRUNCATE effect")
            await connection.execute("DELETE FROM covey.inbox WHERE stream = 'feed'")
            await connection.execute("UPDATE covey.ingest SET sequence = 0 WHERE stream = 'feed'")
        async with replica("shop", shop_url, memory_broker, [keeping()]) as shop:
            await handled(shop, 10)

            assert await effects(shop) == list(range(10))


class TestThePosition:
    async def test_is_taken_up_again_where_it_was(self, memory_broker: MemoryBroker, feed: Feed, shop_url: str) -> None:
        for start in (0, 10, 20):
            async with replica("shop", shop_url, memory_broker, [keeping()]) as shop:
                await feed.add("a", range(start, start + 10))
                await handled(shop, start + 10)

        async with replica("shop", shop_url, memory_broker, [keeping()]) as shop:
            assert await effects(shop) == list(range(30))
            assert await shop.fetchval("SELECT sequence FROM covey.ingest WHERE stream = 'feed'") == 30

    async def test_fences_a_reader_that_was_overtaken(
        self, memory_broker: MemoryBroker, feed: Feed, shop_url: str
    ) -> None:
        """H9: two readers of one stream, neither asking whether it has the role; all is stored once and in order."""
        await memory_broker.ensure_stream("feed")
        async with AsyncExitStack() as stack:
            shops = [await stack.enter_async_context(_reading(shop_url, memory_broker)) for _ in range(3)]
            for start in range(0, 300, 10):
                await feed.publish([feed.envelope(f"key {n % 7}", n) for n in range(start, start + 10)])
                await asyncio.sleep(0)
            await eventually(lambda: _count(shops[0], "covey.inbox", 300), timedelta(seconds=20))

            async with shops[0].acquire() as connection:
                rows = await connection.fetch(
                    "SELECT (convert_from(body, 'utf8')::json->>'n')::int AS n, key FROM covey.inbox ORDER BY position"
                )
            for key in range(7):
                assert [row["n"] for row in rows if row["key"] == f"key {key}"] == list(range(key, 300, 7))

    async def test_that_the_stream_does_not_reach_any_more_is_an_alarm_and_no_silence(
        self, feed: Feed, shop_url: str
    ) -> None:
        logs = MemoryLogs()
        broker = MemoryBroker(logs)
        feed = Feed(broker)
        async with replica("shop", shop_url, broker, [keeping()]) as shop:
            await feed.add("a", range(5))
            await handled(shop, 5)
        await feed.add("a", range(5, 20))
        logs.drop("feed", before=11)
        async with replica("shop", shop_url, broker, [keeping()]) as shop:
            await eventually(lambda: "feed" in shop.messaging.observation.history_lost)

            assert "read up to 5" in shop.messaging.observation.history_lost["feed"]
            assert await effects(shop) == list(range(5))

    async def test_beyond_the_end_of_the_stream_is_an_alarm_too(self, shop_url: str) -> None:
        logs = MemoryLogs()
        broker = MemoryBroker(logs)
        async with replica("shop", shop_url, broker, [keeping()]) as shop:
            await Feed(broker).add("a", range(5))
            await handled(shop, 5)
        logs.lose("feed", after=2)
        async with replica("shop", shop_url, broker, [keeping()]) as shop:
            await eventually(lambda: "feed" in shop.messaging.observation.history_lost)

            assert "has lost messages" in shop.messaging.observation.history_lost["feed"]

    async def test_in_a_stream_that_was_made_anew_is_an_alarm_however_long_that_one_is(self, shop_url: str) -> None:
        logs = MemoryLogs()
        broker = MemoryBroker(logs)
        feed = Feed(broker)
        async with replica("shop", shop_url, broker, [keeping()]) as shop:
            await feed.add("a", range(5))
            await handled(shop, 5)
        logs.delete("feed")
        await feed.add("a", range(100, 120))
        async with replica("shop", shop_url, broker, [keeping()]) as shop:
            await eventually(lambda: "feed" in shop.messaging.observation.history_lost)

            assert "was deleted and made anew" in shop.messaging.observation.history_lost["feed"]
            assert await effects(shop) == list(range(5))

    async def test_in_a_stream_that_is_made_anew_while_it_is_read_passes_nothing_over(self, shop_url: str) -> None:
        logs = MemoryLogs()
        broker = MemoryBroker(logs)
        feed = Feed(broker)
        async with replica("shop", shop_url, broker, [keeping()]) as shop:
            await feed.add("a", range(5))
            await handled(shop, 5)
            logs.delete("feed")
            await feed.add("a", range(100, 120))
            await eventually(lambda: "feed" in shop.messaging.observation.history_lost)
            assert await effects(shop) == list(range(5))
            await shop.fetch("UPDATE covey.ingest SET sequence = 0 WHERE stream = 'feed'")

            await handled(shop, 25)
            assert shop.messaging.observation.history_lost == {}

    async def test_that_is_lost_alarms_only_the_replica_that_reads(
        self, make_database: Callable[[Path | None], str], shop_url: str
    ) -> None:
        """Or a replica that has handed the role on would never be ready again."""
        logs = MemoryLogs()
        broker = MemoryBroker(logs)
        feed = Feed(broker)
        async with replica("shop", shop_url, broker, [keeping()]) as shop:
            await feed.add("a", range(5))
            await handled(shop, 5)
        await feed.add("a", range(5, 20))
        logs.drop("feed", before=11)
        async with Cable.to(shop_url) as cable, replica("shop", cable.url, broker, [keeping()]) as first:
            await eventually(lambda: "feed" in first.messaging.observation.history_lost)
            async with replica("shop", shop_url, broker, [keeping()]) as second:
                cable.cut()
                await eventually(lambda: "feed" in second.messaging.observation.history_lost)
                await eventually(lambda: "feed" not in first.messaging.observation.history_lost)
                cable.mend()


class TestSubscriptions:
    async def test_hold_only_what_is_handled(self, memory_broker: MemoryBroker, feed: Feed, shop_url: str) -> None:
        async with replica("shop", shop_url, memory_broker, [keeping()]) as shop:
            await feed.publish([feed.envelope("a", n, type=f"feed.removed{n}.v1".replace("0", "")) for n in range(3)])
            await feed.add("a", [7])
            await handled(shop, 1)

            assert await shop.fetchval("SELECT count(*) FROM covey.inbox") == 1

    async def test_hold_a_version_that_is_to_be_ignored_and_let_it_pass(
        self, memory_broker: MemoryBroker, feed: Feed, shop_url: str
    ) -> None:
        router = keeping()
        router.ignore("feed.added.v2")
        async with replica("shop", shop_url, memory_broker, [router]) as shop:
            await feed.publish([feed.envelope("a", 1, type="feed.added.v2"), feed.envelope("a", 2)])
            await handled(shop, 1)

            await settled(shop)
            assert await effects(shop) == [2]


def test_a_type_has_one_place_only() -> None:
    one, other = Router(), Router()

    @one.on(Adjust)
    async def first(command: Adjust, work: Work) -> None: ...

    with pytest.raises(DefinitionError, match="handler already"):

        @one.on(Adjust)
        async def second(command: Adjust, work: Work) -> None: ...

    other.ignore(Adjust.message_type)
    with pytest.raises(DefinitionError, match="handler already"):
        Messaging("shop", None, None, [one, other], Telemetry.in_memory())  # type: ignore[arg-type]  # never reached


def test_a_message_is_declared_with_a_type_a_key_that_exists_and_no_field_called_key() -> None:
    with pytest.raises(DefinitionError, match="must read like"):

        class Unversioned(Event, type="shop.placed"): ...

    with pytest.raises(DefinitionError, match="not one of its fields"):

        class Unkeyed(Event, type="shop.placed.v1", key="order"): ...

    with pytest.raises(DefinitionError, match="may be called `key`"):

        class Shadowing(Event, type="shop.placed.v1"):
            key: str

    with pytest.raises(DefinitionError, match="async def"):
        Router().on(Adjust)(lambda command, work: None)  # type: ignore[arg-type, return-value]  # the mistake

    with pytest.raises(DefinitionError, match="cannot name a service"):
        Messaging("No Such", None, None, [], Telemetry.in_memory())  # type: ignore[arg-type]  # never reached


@asynccontextmanager
async def _reading(url: str, broker: MemoryBroker) -> AsyncIterator[Database]:
    """Read the stream `feed` without asking for the role, and only store."""
    async with Database.open(url) as database:
        messaging = Messaging("shop", database, broker, [keeping()], Telemetry.in_memory("shop"))
        observation = Observation(Telemetry.in_memory("shop"), "shop", database)
        topics = [Topic("event", "added")]
        ingest = Ingest(
            database,
            broker,
            "feed",
            topics,
            MessagingOptions(),
            observation,
            messaging._ingests[0]._turns,
            lambda: None,
        )
        task = asyncio.create_task(ingest.run())
        try:
            yield database
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def _count(database: Database, table: str, count: int) -> bool:
    async with database.acquire() as connection:
        return bool(await connection.fetchval(f"SELECT count(*) >= {count} FROM {table}"))


async def _answers(shop: Replica, count: int) -> bool:
    return bool(await shop.fetchval("SELECT count(*) = $1 FROM covey.outbox", count))
