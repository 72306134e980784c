"""Messages are handled once each, in order for each key; what fails stops its own key and nothing else (H2, H6)."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack, suppress
from datetime import timedelta

import pytest

from covey.database.pool import Database, PoolOptions
from covey.errors import Contention, DatabaseUnavailable, DependencyUnavailable
from covey.message import Event
from covey.messaging.brokers.memory import MemoryBroker
from covey.messaging.options import MessagingOptions
from covey.messaging.router import Router
from covey.testing.eventually import eventually
from covey.testing.replica import Replica, ReplicaOptions, replica
from covey.work.unit_of_work import Work
from tests.messaging.feed import (
    PATIENCE,
    Added,
    Feed,
    dead,
    effects,
    handled,
    have_waited,
    holds,
    keep,
    keeping,
    remember_who_waits,
    settled,
    unhandled,
)


class Noted(Event, type="shop.noted.v1", key="name"):
    name: str
    n: int


class Counted(Event, type="feed.counted.v1"):
    counts: dict[str, int]


class Untold(Exception):
    """An error that fails to say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


def quick(**changes: object) -> ReplicaOptions:
    """Options with little patience, changed as asked."""
    given = {
        "backoff": timedelta(milliseconds=5),
        "backoff_cap": timedelta(milliseconds=50),
        "poll": timedelta(milliseconds=20),
    }
    return ReplicaOptions(messaging=MessagingOptions(**(given | changes)))  # type: ignore[arg-type]  # spans and counts


async def pause_after(shop: Replica, attempts: int) -> float:
    """Wait until the message of the only hold has failed so often; return the hours until its next attempt; end them.

    0.01 hours fewer, at the most, than it was told: as long as is waited for it.
    """

    async def left() -> float:
        hours = await shop.fetchval(
            "SELECT extract(epoch FROM until - clock_timestamp()) / 3600 FROM covey.hold WHERE attempts = $1", attempts
        )
        assert hours is not None, f"no {attempts} attempts: {await holds(shop)}"
        return float(hours)

    hours = await eventually(left, PATIENCE)
    await shop.fetch("UPDATE covey.hold SET until = clock_timestamp() WHERE attempts = $1 RETURNING key", attempts)
    return hours


class TestOrder:
    async def test_two_replicas_handle_each_message_once_and_every_key_in_order(
        self, memory_broker: MemoryBroker, feed: Feed, shop_url: str
    ) -> None:
        numbers = {f"key {k}": list(range(40)) for k in range(25)}
        mixed = [(key, n) for n in range(40) for key in numbers]
        async with AsyncExitStack() as stack:
            replicas = [
                await stack.enter_async_context(
                    replica("shop", shop_url, memory_broker, [keeping()], options=quick(batch=10))
                )
                for _ in range(2)
            ]
            for start in range(0, len(mixed), 50):
                await feed.publish([feed.envelope(key, n) for key, n in mixed[start : start + 50]])
            await handled(replicas[0], 1_000)

            assert {key: await effects(replicas[0], key) for key in numbers} == numbers
            await settled(replicas[0])

    async def test_duplicates_and_stragglers_have_no_effect(
        self, memory_broker: MemoryBroker, feed: Feed, shop_url: str
    ) -> None:
        chance = random.Random(1)
        messages = [feed.envelope(f"key {n % 7}", n) for n in range(100)]
        sent = [again for n, one in enumerate(messages) for again in (one, *chance.choices(messages[: n + 1], k=2))]
        async with replica("shop", shop_url, memory_broker, [keeping()]) as shop:
            await feed.publish(sent)
            await handled(shop, 100)
            await settled(shop)

            assert sorted(await effects(shop)) == list(range(100))
            for key in range(7):
                found = await effects(shop, f"key {key}")
                assert found == sorted(found)

    async def test_what_a_handler_publishes_leaves_with_its_effect_and_once(
        self, memory_broker: MemoryBroker, feed: Feed, shop_url: str
    ) -> None:
        router = Router()
        failed: set[int] = set()

        @router.on(Added)
        async def handle(message: Added, work: Work) -> None:
            work.publish(Noted(name=message.name, n=message.n))
            await keep(message, work)
            if message.n % 5 == 0 and message.n not in failed:
                failed.add(message.n)
                raise ValueError("the first time only")

        async with replica("shop", shop_url, memory_broker, [router], options=quick()) as shop:
            await feed.publish([feed.envelope(f"key {n % 3}", n) for n in range(60)])
            await handled(shop, 60)

            for key in range(3):
                outbox = await shop.fetch(
                    "SELECT convert_from(body, 'utf8')::json->>'n' AS n FROM covey.outbox WHERE key = $1"
                    " ORDER BY position",
                    f"key {key}",
                )
                assert [int(row["n"]) for row in outbox] == await effects(shop, f"key {key}")
            assert len(failed) == 12

    async def test_several_handlers_of_an_event_share_its_transaction(
        self, memory_broker: MemoryBroker, feed: Feed, shop_url: str
    ) -> None:
        router = Router()
        failed: list[int] = []

        @router.on(Added)
        async def first(message: Added, work: Work) -> None:
            await keep(message, work, "first")

        @router.on(Added)
        async def second(message: Added, work: Work) -> None:
            await keep(message, work, "second")
            if not failed:
                failed.append(message.n)
                raise ValueError("once")

        async with replica("shop", shop_url, memory_broker, [router], options=quick()) as shop:
            await feed.add("a", [1])
            await handled(shop, 2)

            rows = await shop.fetch("SELECT by FROM effect ORDER BY at")
            assert [row["by"] for row in rows] == ["first", "second"]


class TestPoison:
    async def test_stops_its_own_key_and_no_neighbour_in_its_batch(
        self, memory_broker: MemoryBroker, feed: Feed, shop_url: str
    ) -> None:
        router = Router()

        @router.on(Added)
        async def handle(message: Added, work: Work) -> None:
            await keep(message, work)
            if message.name == "poison" and message.n == 3:
                raise ValueError("no such product")

        async with replica("shop", shop_url, memory_broker, [router], options=quick()) as shop:
            await feed.publish(
                [feed.envelope(key, n) for n in range(10) for key in ("poison", *(f"good {k}" for k in range(9)))]
            )
            assert await dead(shop) == {"poison": "ValueError: no such product"}
            await handled(shop, 93)

            assert await effects(shop, "poison") == [0, 1, 2]
            for k in range(9):
                assert await effects(shop, f"good {k}") == list(range(10))
            assert (await holds(shop))["poison"][1] == MessagingOptions().max_attempts
            assert await unhandled(shop) == 7

    @pytest.mark.parametrize("error", [ValueError("half an emoji: \ud83d"), ValueError("a NUL: \0"), Untold()])
    async def test_whose_error_cannot_be_stored_or_told_stops_nothing_else(
        self, memory_broker: MemoryBroker, feed: Feed, shop_url: str, error: Exception
    ) -> None:
        router = Router()

        @router.on(Added)
        async def handle(message: Added, work: Work) -> None:
            if message.name == "poison":
                raise error
            await keep(message, work)

        async with replica("shop", shop_url, memory_broker, [router], options=quick()) as shop:
            await feed.publish([feed.envelope(key, 1) for key in ("poison", *(f"good {k}" for k in range(32)))])
            await handled(shop, 32)

            assert (await dead(shop))["poison"].startswith(type(error).__name__)

    async def test_with_a_nul_where_it_does_not_parse_stops_nothing_else(
        self, memory_broker: MemoryBroker, feed: Feed, shop_url: str
    ) -> None:
        """The reason of such a dead letter says where: in JSON that may be a key with a NUL in it."""
        router = keeping()

        @router.on(Counted)
        async def handle(message: Counted, work: Work) -> None: ...

        poison = feed.envelope("poison", 1, type="feed.counted.v1", body=b'{"counts": {"\\u0000": "many"}}')
        async with replica("shop", shop_url, memory_broker, [router], options=quick()) as shop:
            await feed.publish([poison, *(feed.envelope(f"good {k}", 1) for k in range(32))])
            await handled(shop, 32)

            assert "counts.␀" in (await dead(shop))["poison"]

    async def test_is_tried_with_growing_pauses_and_then_given_up(
        self, memory_broker: MemoryBroker, feed: Feed, shop_url: str
    ) -> None:
        """The pauses are hours, beside which it is nothing how long a busy machine takes: each is read, then ended."""
        router, tries = Router(), list[int]()

        @router.on(Added)
        async def handle(message: Added, work: Work) -> None:
            tries.append(message.n)
            raise ValueError("never")

        options = quick(backoff=timedelta(hours=1), backoff_cap=timedelta(hours=4))
        async with replica("shop", shop_url, memory_broker, [router], options=options) as shop:
            await feed.add("a", [1])
            pauses = [await pause_after(shop, attempts) for attempts in (1, 2, 3, 4)]
            await dead(shop)

            for pause, longest in zip(pauses, (1, 2, 4, 4), strict=True):
                assert longest / 2 - 0.01 <= pause <= longest
            assert len(tries) >= 5  # more, if a turn was rolled back for another reason
            assert (await holds(shop))["a"][1] == 5

    async def test_that_is_nobodys_fault_is_tried_for_as_long_as_it_takes(
        self, memory_broker: MemoryBroker, feed: Feed, shop_url: str
    ) -> None:
        router, tries = Router(), list[int]()

        @router.on(Added)
        async def handle(message: Added, work: Work) -> None:
            tries.append(message.n)
            if len(tries) < 12:
                raise DependencyUnavailable("not now")
            await keep(message, work)

        async with replica("shop", shop_url, memory_broker, [router], options=quick()) as shop:
            await feed.add("a", [1, 2])
            await handled(shop, 2)

            assert await effects(shop) == [1, 2]
            await settled(shop)

    async def test_behind_messages_that_pass_is_held_like_any_other(
        self, memory_broker: MemoryBroker, feed: Feed, shop_url: str
    ) -> None:
        """A batch behind a hold of which one message is handled and the next fails: the hold must stay that one's."""
        router, tries = Router(), dict[int, int]()

        @router.on(Added)
        async def handle(message: Added, work: Work) -> None:
            tries[message.n] = tries.get(message.n, 0) + 1
            if message.n == 1 and tries[1] == 1:
                raise ValueError("once")
            if message.n == 3:
                raise ValueError("always")
            await keep(message, work)

        async with replica("shop", shop_url, memory_broker, [router], options=quick()) as shop:
            await feed.add("a", [1, 2, 3, 4])
            await dead(shop)

            assert await effects(shop) == [1, 2]
            log = await shop.fetch("SELECT what FROM covey.dead_letter_log")
            assert [row["what"] for row in log] == ["parked"]
            assert (await holds(shop))["a"] == ("dead", 5, "ValueError: always")

    async def test_whose_error_comes_only_at_the_end_of_the_transaction_is_found(
        self, memory_broker: MemoryBroker, feed: Feed, shop_url: str
    ) -> None:
        router = Router()

        @router.on(Added)
        async def handle(message: Added, work: Work) -> None:
            await keep(message, work)
            work.defer("SELECT 1 / $1::int", message.n)

        async with replica("shop", shop_url, memory_broker, [router], options=quick()) as shop:
            await feed.publish([feed.envelope(f"key {n}", n) for n in (3, 2, 1, 0, -1, -2, -3)])
            assert set(await dead(shop)) == {"key 0"}
            await handled(shop, 6)

            assert await unhandled(shop) == 1

    async def test_that_hides_the_failure_of_its_statement_is_found(
        self, memory_broker: MemoryBroker, feed: Feed, shop_url: str
    ) -> None:
        """The statements of its neighbours fail then, in a transaction that is lost; they are not to blame."""
        router, tries = Router(), dict[int, int]()

        @router.on(Added)
        async def handle(message: Added, work: Work) -> None:
            tries[message.n] = tries.get(message.n, 0) + 1
            if message.n == 3:
                try:
                    await work.execute("SELECT 1 / 0")
                except Exception:
                    return
            await keep(message, work)

        async with replica("shop", shop_url, memory_broker, [router], options=quick(workers=1)) as shop:
            await feed.publish([feed.envelope(f"key {n}", n) for n in range(30)])
            assert set(await dead(shop)) == {"key 3"}
            await handled(shop, 29)

            log = await shop.fetch("SELECT key FROM covey.dead_letter_log")
            assert [row["key"] for row in log] == ["key 3"]
            aside = [n for n, count in tries.items() if count > 4 and n != 3]
            assert aside == [], "neighbours were held for what they had not done"

    async def test_that_fails_and_asks_again_in_the_lost_transaction_is_found(
        self, memory_broker: MemoryBroker, feed: Feed, shop_url: str
    ) -> None:
        router = Router()

        @router.on(Added)
        async def handle(message: Added, work: Work) -> None:
            if message.n == 0:
                try:
                    await work.execute("SELECT 1 / 0")
                except Exception:
                    await work.execute("SELECT 1")
            await keep(message, work)

        async with replica("shop", shop_url, memory_broker, [router], options=quick()) as shop:
            await feed.publish([feed.envelope(f"key {n}", n) for n in range(5)])
            assert set(await dead(shop)) == {"key 0"}
            await handled(shop, 4)

    async def test_that_always_meets_a_lock_stops_nobody_else(
        self, memory_broker: MemoryBroker, feed: Feed, shop_url: str
    ) -> None:
        """A lock that another session keeps for minutes: not the message's fault, and not its neighbours' either."""
        router = Router()

        @router.on(Added)
        async def handle(message: Added, work: Work) -> None:
            if message.name == "locked":
                raise Contention("somebody holds the row")
            await keep(message, work)

        async with replica("shop", shop_url, memory_broker, [router], options=quick(workers=1)) as shop:
            await feed.publish([feed.envelope(key, n) for n in range(10) for key in ("locked", "a", "b", "c")])
            await handled(shop, 30)

            assert (await holds(shop))["locked"][0] == "waiting"

    async def test_that_never_returns_stops_nobody_else(
        self, memory_broker: MemoryBroker, feed: Feed, shop_url: str
    ) -> None:
        router = Router()

        @router.on(Added)
        async def handle(message: Added, work: Work) -> None:
            if message.name == "endless":
                await asyncio.Event().wait()
            await keep(message, work)

        options = quick(handler_timeout=timedelta(milliseconds=50))
        async with replica("shop", shop_url, memory_broker, [router], options=options) as shop:
            await feed.publish([feed.envelope(key, n) for n in range(3) for key in ("endless", "a", "b")])
            await handled(shop, 6)

            assert "longer than" in (await dead(shop))["endless"]

    @pytest.mark.parametrize(
        "error", [asyncio.CancelledError(), SystemExit(1), RecursionError("deep"), MemoryError(), StopAsyncIteration()]
    )
    async def test_of_any_kind_of_exception_leaves_the_workers_alive(
        self, memory_broker: MemoryBroker, feed: Feed, shop_url: str, error: BaseException
    ) -> None:
        """A handler whose library lets a CancelledError out must not end the worker as if it had been cancelled."""
        router = Router()

        @router.on(Added)
        async def handle(message: Added, work: Work) -> None:
            if message.n < 4:
                raise error
            await keep(message, work)

        async with replica("shop", shop_url, memory_broker, [router], options=quick()) as shop:
            await feed.publish([feed.envelope(f"key {n}", n) for n in range(8)])
            await dead(shop, 4)
            await handled(shop, 4)

    async def test_a_thousandfold_costs_the_others_little(
        self, memory_broker: MemoryBroker, feed: Feed, shop_url: str
    ) -> None:
        """100 poison keys among 4,000 messages, with something behind each: all dead, none of the others lost."""
        router = Router()

        @router.on(Added)
        async def handle(message: Added, work: Work) -> None:
            if message.n < 0:
                raise ValueError("poison")
            work.defer("INSERT INTO effect (key, n) VALUES ($1, $2)", message.name, message.n)

        options = quick(max_attempts=2)
        async with replica("shop", shop_url, memory_broker, [router], options=options) as shop:
            messages = [feed.envelope(f"good {n % 100}", n) for n in range(3_800)]
            for n in range(100):
                messages[n * 38 : n * 38] = [feed.envelope(f"bad {n}", -1), feed.envelope(f"bad {n}", 1)]
            await feed.publish(messages)
            await handled(shop, 3_800)
            await dead(shop, 100)

            assert sorted(await effects(shop)) == list(range(3_800))
            assert await unhandled(shop) == 200
            for key in range(100):
                assert await effects(shop, f"good {key}") == list(range(key, 3_800, 100))

    async def test_with_a_long_tail_does_not_hide_the_other_keys_of_its_lane(
        self, memory_broker: MemoryBroker, feed: Feed, shop_url: str
    ) -> None:
        router = Router()

        @router.on(Added)
        async def handle(message: Added, work: Work) -> None:
            if message.name == "bad":
                raise ValueError("poison")
            await keep(message, work)

        async with replica("shop", shop_url, memory_broker, [router], options=quick(batch=20, max_attempts=1)) as shop:
            await feed.add("bad", [0])
            await dead(shop)
            begun = asyncio.get_running_loop().time()
            await feed.publish(
                [feed.envelope("bad", n) for n in range(3_000)] + [feed.envelope(f"key {n}", n) for n in range(64)]
            )
            await handled(shop, 64)

            assert asyncio.get_running_loop().time() - begun < 5
            assert await unhandled(shop) == 3_001


def test_pauses_double_up_to_their_cap_and_are_never_the_same_for_all() -> None:
    options = MessagingOptions(backoff=timedelta(seconds=1), backoff_cap=timedelta(seconds=30))

    for attempts, longest in ((1, 1), (2, 2), (3, 4), (5, 16), (6, 30), (1_000, 30)):
        pauses = {options.delay(attempts).total_seconds() for _ in range(50)}
        assert longest / 2 <= min(pauses) < max(pauses) <= longest


def test_a_turn_and_a_last_handler_are_over_before_postgresql_cuts_them() -> None:
    assert MessagingOptions().turn(PoolOptions().idle_in_transaction_timeout) == timedelta(seconds=1)
    for idle, handler in ((10, 8), (2, 1.5), (60, 1), (5, 5), (1, 8)):
        turn = MessagingOptions(handler_timeout=timedelta(seconds=handler)).turn(timedelta(seconds=idle))
        assert timedelta(0) <= turn <= timedelta(seconds=1)
        assert turn == timedelta(0) or turn.total_seconds() + handler < idle


class TestBatches:
    async def test_that_together_publish_too_many_keys_are_cut_not_retried(
        self, memory_broker: MemoryBroker, feed: Feed, shop_url: str
    ) -> None:
        """A flush takes at most 1,000 keys. 40 messages of 60 keys each must not be rolled back and done one by one."""
        router, runs = Router(), list[int]()

        @router.on(Added)
        async def handle(message: Added, work: Work) -> None:
            runs.append(message.n)
            for part in range(60):
                work.publish(Noted(name=f"{message.n}/{part}", n=part))
            await keep(message, work)

        async with replica("shop", shop_url, memory_broker, [router], options=quick(workers=1)) as shop:
            await feed.publish([feed.envelope(f"key {n}", n) for n in range(40)])
            await handled(shop, 40)

            assert await shop.fetchval("SELECT count(*) FROM covey.outbox") == 2_400
            assert len(runs) == 40

    @pytest.mark.parametrize("held", [False, True], ids=["ready", "behind a hold"])
    async def test_that_leave_postgresql_waiting_are_cut_before_it_cuts_them(
        self, memory_broker: MemoryBroker, feed: Feed, shop_url: str, held: bool
    ) -> None:
        """Each handler is short; together they do nothing that PostgreSQL sees for four times as long as it bears."""
        router, tries = Router(), list[int]()

        @router.on(Added)
        async def handle(message: Added, work: Work) -> None:
            tries.append(message.n)
            if held and len(tries) == 1:
                raise ValueError("once")
            await asyncio.sleep(0.05)
            work.defer("INSERT INTO effect (key, n) VALUES ($1, $2)", message.name, message.n)

        options = ReplicaOptions(
            messaging=quick(workers=1, handler_timeout=timedelta(milliseconds=250)).messaging,
            pool=PoolOptions(idle_in_transaction_timeout=timedelta(milliseconds=500)),
        )
        keys = 1 if held else 5
        await feed.publish([feed.envelope(f"key {n % keys}", n) for n in range(40)])
        async with replica("shop", shop_url, memory_broker, [router], options=options) as shop:
            await handled(shop, 40)
            await settled(shop)

            for key in range(keys):
                assert await effects(shop, f"key {key}") == list(range(key, 40, keys))
            assert len(tries) < 60, "they were all tried in vain before"

    @pytest.mark.parametrize("hidden", [False, True], ids=["at the end", "and hides it"])
    async def test_of_which_one_always_loses_the_connection_stop_nobody_else(
        self, memory_broker: MemoryBroker, feed: Feed, shop_url: str, hidden: bool
    ) -> None:
        router, end = Router(), "SELECT pg_terminate_backend(pg_backend_pid())"

        @router.on(Added)
        async def handle(message: Added, work: Work) -> None:
            await keep(message, work)
            if message.name == "bad" and hidden:
                with suppress(DatabaseUnavailable):
                    await work.execute(end)
            elif message.name == "bad":
                work.defer(end)

        await remember_who_waits(shop_url)
        await feed.publish([feed.envelope(key, n) for n in range(4) for key in ("bad", "a", "b", "c")])
        async with replica("shop", shop_url, memory_broker, [router], options=quick(workers=1)) as shop:
            await handled(shop, 12)
            await eventually(lambda: _waits(shop, "bad"), PATIENCE)

            assert await effects(shop, "bad") == []
            assert await have_waited(shop) == {"bad"}

    async def test_of_which_two_lose_the_connection_by_turns_stop_nobody_else(
        self, memory_broker: MemoryBroker, feed: Feed, shop_url: str
    ) -> None:
        """As with two workers, of which each has one of them: neither is met twice on end."""
        router, next_ = Router(), ["bad", "worse"]

        @router.on(Added)
        async def handle(message: Added, work: Work) -> None:
            if message.name == next_[0]:
                next_.reverse()
                await work.execute("SELECT pg_terminate_backend(pg_backend_pid())")
            await keep(message, work)

        await remember_who_waits(shop_url)
        await feed.publish([feed.envelope(key, n) for n in range(2) for key in ("bad", "worse", "a", "b")])
        async with replica("shop", shop_url, memory_broker, [router], options=quick(workers=1)) as shop:
            await eventually(lambda: _have_effects(shop, 4, "a", "b"), PATIENCE)

            assert await have_waited(shop) <= {"bad", "worse"}

    async def test_a_connection_that_is_lost_at_the_end_is_nobodys_fault(
        self, memory_broker: MemoryBroker, feed: Feed, shop_url: str
    ) -> None:
        """It was PostgreSQL's, which has restarted: twice, with the same messages in hand."""
        router, ends = Router(), list[int]()

        @router.on(Added)
        async def handle(message: Added, work: Work) -> None:
            await keep(message, work)
            if len(ends) < 2:
                ends.append(message.n)
                work.defer("SELECT pg_terminate_backend(pg_backend_pid())")

        await remember_who_waits(shop_url)
        await feed.publish([feed.envelope(f"key {n}", n) for n in range(10)])
        async with replica("shop", shop_url, memory_broker, [router], options=quick(workers=1)) as shop:
            await handled(shop, 10)
            await settled(shop)

            assert await have_waited(shop) == set()

    async def test_a_lost_connection_is_nobodys_fault(
        self, memory_broker: MemoryBroker, feed: Feed, shop_url: str
    ) -> None:
        router, tries = Router(), list[int]()

        @router.on(Added)
        async def handle(message: Added, work: Work) -> None:
            tries.append(message.n)
            await keep(message, work)
            if len(tries) <= 7:
                try:
                    await work.execute("SELECT pg_terminate_backend(pg_backend_pid())")
                except DatabaseUnavailable:
                    raise ValueError("what a careless handler makes of it") from None

        async with replica("shop", shop_url, memory_broker, [router], options=quick(workers=1)) as shop:
            await feed.add("a", [1])
            await handled(shop, 1)

            assert await holds(shop) == {}

    async def test_stop_after_the_present_one_when_the_service_drains(
        self, memory_broker: MemoryBroker, feed: Feed, shop_url: str
    ) -> None:
        """H14: what was begun is finished, what was not waits for the next process."""
        router, begun, finish = Router(), asyncio.Event(), asyncio.Event()

        @router.on(Added)
        async def handle(message: Added, work: Work) -> None:
            begun.set()
            await finish.wait()
            await keep(message, work)

        options = quick(batch=1, workers=1)
        await feed.add("a", range(5))
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(replica("shop", shop_url, memory_broker, [router], options=options))
            await begun.wait()
            asyncio.get_running_loop().call_later(0.05, finish.set)
        async with Database.open(shop_url) as database, database.acquire() as connection:
            done = await connection.fetchval("SELECT array_agg(n) FROM effect")
            left = await connection.fetchval("SELECT count(*) FROM covey.inbox_pending")
        assert done == [0]
        assert left == 4
        async with replica("shop", shop_url, memory_broker, [keeping()]) as shop:
            await handled(shop, 5)
            assert await effects(shop) == [0, 1, 2, 3, 4]

    async def test_whose_process_dies_in_it_is_repeated_by_another(
        self, memory_broker: MemoryBroker, feed: Feed, shop_url: str
    ) -> None:
        """The connection is gone after every single statement, once."""
        router, cuts = Router(), list[int]()

        @router.on(Added)
        async def handle(message: Added, work: Work) -> None:
            for cut in (0, 1):
                if (message.n * 2 + cut) not in cuts:
                    cuts.append(message.n * 2 + cut)
                    await work.execute("SELECT pg_terminate_backend(pg_backend_pid())")
                await keep(message, work)
            work.publish(Noted(name=message.name, n=message.n))

        async with AsyncExitStack() as stack:
            for _ in range(2):
                shop = await stack.enter_async_context(
                    replica("shop", shop_url, memory_broker, [router], options=quick(batch=3))
                )
            await feed.add("a", range(6))
            await handled(shop, 12)
            await settled(shop)

            assert await effects(shop) == [n for n in range(6) for _ in (0, 1)]
            assert await shop.fetchval("SELECT count(*) FROM covey.outbox") == 6


async def _waits(shop: Replica, key: str) -> bool:
    state, attempts, error = (await holds(shop))[key]
    assert state == "waiting" and attempts > 0
    assert "connections were lost" in (error or "")
    return True


async def test_a_handlers_own_plans_are_not_the_queues(memory_broker: MemoryBroker, feed: Feed, shop_url: str) -> None:
    router, seen = Router(), list[str]()

    @router.on(Added)
    async def handle(message: Added, work: Work) -> None:
        seen.append(await work.fetchval("SHOW enable_seqscan"))

    async with replica("shop", shop_url, memory_broker, [router]):
        await feed.add("a", [1])
        await eventually(lambda: seen == ["on"])


async def _have_effects(shop: Replica, number: int, *keys: str) -> bool:
    return bool(await shop.fetchval("SELECT count(*) = $1 FROM effect WHERE key = ANY ($2)", number, list(keys)))
