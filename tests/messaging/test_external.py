"""Effects outside the database: intended, called with a key, settled once; in no transaction and in no batch (H7)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import datetime, timedelta

import pytest

from covey.database.pool import Connection, Database, PoolOptions
from covey.errors import DependencyUnavailable
from covey.ids import new_id
from covey.message import Event, Reply
from covey.messaging.brokers.memory import MemoryBroker
from covey.messaging.call import GRACE
from covey.messaging.options import OWNERS
from covey.messaging.recording import ALONE
from covey.messaging.router import Router
from covey.testing.cable import Cable
from covey.testing.eventually import eventually
from covey.testing.replica import Replica, ReplicaOptions, replica
from covey.work.outbox import MAX_KEYS
from covey.work.unit_of_work import Work
from tests.messaging.feed import (
    Feed,
    dead,
    effects,
    handled,
    have_waited,
    holds,
    keeping,
    remember_who_waits,
    settled,
    unhandled,
)
from tests.messaging.outside import Charge, Provider, charge, quick

_OPEN_TRANSACTIONS = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND state LIKE 'idle in transaction%'
"""

_COMMIT_WAITS = """
CREATE FUNCTION wait_for_gate() RETURNS trigger LANGUAGE plpgsql
    AS 'BEGIN PERFORM pg_advisory_xact_lock_shared(77); RETURN NULL; END';
CREATE CONSTRAINT TRIGGER gate AFTER INSERT ON covey.hold DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION wait_for_gate();
"""

_SUSPECT = """
INSERT INTO covey.hold (key, lane, state, until, attempts, crashes, position)
    SELECT key, lane, 'waiting', clock_timestamp(), 0, 2, position FROM covey.inbox_pending;
WITH aside AS (DELETE FROM covey.inbox_pending RETURNING key, position) INSERT INTO covey.inbox_held TABLE aside;
"""


class Noted(Event, type="shop.noted.v1", key="name"):
    name: str


class Counted(Event, type="feed.counted.v1", key="name"):
    name: str
    n: int


@pytest.fixture
def provider() -> Provider:
    """An outside that answers at once."""
    return Provider()


@pytest.fixture
async def shop(memory_broker: MemoryBroker, shop_url: str, provider: Provider) -> AsyncIterator[Replica]:
    """One replica with this provider."""
    async with replica("shop", shop_url, memory_broker, [provider.router()], options=quick()) as running:
        yield running


async def stored(broker: MemoryBroker, url: str, routers: Sequence[Router], count: int) -> None:
    """Have so many messages of what was published stored, and none handled."""
    async with replica("shop", url, broker, routers, options=quick(workers=0)) as shop:

        async def all_of_them() -> bool:
            return await unhandled(shop) == count

        await eventually(all_of_them)


async def replies(shop: Replica) -> list[str]:
    """Return the outcomes of the replies that were sent."""
    rows = await shop.fetch(
        "SELECT convert_from(body, 'utf8')::json->>'outcome' AS outcome FROM covey.outbox ORDER BY position"
    )
    return [row["outcome"] for row in rows]


class TestACall:
    async def test_is_made_with_the_commands_id_as_its_key_and_settled_once(
        self, shop: Replica, provider: Provider, feed: Feed
    ) -> None:
        command_id = new_id()
        await feed.publish([charge("a", 1, command_id)])
        await handled(shop, 1)
        await settled(shop)

        assert provider.calls == [(1, str(command_id))]
        assert await shop.fetchval("SELECT by FROM effect") == f"receipt of {command_id}"
        assert await replies(shop) == ["done"]
        assert await holds(shop) == {}

    async def test_is_made_with_no_transaction_open_and_no_connection_held(
        self, memory_broker: MemoryBroker, shop_url: str, feed: Feed
    ) -> None:
        called, go_on = asyncio.Event(), asyncio.Event()

        async def slow(command: Charge, key: str) -> str:
            called.set()
            await go_on.wait()
            return key

        provider = Provider(slow)
        async with replica("shop", shop_url, memory_broker, [provider.router()], options=quick(calls=500)) as shop:
            await feed.publish([charge(f"cart {n}", n) for n in range(100)])
            await eventually(lambda: len(provider.calls) == 100)

            async def at_rest() -> bool:
                size, idle = shop.database.usage
                assert size == idle
                return await shop.fetchval(_OPEN_TRANSACTIONS) == 0

            await eventually(at_rest)
            go_on.set()
            await handled(shop, 100)

    async def test_whose_answer_takes_for_ever_to_record_keeps_no_other_from_being_recorded(
        self, memory_broker: MemoryBroker, shop_url: str, feed: Feed
    ) -> None:
        class Slow(Provider):
            async def settle(self, message: Charge, result: str, work: Work) -> Reply:
                if message.cart.startswith("slow"):
                    await asyncio.Event().wait()
                return await super().settle(message, result, work)

        options = quick(handler_timeout=timedelta(milliseconds=200), max_attempts=1)
        async with replica("shop", shop_url, memory_broker, [Slow().router()], options=options) as shop:
            await feed.publish([charge(f"slow {n}", n) for n in range(ALONE)])
            await feed.publish([charge("good", 1)])
            await handled(shop, 1)

            assert set((await dead(shop, ALONE)).values()) == {"TooSlow: settling took longer than 0.2 s"}

    async def test_that_was_refused_before_it_is_never_made(
        self, shop: Replica, provider: Provider, feed: Feed
    ) -> None:
        await feed.publish([charge("a", -1)])
        await eventually(lambda: _replied(shop, ["refused"]))

        assert provider.calls == []
        await settled(shop)

    async def test_whose_outcome_is_unknown_is_repeated_with_the_same_key_until_it_is_known(
        self, shop: Replica, provider: Provider, feed: Feed
    ) -> None:
        async def moody(command: Charge, key: str) -> str:
            if len(provider.calls) < 9:
                raise DependencyUnavailable("no answer")
            return "at last"

        provider.answer = moody
        await feed.publish([charge("a", 1), charge("a", 2)])
        await handled(shop, 2)

        assert [n for n, _ in provider.calls] == [1] * 9 + [2]
        assert len({key for n, key in provider.calls if n == 1}) == 1

    async def test_whose_time_is_over_is_repeated_with_the_same_key(
        self, memory_broker: MemoryBroker, shop_url: str, feed: Feed
    ) -> None:
        async def slow_at_first(command: Charge, key: str) -> str:
            if len(provider.calls) == 1:
                await asyncio.Event().wait()
            return key

        provider, router = Provider(slow_at_first), Router()
        router.external(Charge, provider, timeout=timedelta(milliseconds=50))
        async with replica("shop", shop_url, memory_broker, [router], options=quick()) as shop:
            await feed.publish([charge("a", 1)])
            await handled(shop, 1)

            assert len(provider.calls) == 2
            assert len({key for _, key in provider.calls}) == 1

    async def test_that_fails_for_another_reason_is_given_up_after_its_attempts(
        self, shop: Replica, provider: Provider, feed: Feed
    ) -> None:
        async def broken(command: Charge, key: str) -> str:
            if command.cart == "a":
                raise KeyError("a defect")
            return key

        provider.answer = broken
        await feed.publish([charge("a", 1), charge("b", 2)])
        await handled(shop, 1)

        assert await dead(shop) == {"a": "KeyError: 'a defect'"}
        assert [n for n, _ in provider.calls].count(1) == 5

    @pytest.mark.parametrize(
        "error", [asyncio.CancelledError(), SystemExit(1), RecursionError("deep"), ValueError("\ud83d")]
    )
    async def test_of_any_kind_of_exception_is_seen_and_counted(
        self, shop: Replica, provider: Provider, feed: Feed, error: BaseException
    ) -> None:
        async def broken(command: Charge, key: str) -> str:
            raise error

        provider.answer = broken
        await feed.publish([charge("a", 1)])

        assert set(await dead(shop)) == {"a"}

    async def test_nobody_waits_for_any_more_is_dropped_and_logged(
        self, shop: Replica, provider: Provider, feed: Feed
    ) -> None:
        async def down(command: Charge, key: str) -> str:
            if command.n == 1:
                raise DependencyUnavailable("down")
            return key

        provider.answer = down
        soon = await shop.fetchval("SELECT (clock_timestamp() + interval '1500 ms')::text")
        await feed.publish([charge("a", 1, deadline=datetime.fromisoformat(soon).isoformat()), charge("a", 2)])
        await handled(shop, 1)

        assert await shop.fetchval("SELECT n FROM effect") == 2
        assert await shop.fetchval("SELECT what FROM covey.dead_letter_log") == "expired"
        assert len([n for n, _ in provider.calls if n == 1]) > 1

    async def test_asked_for_twice_is_made_once_and_answered_twice(
        self, shop: Replica, provider: Provider, feed: Feed
    ) -> None:
        command_id = new_id()
        await feed.publish([charge("a", 1, command_id), charge("a", 1, command_id)])
        await eventually(lambda: _replied(shop, ["done", "done"]))
        await feed.publish([charge("a", 1, command_id)])
        await eventually(lambda: _replied(shop, ["done"] * 3))

        assert len(provider.calls) == 1
        bodies = await shop.fetch("SELECT DISTINCT body FROM covey.outbox")
        assert len(bodies) == 1
        ids = await shop.fetch("SELECT DISTINCT id FROM covey.outbox")
        assert len(ids) == 3


async def defers_what_fails(command: Charge, work: Work) -> None:
    """Do what the database refuses when the turn ends."""
    work.defer("SELECT 1 / $1::int", command.n)


async def hides_a_failure(command: Charge, work: Work) -> None:
    """Do what makes a rollback of the turn's commit."""
    if command.n == 0:
        with suppress(Exception):
            await work.execute("SELECT 1 / 0")


async def publishes_too_much(command: Charge, work: Work) -> None:
    """Do what covey refuses when the turn ends."""
    if command.n == 0:
        for n in range(MAX_KEYS + 1):
            work.publish(Noted(name=f"key {n}"))


class TestAnIntent:
    @pytest.mark.parametrize("fault", [defers_what_fails, hides_a_failure, publishes_too_much])
    async def test_whose_error_comes_only_at_the_end_of_the_transaction_is_found(
        self, memory_broker: MemoryBroker, shop_url: str, feed: Feed, fault: Callable[[Charge, Work], Awaitable[None]]
    ) -> None:
        """It is the first of what waits, so that no turn is without it."""

        tries = list[int]()

        class Faulty(Provider):
            async def intend(self, message: Charge, work: Work) -> str | Reply:
                tries.append(message.n)
                await fault(message, work)
                return await super().intend(message, work)

        provider = Faulty()
        routers = [provider.router(), keeping()]
        await remember_who_waits(shop_url)
        await feed.publish([charge("bad", 0), charge("good", 100)])
        await stored(memory_broker, shop_url, routers, 2)
        await feed.publish([feed.envelope(f"key {n}", n) for n in range(8)])
        await stored(memory_broker, shop_url, routers, 10)
        async with replica("shop", shop_url, memory_broker, routers, options=quick(workers=1)) as shop:
            await handled(shop, 9)

            assert set(await dead(shop)) == {"bad"}
            assert sorted(await effects(shop)) == [*range(8), 100]
            assert [n for n, _ in provider.calls] == [100]
            assert await unhandled(shop) == 1
            assert await have_waited(shop) == {"bad"}
            assert tries.count(0) < 5 + 8, "its neighbours were suspected one after the other"

    async def test_whose_error_comes_only_at_the_end_is_found_where_its_process_may_have_died_of_it(
        self, memory_broker: MemoryBroker, shop_url: str, feed: Feed
    ) -> None:
        """A suspect is handled alone, by a role that must outlive it."""

        class Faulty(Provider):
            async def intend(self, message: Charge, work: Work) -> str | Reply:
                await defers_what_fails(message, work)
                return await super().intend(message, work)

        await feed.publish([charge("bad", 0)])
        await stored(memory_broker, shop_url, [Faulty().router()], 1)
        async with Database.open(shop_url) as database, database.acquire() as connection:
            await connection.execute(_SUSPECT)
        async with replica("shop", shop_url, memory_broker, [Faulty().router()], options=quick()) as shop:
            assert "division by zero" in (await dead(shop))["bad"]

    async def test_that_fails_with_its_turn_keeps_no_place_from_those_of_the_next(
        self, memory_broker: MemoryBroker, shop_url: str, feed: Feed
    ) -> None:
        """None of them waits for a place: there is one for each."""
        router = keeping()

        @router.on(Counted)
        async def handle(message: Counted, work: Work) -> None:
            work.defer("SELECT 1 / $1::int", message.n)

        routers = [Provider().router(), router]
        await remember_who_waits(shop_url)
        await feed.publish([charge(f"cart {n}", n) for n in range(8)])
        await feed.publish([feed.envelope("bad", 0, type="feed.counted.v1")])
        await stored(memory_broker, shop_url, routers, 9)
        options = quick(workers=1, calls=8)
        async with replica("shop", shop_url, memory_broker, routers, options=options) as shop:
            await handled(shop, 8)
            await dead(shop)

            assert await have_waited(shop) == {"bad"}


class TestTheBulkhead:
    async def test_lets_so_many_calls_through_and_no_more(
        self, memory_broker: MemoryBroker, shop_url: str, feed: Feed
    ) -> None:
        async def slow(command: Charge, key: str) -> str:
            await eventually(lambda: provider.most >= 7, because="all that may are under way at once")
            return key

        provider = Provider(slow)
        async with replica("shop", shop_url, memory_broker, [provider.router()], options=quick(calls=7)) as shop:
            await feed.publish([charge(f"cart {n}", n) for n in range(60)])
            await handled(shop, 60)

            assert provider.most == 7
            assert len(provider.calls) == 60
            await settled(shop)

    async def test_that_is_full_stops_no_other_message(
        self, memory_broker: MemoryBroker, shop_url: str, feed: Feed
    ) -> None:
        async def never(command: Charge, key: str) -> str:
            await asyncio.Event().wait()
            return key

        routers = [Provider(never).router(), keeping()]
        async with replica("shop", shop_url, memory_broker, routers, options=quick(calls=2)) as shop:
            await feed.publish([charge(f"cart {n}", n) for n in range(20)])
            await feed.add("other", range(20))
            await handled(shop, 20)

    async def test_that_is_full_does_not_keep_the_database_busy(
        self, memory_broker: MemoryBroker, shop_url: str, feed: Feed
    ) -> None:
        """300 keys wait for a slow provider: they come back when their turn comes, not all of them all the time."""

        async def slow(command: Charge, key: str) -> str:
            await asyncio.sleep(0.25)
            return key

        provider = Provider(slow)
        options = quick(calls=2, poll=timedelta(milliseconds=250))
        async with replica("shop", shop_url, memory_broker, [provider.router()], options=options) as shop:
            await feed.publish([charge(f"cart {n}", n) for n in range(300)])

            async def told_when_to_come() -> bool:
                return bool(
                    await shop.fetchval(
                        "SELECT count(*) > 200 FROM covey.hold"
                        " WHERE state = 'waiting' AND until > clock_timestamp() + interval '400 ms'"
                    )
                )

            await eventually(told_when_to_come)


class TestACrash:
    async def test_anywhere_repeats_the_call_with_the_same_key_and_settles_once(
        self, memory_broker: MemoryBroker, shop_url: str, feed: Feed
    ) -> None:
        """The process loses its database at every moment of a call; another takes it up."""
        keys: dict[int, set[str]] = {}
        for n, moment in enumerate(("intent", "call", "answer")):
            async with _crashing(memory_broker, shop_url, moment, keys) as crashed:
                await feed.publish([charge("a", n)])
                await crashed.wait()
            provider = Provider()
            async with replica("shop", shop_url, memory_broker, [provider.router()], options=quick()) as shop:
                await handled(shop, n + 1)
                await settled(shop)
                keys.setdefault(n, set()).update(key for _, key in provider.calls)
                assert await shop.fetchval("SELECT count(*) FROM effect WHERE n = $1", n) == 1

            assert len(keys[n]) == 1, moment

    async def test_is_noticed_within_a_second_and_not_after_the_lease(
        self, memory_broker: MemoryBroker, shop_url: str, feed: Feed
    ) -> None:
        async def never(command: Charge, key: str) -> str:
            await asyncio.Event().wait()
            return key

        first, second = Provider(never), Provider()
        async with AsyncExitStack() as stack:
            cable = await stack.enter_async_context(Cable.to(shop_url))
            dying = await _begun(stack, cable.url, memory_broker, first)
            await feed.publish([charge("a", 1)])
            await eventually(lambda: len(first.calls) == 1)
            survivor = await stack.enter_async_context(
                replica("shop", shop_url, memory_broker, [second.router()], options=quick())
            )
            loop = asyncio.get_running_loop()

            begun = loop.time()
            cable.cut()
            await handled(survivor, 1)

            assert loop.time() - begun < 3  # the lease is 15 s; a second is promised, the machine may be busy
            assert second.calls == first.calls
            assert dying

    @pytest.mark.parametrize("fails", [False, True])
    async def test_of_the_database_while_it_is_made_is_outlived_by_what_came_of_it(
        self, memory_broker: MemoryBroker, shop_url: str, feed: Feed, fails: bool
    ) -> None:
        """An answer, or the lack of one, that is lost costs the whole lease, and by then a saga may have given up."""
        called, answers = asyncio.Event(), asyncio.Event()

        async def answer(command: Charge, key: str) -> str:
            called.set()
            await answers.wait()
            if fails and len(provider.calls) == 1:
                raise DependencyUnavailable("no answer")
            return key

        provider = Provider(answer)
        async with (
            Cable.to(shop_url) as cable,
            replica("shop", cable.url, memory_broker, [provider.router()], options=quick()) as shop,
        ):
            await feed.publish([charge("a", 1)])
            await called.wait()
            cable.cut()
            answers.set()
            await eventually(lambda: provider.under_way == 0)
            cable.mend()
            begun = time.monotonic()
            await handled(shop, 1)

            assert time.monotonic() - begun < GRACE.total_seconds()
            assert len(provider.calls) == (2 if fails else 1)

    async def test_of_the_database_at_the_commit_of_its_intent_costs_no_lease(
        self, memory_broker: MemoryBroker, shop_url: str, feed: Feed
    ) -> None:
        """The intent is committed after the process has lost its connection: the key is held for a call of nobody."""
        provider = Provider()
        async with (
            Cable.to(shop_url) as cable,
            Database.open(shop_url) as database,
            database.connected() as gate,
            replica("shop", cable.url, memory_broker, [provider.router()], options=quick()),
        ):
            await gate.execute(_COMMIT_WAITS)
            await gate.execute("SELECT pg_advisory_lock(77)")
            await feed.publish([charge("a", 1)])
            await eventually(lambda: _commit_waits(gate))
            cable.cut()
            cable.mend()
            begun = time.monotonic()
            await gate.execute("SELECT pg_advisory_unlock(77)")
            await eventually(lambda: _charged(gate))

            assert time.monotonic() - begun < GRACE.total_seconds()
            assert len(provider.calls) == 1

    async def test_of_which_the_dead_wakes_up_late_writes_nothing(
        self, memory_broker: MemoryBroker, shop_url: str, feed: Feed
    ) -> None:
        """H9: the network of a process stands still, another takes its call over, and then its answer comes."""
        answer = asyncio.Event()

        async def late(command: Charge, key: str) -> str:
            await answer.wait()
            return "late"

        first, second = Provider(late), Provider()
        async with AsyncExitStack() as stack:
            cable = await stack.enter_async_context(Cable.to(shop_url))
            stopped = await _begun(stack, cable.url, memory_broker, first)
            await feed.publish([charge("a", 1)])
            await eventually(lambda: len(first.calls) == 1)
            other = await stack.enter_async_context(
                replica("shop", shop_url, memory_broker, [second.router()], options=quick())
            )
            cable.freeze()
            await _end_the_session_of_the_owner(other)
            await handled(other, 1)

            cable.thaw()
            answer.set()
            await eventually(lambda: first.under_way == 0)
            await settled(stopped)

            rows = await other.fetch("SELECT by FROM effect")
            assert len(rows) == 1
            assert await replies(other) == ["done"]

    async def test_of_a_service_that_drains_hands_its_calls_back(
        self, memory_broker: MemoryBroker, shop_url: str, feed: Feed
    ) -> None:
        """H14: an answer that does not come in time is somebody else's to ask for, at once."""

        async def never(command: Charge, key: str) -> str:
            await asyncio.Event().wait()
            return key

        first, second = Provider(never), Provider()
        async with replica("shop", shop_url, memory_broker, [first.router()], options=quick()):
            await feed.publish([charge("a", 1)])
            await eventually(lambda: len(first.calls) == 1)
        async with replica("shop", shop_url, memory_broker, [second.router()], options=quick()) as shop:
            await handled(shop, 1)

            assert second.calls == first.calls

    async def test_of_a_service_that_drains_is_no_crash_of_what_was_under_way(
        self, memory_broker: MemoryBroker, shop_url: str, feed: Feed
    ) -> None:
        """Or deployments would make a dead letter of a pivot whose provider is silent."""

        async def never(command: Charge, key: str) -> str:
            await asyncio.Event().wait()
            return key

        await feed.publish([charge("a", 1)])
        for _ in range(2):
            provider = Provider(never)
            async with replica("shop", shop_url, memory_broker, [provider.router()], options=quick()) as shop:
                await eventually(lambda: len(provider.calls) == 1)  # noqa: B023 - it is asked at once
                assert await shop.fetchval("SELECT crashes FROM covey.hold") == 0

    async def test_of_the_lock_that_shows_life_begins_no_call_until_it_is_back(
        self, memory_broker: MemoryBroker, shop_url: str, feed: Feed
    ) -> None:
        """Or every other replica would take each call for abandoned while it is under way."""
        provider = Provider()
        async with replica("shop", shop_url, memory_broker, [provider.router()], options=quick()) as shop:
            for n in range(5):
                await _end_the_session_of_the_owner(shop)
                await feed.publish([charge("a", n)])
                await handled(shop, n + 1)

            assert len(provider.calls) == 5


@asynccontextmanager
async def _crashing(
    broker: MemoryBroker, url: str, moment: str, keys: dict[int, set[str]]
) -> AsyncIterator[asyncio.Event]:
    """Run a replica whose database is gone for good at that moment; set when it is."""
    crashed = asyncio.Event()
    async with Cable.to(url) as cable:

        class Fragile(Provider):
            async def intend(self, message: Charge, work: Work) -> str | Reply:
                intent = await super().intend(message, work)
                if moment == "intent":
                    crash()
                return intent

            async def call(self, message: Charge, intent: str, key: str) -> str:
                keys.setdefault(message.n, set()).add(key)
                if moment == "call":
                    crash()
                return await super().call(message, intent, key)

            async def settle(self, message: Charge, result: str, work: Work) -> Reply:
                reply = await super().settle(message, result, work)
                if moment == "answer":
                    crash()
                return reply

        def crash() -> None:
            cable.cut()
            crashed.set()

        options = ReplicaOptions(
            messaging=quick().messaging,
            pool=PoolOptions(wait=timedelta(milliseconds=200)),
            drain=timedelta(milliseconds=100),
        )
        async with replica("shop", cable.url, broker, [Fragile().router()], options=options):
            yield crashed


async def _begun(stack: AsyncExitStack, url: str, broker: MemoryBroker, provider: Provider) -> Replica:
    return await stack.enter_async_context(replica("shop", url, broker, [provider.router()], options=quick()))


async def _end_the_session_of_the_owner(shop: Replica) -> None:
    """End the session that shows that a process with calls lives, as PostgreSQL does to one that stands still."""
    await shop.fetch(
        "SELECT pg_terminate_backend(l.pid) FROM pg_locks l WHERE l.locktype = 'advisory' AND l.classid = $1"
        " AND (NOT EXISTS (SELECT FROM covey.hold WHERE state = 'working')"
        " OR l.objid::bigint IN (SELECT owner FROM covey.hold WHERE state = 'working'))",
        OWNERS,
    )


async def _commit_waits(gate: Connection) -> bool:
    waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 77 AND NOT granted"
    assert await gate.fetchval(waiting) == 1
    return True


async def _charged(gate: Connection) -> bool:
    assert await gate.fetchval("SELECT count(*) FROM effect") == 1
    return True


async def _replied(shop: Replica, expected: list[str]) -> bool:
    found = await replies(shop)
    assert found == expected
    return True
