"""While a deployment rolls two versions of a service share its database, and nothing is lost on either (H12)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import asyncpg
import pytest

from covey.database.pool import Database, PoolOptions
from covey.message import Envelope, Event
from covey.messaging.broker import Broker, Reader, Topic
from covey.messaging.brokers.memory import MemoryBroker, MemoryLogs
from covey.messaging.brokers.nats import NatsBroker
from covey.messaging.brokers.valkey import ValkeyBroker
from covey.messaging.delivery import Received
from covey.messaging.options import LANES
from covey.messaging.roles import holder_of
from covey.messaging.router import Router
from covey.messaging.turn import _RECEIVE as RECEIVE
from covey.saga.definition import retriable
from covey.saga.engine import SagaEngine
from covey.saga.saga import Saga
from covey.telemetry.telemetry import Telemetry
from covey.testing.cable import Cable
from covey.testing.eventually import eventually
from covey.testing.replica import Replica, ReplicaOptions, replica
from covey.work.unit_of_work import Work
from tests.messaging.feed import PATIENCE, Feed, dead, effects, handled, holds, keeping, settled
from tests.saga.stage import Data

ADDED, REMOVED = Topic("event", "added"), Topic("event", "removed")


class Removed(Event, type="feed.removed.v1", key="name"):
    """What only the new version reads of `feed`."""

    name: str
    n: int


def keeping_more() -> Router:
    """Return the router of the new version: it keeps what was removed, too."""
    router = keeping()

    @router.on(Removed)
    async def handle(message: Removed, work: Work) -> None:
        await work.execute("INSERT INTO effect (key, n, by) VALUES ($1, $2, 'new')", message.name, message.n)

    return router


@dataclass
class Rolling:
    """A deployment: the versions of `shop` that run, on one database and one broker."""

    url: str
    broker: Broker
    feed: Feed
    stack: AsyncExitStack

    async def start(self, name: str, routers: Sequence[Router] | None = None, **messaging: int) -> Version:
        """Start a replica of the version `old` or `new`."""
        stack = await self.stack.enter_async_context(AsyncExitStack())
        cable = await stack.enter_async_context(Cable.to(self.url))
        options = ReplicaOptions(pool=PoolOptions(application=name))
        options = replace(options, messaging=replace(options.messaging, **messaging))
        routers = routers if routers is not None else [keeping() if name == "old" else keeping_more()]
        opened = replica("shop", cable.url, self.broker, routers, options=options)
        return Version(await stack.enter_async_context(opened), cable, stack)

    async def removed(self, *numbers: int, key: str = "a") -> None:
        """Publish that these were removed."""
        await self.feed.publish(self.feed.envelope(key, n, type="feed.removed.v1") for n in numbers)

    async def reads(self, name: str) -> None:
        """Wait until a replica of that version has the role of reading the feed."""
        async with Database.open(self.url) as database, database.acquire() as connection:

            async def it_does() -> bool:
                holder = await holder_of(connection, "ingest feed")
                assert holder == name, holder
                return True

            await eventually(it_does, PATIENCE)

    async def passed(self, n: int) -> None:
        """Have one more added, and wait until it is handled: whoever reads has then read what was before it."""
        await self.feed.add("z", [n])
        async with Database.open(self.url) as database, database.acquire() as connection:

            async def it_was() -> bool:
                return bool(await connection.fetchval("SELECT count(*) FROM effect WHERE key = 'z' AND n = $1", n))

            await eventually(it_was, PATIENCE)


@dataclass
class Version:
    """A replica of one version."""

    shop: Replica
    cable: Cable
    stack: AsyncExitStack

    async def stop(self) -> None:
        """Stop it as a deployment does."""
        await self.stack.aclose()


class Watched(MemoryBroker):
    """The broker in memory, which tells what was read from where."""

    def __init__(self, logs: MemoryLogs) -> None:
        super().__init__(logs)
        self.readings: list[tuple[list[str], int]] = []

    def read(self, stream: str, topics: Collection[Topic], after: int) -> AbstractAsyncContextManager[Reader]:
        """See Broker.read."""
        self.readings.append((sorted(topic.name for topic in topics), after))
        return super().read(stream, topics, after)


@pytest.fixture
def logs() -> MemoryLogs:
    """What the broker in memory holds."""
    return MemoryLogs()


@pytest.fixture
def watched(logs: MemoryLogs) -> Watched:
    """The broker of these tests."""
    return Watched(logs)


@asynccontextmanager
async def rolling_on(broker: Broker, url: str) -> AsyncIterator[Rolling]:
    await broker.ensure_stream("feed")
    async with AsyncExitStack() as stack:
        yield Rolling(url, broker, Feed(broker), stack)


@pytest.fixture
async def rolling(watched: Watched, shop_url: str) -> AsyncIterator[Rolling]:
    """A deployment in which nothing runs yet."""
    async with rolling_on(watched, shop_url) as rolling:
        yield rolling


class TestWhatOnlyTheNewVersionReads:
    async def test_is_not_lost_when_the_old_one_reads_first(self, rolling: Rolling) -> None:
        await _old_reads_first(rolling)

    async def test_is_not_lost_on_nats_either(self, nats_broker: NatsBroker, shop_url: str) -> None:
        async with rolling_on(nats_broker, shop_url) as rolling:
            await _old_reads_first(rolling)

    async def test_is_not_lost_on_valkey_either(self, covey_engines: Any, system_name: str, shop_url: str) -> None:
        broker = await ValkeyBroker.open(covey_engines.valkey_url, system_name, reader="shop")
        try:
            async with rolling_on(broker, shop_url) as rolling:
                await _old_reads_first(rolling)
        finally:
            await broker.close()

    async def test_is_not_lost_when_the_role_goes_to_the_old_one_and_back(
        self, rolling: Rolling, watched: Watched
    ) -> None:
        await rolling.removed(0)
        new = await rolling.start("new")
        await handled(new.shop, 1)
        await rolling.passed(1)
        for turn in range(1, 4):
            old = await rolling.start("old")
            await new.stop()
            await rolling.reads("old")
            await rolling.removed(2 * turn)
            await rolling.passed(2 * turn)
            new = await rolling.start("new")
            await old.stop()
            await rolling.removed(2 * turn + 1)
            await rolling.passed(2 * turn + 1)

        await eventually(lambda: _are(new.shop, "a", [0, 2, 3, 4, 5, 6, 7]), PATIENCE)
        assert await effects(new.shop, "z") == list(range(1, 8))
        await settled(new.shop)
        again = [after for topics, after in watched.readings if topics == ["removed"]]
        assert again == [2, 6, 10]  # what had passed it, and no more

    async def test_is_not_lost_when_the_session_of_the_role_is(self, rolling: Rolling) -> None:
        new = await rolling.start("new")
        await rolling.reads("new")
        await rolling.removed(1)
        await rolling.passed(1)
        old = await rolling.start("old")

        new.cable.cut()
        await rolling.reads("old")
        await rolling.removed(2)
        await rolling.passed(2)
        new.cable.mend()
        old.cable.cut()
        await rolling.reads("new")
        await rolling.removed(3)
        await rolling.passed(3)

        async with Database.open(rolling.url) as database, database.acquire() as connection:
            rows = await connection.fetch("SELECT n FROM effect WHERE key = 'a' ORDER BY at")
        assert [row["n"] for row in rows] == [1, 2, 3]
        old.cable.mend()

    async def test_begins_with_the_oldest_that_the_stream_holds(self, rolling: Rolling, logs: MemoryLogs) -> None:
        await rolling.removed(1, 2)
        old = await rolling.start("old")
        await rolling.passed(1)
        await old.stop()
        logs.drop("feed", before=2)
        new = await rolling.start("new")
        await rolling.removed(3)

        await eventually(lambda: _are(new.shop, "a", [2, 3]), PATIENCE)
        assert new.shop.messaging.observation.history_lost == {}

    async def test_is_read_before_what_is_new_and_nothing_twice(self, rolling: Rolling, watched: Watched) -> None:
        await rolling.feed.add("a", range(100))
        await rolling.removed(*range(100, 200))
        old = await rolling.start("old")
        await handled(old.shop, 100)
        await rolling.passed(1)
        await old.stop()
        await rolling.feed.add("a", [1000])
        new = await rolling.start("new")

        await eventually(lambda: _are(new.shop, "a", [*range(200), 1000]), PATIENCE)
        assert watched.readings == [(["added"], 0), (["removed"], 0), (["added", "removed"], 201)]

    async def test_is_not_lost_when_the_new_one_dies_while_it_catches_up(self, rolling: Rolling) -> None:
        await rolling.removed(*range(2_000))
        old = await rolling.start("old")
        await rolling.passed(1)
        new = await rolling.start("new", read_batch=10)
        await old.stop()
        await eventually(lambda: _some_stored(new.shop), PATIENCE)
        new.cable.cut()
        old = await rolling.start("old", workers=0)
        await rolling.reads("old")
        await rolling.feed.add("z", [2])
        newer = await rolling.start("new")
        await old.stop()

        await eventually(lambda: _are(newer.shop, "a", list(range(2_000))), PATIENCE)
        await eventually(lambda: _are(newer.shop, "z", [1, 2]), PATIENCE)
        new.cable.mend()

    async def test_is_not_lost_to_a_version_that_does_not_say_what_it_reads(
        self, rolling: Rolling, watched: Watched
    ) -> None:
        """Such as one from before there was a place for it: it calls the same functions, and knows no more."""
        new = await rolling.start("new")
        await rolling.removed(1)
        await rolling.passed(1)
        await new.stop()
        await rolling.removed(2)
        await rolling.feed.add("z", [2])
        await _move(rolling.url, after=2, upto=4)
        newer = await rolling.start("new")
        await rolling.removed(3)

        await eventually(lambda: _are(newer.shop, "a", [1, 2, 3]), PATIENCE)
        assert watched.readings[-1] == (["added", "removed"], 2)

    async def test_is_read_from_the_oldest_once_where_nobody_has_ever_said_what_was_read(
        self, rolling: Rolling, watched: Watched
    ) -> None:
        """As in a database that such a version has left."""
        await rolling.removed(1)
        old = await rolling.start("old")
        await rolling.passed(1)
        await old.stop()
        await _forget_topics(rolling.url)
        new = await rolling.start("new")
        await eventually(lambda: _are(new.shop, "a", [1]), PATIENCE)
        await rolling.passed(2)
        await new.stop()
        new = await rolling.start("new")
        await rolling.passed(3)

        assert await effects(new.shop, "z") == [1, 2, 3]
        both = ["added", "removed"]
        assert watched.readings == [(["added"], 0), (both, 0), (both, 3)]

    async def test_alarms_where_nobody_has_said_what_was_read_of_a_stream_that_is_not_there_any_more(
        self, rolling: Rolling, logs: MemoryLogs
    ) -> None:
        old = await rolling.start("old")
        await rolling.passed(1)
        await old.stop()
        await _forget_topics(rolling.url)
        logs.delete("feed")
        await rolling.feed.add("z", [2, 3])
        new = await rolling.start("new")

        await eventually(lambda: "feed" in new.shop.messaging.observation.history_lost)
        assert "was deleted and made anew" in new.shop.messaging.observation.history_lost["feed"]

    async def test_is_not_passed_over_by_a_reader_of_less_that_wakes_up_late(self, rolling: Rolling) -> None:
        """H9: the position is where it left it, and yet it must not be moved with what it has read."""
        old = await rolling.start("old")
        await rolling.passed(1)
        await old.stop()
        new = await rolling.start("new")
        await eventually(lambda: _reads_both(new.shop), PATIENCE)
        await new.stop()

        with pytest.raises(asyncpg.PostgresError) as refusal:
            await _move(rolling.url, after=1, upto=2, topics="event.added")
        assert refusal.value.sqlstate == "CV001"

    async def test_begins_anew_when_somebody_sets_the_position_back(self, rolling: Rolling, logs: MemoryLogs) -> None:
        """Also halfway: of a stream that was made anew nothing was read, by whatever topic."""
        await rolling.removed(1)
        old = await rolling.start("old")
        await rolling.passed(1)
        new = await rolling.start("new")
        await old.stop()
        await eventually(lambda: _are(new.shop, "a", [1]), PATIENCE)
        old = await rolling.start("old")
        await new.stop()
        await rolling.passed(2)
        await old.stop()
        logs.delete("feed")
        await rolling.broker.ensure_stream("feed")
        await rolling.removed(2)
        await rolling.feed.add("z", [3, 4, 5])
        new = await rolling.start("new")
        await eventually(lambda: "feed" in new.shop.messaging.observation.history_lost)
        await new.shop.fetch("UPDATE covey.ingest SET sequence = 0 WHERE stream = 'feed'")

        await eventually(lambda: _are(new.shop, "a", [1, 2]), PATIENCE)
        await eventually(lambda: _are(new.shop, "z", [1, 2, 3, 4, 5]), PATIENCE)
        assert new.shop.messaging.observation.history_lost == {}

    async def test_alarms_when_the_stream_ends_before_what_the_others_have_read(
        self, rolling: Rolling, logs: MemoryLogs
    ) -> None:
        old = await rolling.start("old")
        await rolling.passed(1)
        await rolling.passed(2)
        await old.stop()
        logs.lose("feed", after=1)
        new = await rolling.start("new")

        await eventually(lambda: "feed" in new.shop.messaging.observation.history_lost)
        assert "read up to 2" in new.shop.messaging.observation.history_lost["feed"]


class TestWhatOnlyAnotherVersionHandles:
    @pytest.mark.parametrize("message_type", ["feed.removed.v1", "feed.added.v2"])
    async def test_waits_for_it(self, rolling: Rolling, message_type: str) -> None:
        router = keeping_more()
        router.add("feed.added.v2", replace(router.table["feed.added.v1"]))  # type: ignore[arg-type]  # of one of them
        await rolling.feed.publish([rolling.feed.envelope("a", 1, type=message_type)])
        new = await rolling.start("new", [router], workers=0)
        await eventually(lambda: _some_stored(new.shop), PATIENCE)
        old = await rolling.start("old")

        await eventually(lambda: _set_aside(old.shop), PATIENCE)
        await rolling.passed(1)  # nothing else waits
        assert (await holds(old.shop))["a"][:2] == ("waiting", 0)

        await rolling.start("new", [router])
        await eventually(lambda: _are(old.shop, "a", [1]), PATIENCE)
        await settled(old.shop)
        assert await old.shop.fetchval("SELECT count(*) FROM covey.dead_letter_log") == 0

    async def test_is_a_dead_letter_where_nobody_is_left_who_does(self, rolling: Rolling) -> None:
        await rolling.removed(1)
        new = await rolling.start("new", workers=0)
        await eventually(lambda: _some_stored(new.shop), PATIENCE)
        old = await rolling.start("old")
        await eventually(lambda: _set_aside(old.shop), PATIENCE)

        await new.stop()

        assert (await dead(old.shop))["a"] == "unknown type: shop has no handler for feed.removed.v1"

    async def test_waits_a_while_for_one_that_has_died(self, rolling: Rolling) -> None:
        """It, or another one like it, may soon be back; or all have lost the database, and this was the first."""
        await rolling.removed(1)
        new = await rolling.start("new", workers=0)
        await eventually(lambda: _some_stored(new.shop), PATIENCE)
        old = await rolling.start("old", workers=0)
        new.cable.cut()
        await eventually(lambda: _alone(old.shop), PATIENCE)
        other = await rolling.start("old")

        await eventually(lambda: _set_aside(old.shop), PATIENCE)
        await rolling.passed(1)
        assert (await holds(old.shop))["a"][:2] == ("waiting", 0)

        await other.shop.fetch("UPDATE covey.handled_lately SET until = clock_timestamp()")
        assert (await dead(old.shop))["a"] == "unknown type: shop has no handler for feed.removed.v1"
        new.cable.mend()

    async def test_is_a_dead_letter_at_once_where_all_are_of_one_version(self, rolling: Rolling) -> None:
        await rolling.removed(1)
        new = await rolling.start("new", workers=0)
        await eventually(lambda: _some_stored(new.shop), PATIENCE)
        await new.stop()
        old = await rolling.start("old", workers=0)
        await rolling.start("old")

        assert (await dead(old.shop))["a"] == "unknown type: shop has no handler for feed.removed.v1"
        states = await old.shop.fetch("SELECT what FROM covey.dead_letter_log")
        assert [row["what"] for row in states] == ["parked"]

    async def test_costs_its_neighbours_no_repetition(self, rolling: Rolling) -> None:
        await rolling.feed.publish(
            rolling.feed.envelope(f"key {n}", n, type="feed.added.v1" if n % 2 else "feed.removed.v1")
            for n in range(100)
        )
        new = await rolling.start("new", workers=0)
        await eventually(lambda: _some_stored(new.shop, 100), PATIENCE)
        runs: list[int] = []
        router = Router()

        @router.on(Kept)
        async def handle(message: Kept, work: Work) -> None:
            runs.append(message.n)

        await rolling.start("old", [router], workers=1)

        await eventually(lambda: len(set(runs)) == 50, PATIENCE)
        assert len(runs) == 50


class TestTheFirstSagaOfAService:
    async def test_waits_for_a_process_that_has_it(self, rolling: Rolling) -> None:
        saga = Saga("first", Data, retriable(_nothing))
        old = await rolling.start("old")
        async with old.shop.transactions.begin() as work:
            saga_id = await saga.start(work, Data())

        await eventually(lambda: _set_aside(old.shop, "DefinitionUnknown"), PATIENCE)
        async with replica("shop", rolling.url, rolling.broker, [keeping()], sagas=[saga]) as new:
            await eventually(lambda: _completed(new, saga_id), PATIENCE)
            await settled(new)
        assert await old.shop.fetchval("SELECT count(*) FROM covey.dead_letter_log") == 0

    async def test_costs_a_service_without_sagas_no_reader(self, rolling: Rolling) -> None:
        old = await rolling.start("old")
        await rolling.passed(1)

        assert [row["stream"] for row in await old.shop.fetch("SELECT stream FROM covey.ingest")] == ["feed"]
        assert "shop.reply.v1" in SagaEngine("shop", (), Telemetry.in_memory("shop")).router().table


class Kept(Event, type="feed.added.v1", key="name"):
    """What was added, for a handler that only counts."""

    name: str
    n: int


async def _nothing(data: Data, work: Work) -> None:
    """Do nothing."""


async def _old_reads_first(rolling: Rolling) -> None:
    old = await rolling.start("old")
    await rolling.reads("old")
    await rolling.removed(1)
    await rolling.passed(1)
    new = await rolling.start("new")
    await rolling.removed(2)
    await rolling.passed(2)
    await old.stop()
    await rolling.removed(3)

    await eventually(lambda: _are(new.shop, "a", [1, 2, 3]), PATIENCE)
    await rolling.passed(3)
    assert await effects(new.shop, "z") == [1, 2, 3]
    await settled(new.shop)


async def _are(shop: Replica, key: str, expected: list[int]) -> bool:
    found = await effects(shop, key)
    assert found == expected, f"{len(found)}: {found[:20]} …"
    return True


async def _some_stored(shop: Replica, count: int = 1) -> bool:
    return bool(await shop.fetchval("SELECT count(*) >= $1 FROM covey.inbox WHERE key <> 'z'", count))


async def _set_aside(shop: Replica, why: str = "NotHere") -> bool:
    found = await shop.fetch("SELECT state, error FROM covey.hold WHERE error LIKE $1", f"{why}%")
    assert found, await holds(shop)
    return True


async def _alone(shop: Replica) -> bool:
    return bool(await shop.fetchval("SELECT count(*) = 1 FROM covey.process"))


async def _reads_both(shop: Replica) -> bool:
    topics = await shop.fetchval("SELECT topics FROM covey.ingest WHERE stream = 'feed'")
    assert topics == "event.added event.removed", topics
    return True


async def _completed(shop: Replica, saga_id: Any) -> bool:
    return bool(await shop.fetchval("SELECT status = 'completed' FROM covey.saga WHERE id = $1", saga_id))


async def _forget_topics(url: str) -> None:
    async with Database.open(url) as database, database.acquire() as connection:
        await connection.execute("UPDATE covey.ingest SET topics = '', others = '{}'")


async def _move(url: str, after: int, upto: int, topics: str | None = None) -> None:
    """Store nothing and move the position, as a reader does that finds nothing for it."""
    connection = await asyncpg.connect(url, server_settings={} if topics is None else {"covey.topics": topics})
    try:
        await connection.fetch(RECEIVE, LANES, 0, *Received("feed", after, upto, list[Envelope]()).columns())
    finally:
        await connection.close()
