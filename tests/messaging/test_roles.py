"""A role has one holder at a time, and another soon after its holder is gone (H2, H9)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass

import pytest

from covey.database.pool import Database, PoolOptions
from covey.messaging.brokers.memory import MemoryBroker
from covey.messaging.roles import BEAT_SECONDS, LEASE_SECONDS, Roles, holder_of
from covey.testing.cable import Cable
from covey.testing.eventually import eventually
from covey.testing.replica import replica
from tests.messaging.feed import Feed, effects, handled, keeping


@dataclass
class Holder:
    """Somebody who competes for the role `work`, and holds it while it runs."""

    roles: Roles
    cable: Cable
    running: list[str]
    starts: int = 0


@asynccontextmanager
async def competing(
    url: str, name: str, running: list[str], fail: bool = False, forget: bool = False
) -> AsyncIterator[Holder]:
    async with Cable.to(url) as cable, Database.open(cable.url) as database:

        async def work() -> None:
            running.append(name)
            holder.starts += 1
            try:
                if fail and holder.starts < 3:
                    raise ValueError("a defect")
                if forget:
                    with suppress(asyncio.CancelledError):
                        await asyncio.Event().wait()
                await asyncio.Event().wait()
            finally:
                running.remove(name)

        holder = Holder(Roles(database, ord(name), {"work": work}), cable, running)
        task = asyncio.create_task(holder.roles.run())
        try:
            yield holder
        finally:
            cable.thaw()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def running() -> list[str]:
    """The names of those who do the work."""
    return []


async def test_of_several_one_has_it(database_url: str, running: list[str]) -> None:
    async with AsyncExitStack() as stack:
        holders = [await stack.enter_async_context(competing(database_url, name, running)) for name in "abc"]
        await eventually(lambda: len(running) == 1)
        for holder in holders:
            await eventually(lambda holder=holder: holder.roles.alive)
        await asyncio.gather(*(holder.roles.notify("x") for holder in holders))  # each has asked at least once

        assert len(running) == 1
        assert [holder.roles.holds("work") for holder in holders].count(True) == 1
    assert running == []


async def test_it_can_be_seen_from_outside_whose_session_has_it(database: Database, database_url: str) -> None:
    async def holder() -> str | None:
        async with database.acquire() as connection:
            return await holder_of(connection, "work")

    async with Database.open(database_url, PoolOptions(application="order 2")) as own:
        roles = asyncio.create_task(Roles(own, 1, {"work": asyncio.Event().wait, "rest": asyncio.Event().wait}).run())
        await eventually(lambda: holding(holder, "order 2"))
        roles.cancel()
        await asyncio.gather(roles, return_exceptions=True)

    await eventually(lambda: holding(holder, None))


async def holding(holder: Callable[[], Awaitable[str | None]], name: str | None) -> bool:
    return await holder() == name


async def test_of_one_that_dies_another_has_it_at_once(database_url: str, running: list[str]) -> None:
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(competing(database_url, "a", running))
        await eventually(lambda: running == ["a"])
        await stack.enter_async_context(competing(database_url, "b", running))

        begun = loop.time()
        first.cable.cut()
        await eventually(lambda: running == ["b"])

        assert loop.time() - begun < LEASE_SECONDS - 1
        assert not first.roles.holds("work")


async def test_of_one_that_stands_still_another_has_it_after_the_lease(database_url: str, running: list[str]) -> None:
    """As with SIGSTOP: the connection stays open and nothing comes. Two believe to have it, for a while."""
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(competing(database_url, "a", running))
        await eventually(lambda: running == ["a"])
        await stack.enter_async_context(competing(database_url, "b", running))

        first.cable.freeze()
        await eventually(lambda: "b" in running)
        first.cable.thaw()
        await eventually(lambda: running == ["b"])

        assert not first.roles.holds("work")


async def test_that_fails_is_taken_up_again(database_url: str, running: list[str]) -> None:
    async with competing(database_url, "a", running, fail=True) as holder:
        await eventually(lambda: holder.starts == 3 and running == ["a"])


@pytest.mark.slow
async def test_that_forgets_a_cancellation_keeps_nobody_from_competing(database_url: str, running: list[str]) -> None:
    """As `asyncio.wait_for` of Python 3.11 does now and then, deep in the client of a database or a broker."""
    async with competing(database_url, "a", running, forget=True) as holder:
        await eventually(lambda: running == ["a"])
        holder.cable.cut()
        await eventually(lambda: running == [])
        holder.cable.mend()
        await eventually(lambda: running == ["a"] and holder.starts == 2)


async def test_whoever_comes_back_competes_again(database_url: str, running: list[str]) -> None:
    async with competing(database_url, "a", running) as holder:
        for starts in (1, 2, 3):
            await eventually(lambda starts=starts: running == ["a"] and holder.starts == starts)
            holder.cable.cut()
            await eventually(lambda: running == [])
            assert not holder.roles.alive
            holder.cable.mend()


async def test_a_replica_cut_off_while_it_reads_and_works_is_replaced_and_nothing_is_lost_or_done_twice(
    shop_url: str, memory_broker: MemoryBroker, feed: Feed
) -> None:
    async with AsyncExitStack() as stack:
        cable = await stack.enter_async_context(Cable.to(shop_url))
        await stack.enter_async_context(replica("shop", cable.url, memory_broker, [keeping()]))
        second = await stack.enter_async_context(replica("shop", shop_url, memory_broker, [keeping()]))
        for start in range(0, 400, 50):
            await feed.publish([feed.envelope(f"key {n % 9}", n) for n in range(start, start + 50)])
            if start in (100, 300):
                cable.cut()
            if start == 200:
                cable.mend()
        await handled(second, 400)
        cable.mend()

        for key in range(9):
            assert await effects(second, f"key {key}") == list(range(key, 400, 9))


def test_the_lease_is_longer_than_the_beat_and_shorter_than_patience() -> None:
    assert BEAT_SECONDS * 4 < LEASE_SECONDS <= 10
