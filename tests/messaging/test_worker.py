"""When a worker looks, and when it begins a turn. Nobody here waits for its poll, which is longer than the test."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from covey.database.pool import Connection, Database
from covey.messaging.brokers.memory import MemoryBroker
from covey.messaging.options import LANES, MessagingOptions
from covey.messaging.worker import Worker
from covey.testing.eventually import eventually
from covey.testing.replica import Replica, ReplicaOptions, replica
from tests.messaging.feed import Feed, handled, keeping, settled, unhandled
from tests.messaging.outside import Provider, charge

PATIENT = ReplicaOptions(messaging=MessagingOptions(poll=timedelta(seconds=60)), drain=timedelta(milliseconds=200))


class IdleTurns:
    """Turns of a service that has nothing to do."""

    def __init__(self) -> None:
        self.looks = 0
        self.begun = 0

    async def look(self, connection: Connection) -> tuple[bool, bool]:
        """See nothing."""
        self.looks += 1
        return False, False

    async def run(self, connection: Connection) -> int:
        """Find nothing, after three round trips."""
        self.begun += 1
        return 0

    run_due = run


class BusyTurns(IdleTurns):
    """Turns that see these things, one after the other, and always find what they have seen."""

    def __init__(self, seen: list[tuple[bool, bool]]) -> None:
        super().__init__()
        self._seen = seen

    async def look(self, connection: Connection) -> tuple[bool, bool]:
        """See the next thing."""
        return self._seen.pop(0)

    async def run(self, connection: Connection) -> int:
        """Handle a message."""
        self.begun += 1
        return 1

    run_due = run


@pytest.fixture
def turns() -> IdleTurns:
    """Turns of a service that has nothing to do."""
    return IdleTurns()


async def test_what_a_lock_kept_from_it_is_handled_soon_after_the_lock_is_gone(
    memory_broker: MemoryBroker, shop_url: str, feed: Feed
) -> None:
    async with (
        replica("shop", shop_url, memory_broker, [keeping()], options=PATIENT) as shop,
        Database.open(shop_url) as database,
        database.connected(application_name="whoever has the lane") as other,
    ):
        await other.execute("BEGIN")
        await other.execute("SELECT pg_advisory_xact_lock($1, covey.lane('key'))", LANES)
        await feed.add("key", [1])
        await eventually(lambda: _tried_in_vain(shop))
        await other.execute("ROLLBACK")

        await handled(shop, 1)


async def test_what_waits_behind_an_effect_outside_is_handled_when_that_is_settled(
    memory_broker: MemoryBroker, shop_url: str, feed: Feed
) -> None:
    provider = Provider()
    async with replica("shop", shop_url, memory_broker, [provider.router()], options=PATIENT) as shop:
        await feed.publish([charge("cart", n) for n in range(5)])

        await handled(shop, 5)
        await settled(shop)


async def test_that_finds_nothing_begins_no_turn(shop_url: str, turns: IdleTurns) -> None:
    async with Database.open(shop_url) as database:
        options = MessagingOptions(poll=timedelta(seconds=60))
        worker = Worker(database, turns, options, lambda: None)  # type: ignore[arg-type]
        running = asyncio.create_task(worker.run())
        for looks in range(1, 5):
            await eventually(lambda looks=looks: _has_looked(turns, looks))
            worker.wake()
        worker.stop()
        await running

    assert turns.begun == 0


async def test_that_finds_more_than_one_turn_takes_asks_for_help(shop_url: str) -> None:
    asked: list[int] = []
    turns = BusyTurns([(True, False), (True, False), (False, True), (False, False)])
    async with Database.open(shop_url) as database:
        options = MessagingOptions(poll=timedelta(seconds=60))
        worker = Worker(database, turns, options, lambda: asked.append(turns.begun))  # type: ignore[arg-type]
        running = asyncio.create_task(worker.run())
        await eventually(lambda: worker.waiting)
        worker.stop()
        await running

    assert asked == [1]
    assert turns.begun == 3


async def test_of_two_that_wait_one_is_woken(memory_broker: MemoryBroker, shop_url: str) -> None:
    async with replica("shop", shop_url, memory_broker, [keeping()], options=PATIENT) as shop:
        workers = shop.messaging._workers
        await eventually(lambda: all(worker.waiting for worker in workers))

        shop.messaging.wake()
        assert [worker.waiting for worker in workers] == [False, True]
        shop.messaging.wake()
        assert [worker.waiting for worker in workers] == [False, False]


async def _tried_in_vain(shop: Replica) -> bool:
    """Tell whether a worker has looked since the message is there, and it is there still."""
    looked = await shop.fetchval(
        "SELECT bool_or(state = 'idle' AND query_start >"
        " (SELECT max(received_at) FROM covey.inbox) + interval '20 ms')"
        " FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'covey worker'"
    )
    return bool(looked) and await unhandled(shop) == 1


async def _has_looked(turns: IdleTurns, times: int) -> bool:
    return turns.looks >= times
