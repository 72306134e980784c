"""What was committed is published, all of it and in order, whatever happens to the relay or the broker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import pytest

from covey.clock import SystemClock
from covey.database.pool import Database
from covey.errors import BrokerUnavailable
from covey.message import Command, Envelope, Event
from covey.messaging.broker import Broker, Extent, Reader, Topic
from covey.messaging.brokers.memory import MemoryBroker
from covey.messaging.observation import Observation
from covey.messaging.relay import CHANNEL, Relay, republish
from covey.messaging.router import Router
from covey.telemetry.telemetry import Telemetry
from covey.testing.broker_contract import everything, firsts
from covey.testing.eventually import eventually
from covey.testing.replica import Replica, replica
from covey.work.unit_of_work import Transactions, Work
from tests.messaging.feed import effects, handled, keeping, settled, with_effects


class Moved(Event, type="feed.added.v1", key="name"):
    name: str
    n: int


class Bill(Command, type="billing.bill.v1", key="cart"):
    cart: str
    n: int = 0


@dataclass
class Fickle:
    """A broker that fails as it is told: `lose` publishes and does not confirm, `refuse` does not publish."""

    inner: MemoryBroker
    lose: int = 0
    refuse: set[str] = field(default_factory=set)
    delay: float = 0.0
    down: bool = False

    async def ensure_stream(self, stream: str) -> None:
        """See Broker."""
        if self.down:
            raise BrokerUnavailable("down")
        await self.inner.ensure_stream(stream)

    async def publish(self, envelopes: Sequence[Envelope]) -> None:
        """See Broker."""
        if self.down or any(envelope.stream in self.refuse for envelope in envelopes):
            raise BrokerUnavailable("refused")
        await asyncio.sleep(self.delay)
        await self.inner.publish(envelopes)
        if self.lose:
            self.lose -= 1
            raise BrokerUnavailable("the confirmation was lost")

    def read(self, stream: str, topics: Collection[Topic], after: int) -> AbstractAsyncContextManager[Reader]:
        """See Broker."""
        return self.inner.read(stream, topics, after)

    async def extent(self, stream: str) -> Extent:
        """See Broker."""
        return await self.inner.extent(stream)

    async def close(self) -> None:
        """See Broker."""


@pytest.fixture
def fickle(memory_broker: MemoryBroker) -> Fickle:
    """A broker to tell how to fail."""
    return Fickle(memory_broker)


@asynccontextmanager
async def relaying(database: Database, broker: Broker, service: str = "feed") -> AsyncIterator[Relay]:
    """Run a relay without asking whether it has the role."""
    relay = Relay(database, service, broker, Observation(Telemetry.in_memory(), service, database))
    task = asyncio.create_task(relay.run())
    try:
        yield relay
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def write(transactions: Transactions, numbers: Sequence[int], keys: int = 5) -> None:
    for n in numbers:
        async with transactions.begin() as work:
            work.publish(Moved(name=f"key {n % keys}", n=n))


async def published(broker: MemoryBroker, count: int) -> dict[str, list[int]]:
    """Wait until all is there and return the numbers of each key in the order of their first arrival."""

    async def arrived() -> dict[str, list[int]]:
        await broker.ensure_stream("feed")
        entries = await everything(broker, "feed")
        found = {key: [Moved.model_validate_json(body).n for body in bodies] for key, bodies in firsts(entries).items()}
        assert sum(map(len, found.values())) >= count, found
        return found

    return await eventually(arrived, timedelta(seconds=20))


def in_order(count: int, keys: int = 5) -> dict[str, list[int]]:
    return {f"key {key}": list(range(key, count, keys)) for key in range(keys)}


class TestTheRelay:
    async def test_publishes_what_was_committed_before_there_was_a_broker(
        self, database: Database, fickle: Fickle
    ) -> None:
        fickle.down = True
        async with relaying(database, fickle):
            await write(Transactions(database, "feed"), range(20))
            fickle.down = False

            assert await published(fickle.inner, 20) == in_order(20)

    async def test_publishes_again_what_was_not_confirmed_and_under_the_same_ids(
        self, database: Database, fickle: Fickle
    ) -> None:
        await write(Transactions(database, "feed"), range(30))
        fickle.lose = 3
        async with relaying(database, fickle):
            await published(fickle.inner, 30)
            await eventually(lambda: _nothing_pending(database))

        entries = await everything(fickle.inner, "feed")
        assert len(entries) == 4 * 30
        assert len({entry.envelope.id for entry in entries}) == 30
        assert await published(fickle.inner, 30) == in_order(30)

    async def test_that_is_not_alone_disturbs_no_order(self, database: Database, fickle: Fickle) -> None:
        """H2, H9: one that was stopped wakes up beside its successor; both publish for a while."""
        fickle.delay = 0.001
        transactions = Transactions(database, "feed")
        async with relaying(database, fickle), relaying(database, fickle) as second, relaying(database, fickle):
            for start in range(0, 200, 10):
                await write(transactions, range(start, start + 10))
                second.wake()

            assert await published(fickle.inner, 200) == in_order(200)

    async def test_that_stood_still_with_messages_in_its_hands_disturbs_no_order(
        self, database: Database, memory_broker: MemoryBroker
    ) -> None:
        """It publishes its old batch after everything that its successor has published since."""
        stopped, go_on = asyncio.Event(), asyncio.Event()

        class Standing(Fickle):
            async def publish(self, envelopes: Sequence[Envelope]) -> None:
                stopped.set()
                await go_on.wait()
                await super().publish(envelopes)

        transactions = Transactions(database, "feed")
        await write(transactions, range(20))
        async with relaying(database, Standing(memory_broker)):
            await stopped.wait()
            async with relaying(database, Fickle(memory_broker)):
                await write(transactions, range(20, 60))
                await published(memory_broker, 60)
                go_on.set()
                await eventually(lambda: _stored(memory_broker, 80))

        assert await published(memory_broker, 60) == in_order(60)

    async def test_that_cannot_publish_to_one_stream_publishes_to_the_others(
        self, database: Database, fickle: Fickle
    ) -> None:
        fickle.refuse = {"billing"}
        transactions = Transactions(database, "feed")
        async with relaying(database, fickle):
            for n in range(40):
                async with transactions.begin() as work:
                    work.publish(Bill(cart=f"cart {n % 3}", n=n))
                    work.publish(Moved(name=f"key {n % 5}", n=n))
            assert await published(fickle.inner, 40) == in_order(40)

            fickle.refuse = set()
            await eventually(lambda: _nothing_pending(database))

        bodies = firsts(await everything(fickle.inner, "billing", [Topic("command")]))
        for cart in range(3):
            assert [Bill.model_validate_json(body).n for body in bodies[f"cart {cart}"]] == list(range(cart, 40, 3))

    async def test_finds_what_nobody_told_it_of(self, database: Database, memory_broker: MemoryBroker) -> None:
        async with relaying(database, memory_broker):
            await write(Transactions(database, "feed"), [0])  # without a wake-up

            await published(memory_broker, 1)

    async def test_goes_on_cleaning_its_queue_when_the_cleaning_was_cut_off(
        self, database: Database, memory_broker: MemoryBroker
    ) -> None:
        async def cleaner(last: int = 0) -> int:
            async with database.acquire() as connection:
                return await connection.fetchval(
                    "SELECT pid FROM pg_stat_activity WHERE application_name = 'covey vacuum' AND pid <> $1"
                    " AND datname = current_database()",
                    last,
                )

        async with relaying(database, memory_broker):
            first = await eventually(cleaner)
            async with database.acquire() as connection:
                await connection.execute(f"SELECT pg_terminate_backend({first})")

            assert await eventually(lambda: cleaner(first)) != first


class TestWakingUp:
    async def test_a_replica_that_relays_itself_notifies_nobody(
        self, shop_url: str, memory_broker: MemoryBroker
    ) -> None:
        """H3: commits with NOTIFY queue behind one lock of the whole server."""
        async with replica("feed", shop_url, memory_broker) as feed, _listening(feed) as heard:
            await eventually(lambda: feed.messaging._roles.holds("relay"))
            await write(feed.transactions, range(50))
            await published(memory_broker, 50)
            await _round_trip(feed, heard)

            assert heard == ["ping"]

    async def test_a_replica_that_does_not_relay_notifies_after_its_commits_and_not_for_each(
        self, shop_url: str, memory_broker: MemoryBroker
    ) -> None:
        async with AsyncExitStack() as stack:
            relaying_one = await stack.enter_async_context(replica("feed", shop_url, memory_broker))
            await eventually(lambda: relaying_one.messaging._roles.holds("relay"))
            other = await stack.enter_async_context(replica("feed", shop_url, memory_broker))
            heard = await stack.enter_async_context(_listening(other))

            await asyncio.gather(*(write(other.transactions, range(n, 200, 10)) for n in range(10)))
            await published(memory_broker, 200)
            await _round_trip(other, heard)

            assert 1 <= heard.count("") < 150

    async def test_a_commit_outside_of_any_service_notifies_nobody(self, database: Database) -> None:
        async with _listening_on(database) as heard:
            await write(Transactions(database, "feed"), range(5))
            async with database.acquire() as connection:
                await connection.execute(f"NOTIFY {CHANNEL}, 'ping'")
            await eventually(lambda: heard == ["ping"])


class TestRepublishing:
    async def test_brings_back_what_the_broker_has_lost_and_consumers_drop_what_they_know(
        self, database: Database, shop_url: str, memory_broker: MemoryBroker
    ) -> None:
        """H5: the broker has lost what it had confirmed."""
        transactions = Transactions(database, "feed")
        since = SystemClock().now() - timedelta(minutes=1)
        async with relaying(database, memory_broker), replica("shop", shop_url, memory_broker, [keeping()]) as shop:
            await write(transactions, range(20))
            await handled(shop, 20)
            assert await republish(database, since) == 20
            await eventually(lambda: _stored(memory_broker, 40))
            await settled(shop)

            assert sorted(await effects(shop)) == list(range(20))
        assert await published(memory_broker, 20) == in_order(20)

    async def test_leaves_out_what_consumers_may_have_forgotten(self, database: Database) -> None:
        """Rows older than retention stay when nobody was there to remove them."""
        await write(Transactions(database, "feed"), range(4))
        async with database.acquire() as connection:
            await connection.execute("DELETE FROM covey.outbox_pending")
            await connection.execute(
                "UPDATE covey.outbox SET created_at = now() - interval '7 days 1 second' WHERE position % 2 = 0"
            )

        again = await republish(database, SystemClock().now() - timedelta(days=30))

        assert again == 2


async def test_a_message_through_both_services_is_seen_in_one_trace(
    make_database: object, shop_url: str, database_url: str, memory_broker: MemoryBroker
) -> None:
    router = Router()

    @router.on(Moved)
    async def handle(message: Moved, work: Work) -> None:
        await work.execute("INSERT INTO effect (key, n) VALUES ($1, $2)", message.name, message.n)

    async with (
        replica("feed", with_effects(database_url), memory_broker) as feed,
        replica("shop", shop_url, memory_broker, [router]) as shop,
    ):
        with feed.telemetry.tracer.span("request", "server", {}) as request:
            async with feed.transactions.begin() as work:
                work.publish(Moved(name="a", n=1))
        del request
        await handled(shop, 1)

        async def spans() -> bool:
            sent = {span.name: span for span in feed.telemetry.tracer.recent}
            handled_there = {span.name: span for span in shop.telemetry.tracer.recent}
            assert {"request", "publish feed.added.v1"} <= sent.keys()
            assert "handle feed.added.v1" in handled_there
            assert len({sent["request"].trace_id, handled_there["handle feed.added.v1"].trace_id}) == 1
            return True

        await eventually(spans)


@asynccontextmanager
async def _listening(replica: Replica) -> AsyncIterator[list[str]]:
    async with _listening_on(replica.database) as heard:
        yield heard


@asynccontextmanager
async def _listening_on(database: Database) -> AsyncIterator[list[str]]:
    """Hear what is said on the relay's channel."""
    heard: list[str] = []
    async with database.connected() as connection:
        await connection.add_listener(CHANNEL, lambda *said: heard.append(str(said[-1])))
        yield heard


async def _round_trip(replica: Replica, heard: list[str]) -> None:
    """Wait until everything said before has been heard."""
    async with replica.database.connected() as connection:
        await connection.execute(f"NOTIFY {CHANNEL}, 'ping'")
    await eventually(lambda: "ping" in heard)


async def _nothing_pending(database: Database) -> bool:
    async with database.acquire() as connection:
        return not await connection.fetchval("SELECT count(*) FROM covey.outbox_pending")


async def _stored(broker: MemoryBroker, count: int) -> bool:
    return (await broker.extent("feed")).last >= count
