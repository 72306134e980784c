"""A message that kills the process which handles it becomes a dead letter; its neighbours are handled."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from covey.database.pool import Database
from covey.local.engines.embedded import Engines
from covey.messaging.brokers.memory import MemoryBroker
from covey.messaging.brokers.nats import NatsBroker
from covey.messaging.dead_letters import DeadLetters
from covey.messaging.options import MessagingOptions
from covey.messaging.router import Router
from covey.testing.eventually import eventually
from covey.testing.replica import ReplicaOptions, replica
from covey.work.unit_of_work import Work
from tests.messaging.feed import Added, Feed, dead, effects, holds, keeping, settled, with_effects

IDLE = ReplicaOptions(messaging=MessagingOptions(workers=0), drain=timedelta(milliseconds=200))

SAGA = """
import asyncio, os, signal, sys
from datetime import timedelta
from pathlib import Path
from pydantic import BaseModel
from covey.messaging.brokers.nats import NatsBroker
from covey.messaging.options import MessagingOptions
from covey.saga.definition import retriable, step
from covey.saga.saga import Saga
from covey.testing.replica import ReplicaOptions, replica

database_url, nats_url, system, mended = sys.argv[1:]

class Data(BaseModel):
    pass

async def die(data, work):
    if not Path(mended).exists():
        os.kill(os.getpid(), signal.SIGKILL)

async def undo(data, work):
    pass

backward = Saga("backward", Data, step(die, undo=undo))
forward = Saga("forward", Data, retriable(die))

async def main():
    broker = await NatsBroker.open(nats_url, system)
    options = ReplicaOptions(messaging=MessagingOptions(poll=timedelta(milliseconds=20)))
    async with replica("shop", database_url, broker, sagas=[backward, forward], options=options) as shop:
        if not await shop.fetchval("SELECT count(*) FROM covey.saga"):
            async with shop.transactions.begin() as work:
                await backward.start(work, Data())
                await forward.start(work, Data())
        await asyncio.Event().wait()

asyncio.run(main())
"""

PROGRAM = """
import asyncio, os, signal, sys
from datetime import timedelta
from covey.message import Reply
from covey.messaging.brokers.nats import NatsBroker
from covey.messaging.options import MessagingOptions
from covey.messaging.router import Router
from covey.testing.replica import ReplicaOptions, replica
from tests.messaging.feed import Added, keep

database_url, nats_url, system, how = sys.argv[1:]
router = Router()

def die():
    os.kill(os.getpid(), signal.SIGKILL)

async def handle(message, work):
    if message.name == "deadly":
        die()
    await keep(message, work)

class Effect:
    async def intend(self, message, work):
        return 1
    async def call(self, message, intent, key):
        if message.name == "deadly":
            die()
        return 1
    async def settle(self, message, result, work):
        await keep(message, work)

if how == "external":
    router.external(Added, Effect())
else:
    router.on(Added)(handle)

async def main():
    broker = await NatsBroker.open(nats_url, system)
    options = ReplicaOptions(messaging=MessagingOptions(poll=timedelta(milliseconds=20)))
    async with replica("shop", database_url, broker, [router], options=options):
        await asyncio.Event().wait()

asyncio.run(main())
"""

ROOT = Path(__file__).parents[2]
PATH = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
MOST_DEATHS = 8
"""Two on end make suspects, three more are each the message's own; some spare for a machine that is slow."""


async def kept_running(program: list[str], deaths: list[int]) -> None:
    """Start a process again whenever it ends, as a supervisor does."""
    while True:
        process = await asyncio.create_subprocess_exec(*program, env={**os.environ, "PYTHONPATH": PATH})
        try:
            deaths.append(await process.wait())
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


@pytest.mark.parametrize(
    ("how", "before"),
    [
        pytest.param("handler", True, id="handler, waits for the process", marks=pytest.mark.slow),
        pytest.param("handler", False, id="handler, comes while it runs"),
        pytest.param("external", True, id="external, waits for the process"),
        pytest.param("external", False, id="external, comes while it runs", marks=pytest.mark.slow),
    ],
)
async def test_a_message_that_kills_its_process_each_time_is_a_dead_letter_and_its_neighbours_are_handled(
    how: str,
    before: bool,
    make_database: Callable[[Path | None], str],
    covey_engines: Engines,
    nats_broker: NatsBroker,
    system_name: str,
    tmp_path: Path,
) -> None:
    url = with_effects(make_database(None))
    (tmp_path / "shop.py").write_text(PROGRAM)
    feed = Feed(nats_broker)
    deaths: list[int] = []
    program = [sys.executable, str(tmp_path / "shop.py"), url, covey_engines.nats_url, system_name, how]
    numbers = [feed.envelope("deadly" if n == 20 else f"key {n % 30}", n) for n in range(40)]
    await feed.publish(numbers[:1] if not before else [*numbers, feed.envelope("deadly", 100)])
    supervisor = asyncio.create_task(kept_running(program, deaths))
    try:
        async with Database.open(url) as database:
            if not before:
                await eventually(lambda: _count(database, "effect", 1), timedelta(seconds=20))
                await feed.publish([*numbers[1:], feed.envelope("deadly", 100)])
            await eventually(lambda: _is_dead(database), timedelta(seconds=60))
            await eventually(lambda: _count(database, "effect", 39), timedelta(seconds=20))

            assert len(deaths) <= MOST_DEATHS, deaths
            assert await _count(database, "covey.inbox_held", 2)
            settled = len(deaths)
            await feed.add("key 1", range(200, 210))
            await eventually(lambda: _count(database, "effect", 49), timedelta(seconds=20))
            assert len(deaths) == settled
    finally:
        supervisor.cancel()
        await asyncio.gather(supervisor, return_exceptions=True)


@pytest.mark.slow
async def test_a_saga_whose_function_kills_its_process_is_undone_or_goes_on_when_that_is_mended(
    make_database: Callable[[Path | None], str],
    covey_engines: Engines,
    system_name: str,
    tmp_path: Path,
) -> None:
    """Nothing may strand a saga: what can be undone is, and what only goes forward is tried until it is done."""
    url = with_effects(make_database(None))
    (tmp_path / "shop.py").write_text(SAGA)
    mended, deaths = tmp_path / "mended", list[int]()
    program = [sys.executable, str(tmp_path / "shop.py"), url, covey_engines.nats_url, system_name, str(mended)]
    supervisor = asyncio.create_task(kept_running(program, deaths))
    try:
        async with Database.open(url) as database:

            async def statuses() -> dict[str, str]:
                async with database.acquire() as connection:
                    rows = await connection.fetch("SELECT name, status FROM covey.saga")
                return {row["name"]: row["status"] for row in rows}

            async def undone() -> bool:
                return await statuses() == {"backward": "compensated", "forward": "running"}

            async def tried_on() -> bool:
                async with database.acquire() as connection:
                    return bool(await connection.fetchval("SELECT max(crashes) > 5 FROM covey.hold"))

            await eventually(undone, timedelta(seconds=60))
            await eventually(tried_on, timedelta(seconds=60))
            mended.touch()

            async def ended() -> bool:
                return await statuses() == {"backward": "compensated", "forward": "completed"}

            await eventually(ended, timedelta(seconds=60))
    finally:
        supervisor.cancel()
        await asyncio.gather(supervisor, return_exceptions=True)


@pytest.mark.parametrize("max_attempts", [5, 1])
async def test_what_was_there_when_processes_died_is_handled_all_the_same_and_in_order(
    memory_broker: MemoryBroker, feed: Feed, shop_url: str, max_attempts: int
) -> None:
    await feed.publish([feed.envelope(f"key {n % 5}", n) for n in range(50)])
    idle = ReplicaOptions(messaging=MessagingOptions(workers=0, max_attempts=max_attempts))
    async with replica("shop", shop_url, memory_broker, [keeping()], options=idle) as shop:
        await eventually(lambda: _count(shop.database, "covey.inbox_pending", 50))
        await _die(shop.database)
    async with replica("shop", shop_url, memory_broker, [keeping()], options=idle) as shop:
        assert await holds(shop) == {}
        await _die(shop.database)

    async with replica("shop", shop_url, memory_broker, [keeping()], options=idle) as shop:
        await settled(shop)

        for key in range(5):
            assert await effects(shop, f"key {key}") == list(range(key, 50, 5))
        assert await holds(shop) == {}


async def test_a_process_that_ends_in_good_order_makes_nothing_suspect(
    memory_broker: MemoryBroker, feed: Feed, shop_url: str
) -> None:
    await feed.add("a", range(10))
    idle = ReplicaOptions(messaging=MessagingOptions(workers=0))
    for _ in range(3):
        async with replica("shop", shop_url, memory_broker, [keeping()], options=idle) as shop:
            await eventually(lambda: _count(shop.database, "covey.inbox_pending", 10))
            assert await _count(shop.database, "covey.process", 1)

    async with Database.open(shop_url) as database:
        assert await _count(database, "covey.process", 0)
        assert await _count(database, "covey.suspect", 0)


async def test_a_process_that_ends_in_good_order_while_it_handles_a_suspect_has_not_died_of_it(
    memory_broker: MemoryBroker, feed: Feed, shop_url: str
) -> None:
    begun, router = asyncio.Event(), Router()

    @router.on(Added)
    async def hang(event: Added, work: Work) -> None:
        begun.set()
        await asyncio.Event().wait()

    await _make_suspects(memory_broker, feed, shop_url, ["a"])
    async with replica("shop", shop_url, memory_broker, [router], options=IDLE) as shop:
        await begun.wait()
    one = ReplicaOptions(messaging=MessagingOptions(max_attempts=1))  # a third death would be one too many
    async with replica("shop", shop_url, memory_broker, [keeping()], options=one) as shop:
        await settled(shop)

        assert await effects(shop) == [0]


async def test_between_two_suspects_it_is_seen_whether_others_have_died(
    memory_broker: MemoryBroker, feed: Feed, shop_url: str
) -> None:
    left, router = list[int](), Router()

    @router.on(Added)
    async def look(event: Added, work: Work) -> None:
        async with Database.open(shop_url) as database, database.acquire() as connection:
            left.append(await connection.fetchval("SELECT count(*) FROM covey.process WHERE owner = 1"))
            await connection.execute("INSERT INTO covey.process VALUES (1) ON CONFLICT DO NOTHING")

    await _make_suspects(memory_broker, feed, shop_url, ["a", "b", "c"])
    async with replica("shop", shop_url, memory_broker, [router], options=IDLE) as shop:
        await settled(shop)

    assert left == [0, 0, 0]


async def test_a_suspect_whose_process_has_died_again_is_a_dead_letter_and_has_its_attempts_again_when_it_is_replayed(
    memory_broker: MemoryBroker, feed: Feed, shop_url: str
) -> None:
    await feed.add("a", range(3))
    idle = ReplicaOptions(messaging=MessagingOptions(workers=0))
    async with replica("shop", shop_url, memory_broker, [keeping()], options=idle) as shop:
        await eventually(lambda: _count(shop.database, "covey.inbox_pending", 3))
    async with Database.open(shop_url) as database, database.acquire() as connection:
        await connection.execute(
            "SELECT covey.park(ARRAY[key], ARRAY[position], '{working}', '{1 minute}', '{0}',"
            " ARRAY[gen_random_uuid()], '{1}', '{NULL}') FROM covey.inbox_pending ORDER BY position LIMIT 1"
        )
        await connection.execute("UPDATE covey.hold SET crashes = 4")

    async with replica("shop", shop_url, memory_broker, [keeping()]) as shop:
        assert "died, 5 times on end" in (await dead(shop))["a"]
        await DeadLetters(shop.transactions).replay("a")
        assert await shop.fetchval("SELECT count(*) FROM covey.hold WHERE crashes <> 2") == 0
        await settled(shop)

        assert await effects(shop) == [0, 1, 2]


async def _die(database: Database) -> None:
    """Leave what a process leaves that has died."""
    async with database.acquire() as connection:
        await connection.execute("INSERT INTO covey.process VALUES (1)")


async def _make_suspects(broker: MemoryBroker, feed: Feed, url: str, keys: list[str]) -> None:
    """Leave a message of each key that was there when two processes died."""
    for number, key in enumerate(keys):
        await feed.add(key, [number])
    async with replica("shop", url, broker, [keeping()], options=IDLE) as shop:
        await eventually(lambda: _count(shop.database, "covey.inbox_pending", len(keys)))
    async with Database.open(url) as database, database.acquire() as connection:
        await connection.execute(
            "SELECT covey.park(array_agg(key), array_agg(position), array_agg('waiting'::text),"
            " array_agg(interval '0'), array_agg(0), array_agg(NULL::uuid), array_agg(NULL::int),"
            " array_agg(NULL::text)) FROM covey.inbox_pending"
        )
        await connection.execute("UPDATE covey.hold SET crashes = 2")


async def _is_dead(database: Database) -> bool:
    async with database.acquire() as connection:
        held = await connection.fetch("SELECT key, state, error FROM covey.hold")
    return [(row["key"], row["state"]) for row in held] == [("deadly", "dead")]


async def _count(database: Database, table: str, count: int) -> bool:
    async with database.acquire() as connection:
        found = await connection.fetchval(f"SELECT count(*) FROM {table}")
    return bool(found == count)
