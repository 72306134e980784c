"""Answers of the outside that come together: recorded in one transaction, and each as if it were alone."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta

from covey.context import current
from covey.message import Reply
from covey.messaging.brokers.memory import MemoryBroker
from covey.messaging.call import GRACE
from covey.messaging.options import LANES
from covey.messaging.recording import TOGETHER_SECONDS
from covey.testing.eventually import eventually
from covey.testing.replica import Replica, replica
from covey.work.unit_of_work import Work
from tests.messaging.feed import Feed, dead, effects, handled, settled
from tests.messaging.outside import Charge, Provider, charge, quick


@dataclass
class Gate(Provider):
    """An outside that answers everybody in the same moment. What is done with an answer is written down."""

    opened: asyncio.Event = field(default_factory=asyncio.Event)
    settled: Counter[str] = field(default_factory=Counter)
    transactions: dict[str, str] = field(default_factory=dict)
    correlations: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.answer = self._wait

    async def _wait(self, command: Charge, key: str) -> str:
        await self.opened.wait()
        return key

    async def settle(self, message: Charge, result: str, work: Work) -> Reply:
        """Keep the answer, and which transaction does it in what context."""
        self.settled[message.cart] += 1
        self.transactions[message.cart] = await work.fetchval("SELECT pg_current_xact_id()::text")
        self.correlations[message.cart] = current().correlation_id
        return await super().settle(message, result, work)


class Spoilt(Gate):
    """One of them is always refused by the database, and one waits for ever."""

    async def settle(self, message: Charge, result: str, work: Work) -> Reply:
        """See `Gate`."""
        reply = await super().settle(message, result, work)
        if message.cart == "bad":
            await work.execute("SELECT 1 / 0")
        if message.cart == "slow":
            await asyncio.Event().wait()
        return reply


@asynccontextmanager
async def asked(
    gate: Gate, broker: MemoryBroker, url: str, feed: Feed, carts: Iterable[str], **options: object
) -> AsyncIterator[Replica]:
    """Run a service that has asked the outside for each cart, and waits for the answers."""
    async with replica("shop", url, broker, [gate.router()], options=quick(**options)) as shop:
        commands = [charge(cart, n, **{"correlation-id": f"of-{cart}"}) for n, cart in enumerate(carts)]
        await feed.publish(commands)
        await eventually(lambda: gate.under_way == len(commands))
        yield shop


async def test_answers_that_come_together_share_a_transaction(
    memory_broker: MemoryBroker, shop_url: str, feed: Feed
) -> None:
    carts = [f"cart-{n}" for n in range(20)]
    gate = Gate()
    async with asked(gate, memory_broker, shop_url, feed, carts) as shop:
        gate.opened.set()
        await handled(shop, 20)
        await settled(shop)

        assert len(set(gate.transactions.values())) == 1
        assert gate.settled == dict.fromkeys(carts, 1)
        assert gate.correlations == {cart: f"of-{cart}" for cart in carts}
        assert sorted(await effects(shop)) == list(range(20))
        assert await shop.fetchval("SELECT count(*) FROM covey.outbox") == 20


async def test_one_that_cannot_be_recorded_spoils_no_other(
    memory_broker: MemoryBroker, shop_url: str, feed: Feed
) -> None:
    gate = Spoilt()
    async with asked(gate, memory_broker, shop_url, feed, ["a", "bad", "b"], max_attempts=1) as shop:
        gate.opened.set()
        await handled(shop, 2)

        assert set(await dead(shop)) == {"bad"}
        assert sorted(await effects(shop)) == [0, 2]
        assert gate.settled["bad"] == 2


async def test_one_that_takes_for_ever_costs_no_other_its_time(
    memory_broker: MemoryBroker, shop_url: str, feed: Feed
) -> None:
    """Whose time is over is asked for again: the outside would hear it twice for what somebody else did."""
    gate = Spoilt()
    async with asked(gate, memory_broker, shop_url, feed, ["slow", "a", "b"]) as shop:
        begun = time.monotonic()
        gate.opened.set()
        await handled(shop, 2)

        assert time.monotonic() - begun < GRACE.total_seconds()
        assert len(gate.calls) == 3


async def test_one_in_whose_lane_somebody_works_delays_no_other(
    memory_broker: MemoryBroker, shop_url: str, feed: Feed
) -> None:
    gate = Gate()
    async with asked(gate, memory_broker, shop_url, feed, ["a", "b"]) as shop:
        async with shop.database.acquire() as somebody:
            lanes = await somebody.fetchrow("SELECT covey.lane('a'), covey.lane('b')")
            assert lanes[0] != lanes[1]
            await somebody.execute("SELECT pg_advisory_lock($1, covey.lane('a'))", LANES)
            begun = time.monotonic()
            gate.opened.set()
            await handled(shop, 1)
            assert time.monotonic() - begun < TOGETHER_SECONDS
            assert await effects(shop) == [1]
            await somebody.execute("SELECT pg_advisory_unlock($1, covey.lane('a'))", LANES)
        await handled(shop, 2)

        assert len(gate.calls) == 2


async def test_one_that_is_somebody_elses_by_now_is_not_recorded_with_the_others(
    memory_broker: MemoryBroker, shop_url: str, feed: Feed
) -> None:
    gate = Gate()
    async with asked(gate, memory_broker, shop_url, feed, ["a", "b", "c"]) as shop:
        await shop.fetch("UPDATE covey.hold SET token = gen_random_uuid(), until = 'infinity' WHERE key = 'b'")
        gate.opened.set()
        await handled(shop, 2)
        await eventually(lambda: gate.under_way == 0)

        assert sorted(await effects(shop)) == [0, 2]
        assert gate.settled["b"] == 0


async def test_what_waits_behind_each_goes_on(memory_broker: MemoryBroker, shop_url: str, feed: Feed) -> None:
    carts = ["a", "b", "c"]
    gate = Gate()
    async with asked(gate, memory_broker, shop_url, feed, carts, poll=timedelta(seconds=30)) as shop:
        await feed.publish([charge(cart, n + 10) for n, cart in enumerate(carts)])
        await feed.publish([charge("a", 20)])
        await eventually(lambda: _stored(shop, 7))
        gate.opened.set()
        await handled(shop, 7)

        assert [await effects(shop, cart) for cart in carts] == [[0, 10, 20], [1, 11], [2, 12]]


async def _stored(shop: Replica, count: int) -> bool:
    return bool(await shop.fetchval("SELECT count(*) = $1 FROM covey.inbox", count))
