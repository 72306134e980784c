"""Lending connections: in turn, in time, and none that is lost or dirty."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

import covey.database.connections
from covey.database.connections import FULL_SECONDS, Connections
from covey.database.errors import ServerFull
from covey.errors import DatabaseUnavailable, PoolExhausted
from covey.testing.interruption import every_interruption
from tests.database.noise import quiet


class FakeConnection:
    """As much of a connection as is asked of one that is lent."""

    def __init__(self) -> None:
        self.closed = False
        self.dirty = False

    def is_closed(self) -> bool:
        return self.closed

    def is_in_transaction(self) -> bool:
        return self.dirty

    def terminate(self) -> None:
        self.closed = True

    async def close(self, timeout: float) -> None:  # noqa: ASYNC109 - the signature is asyncpg's
        self.closed = True


class Server:
    """Opens connections, unless it is down or has granted all that it does; `opened` has them all."""

    def __init__(self) -> None:
        self.opened: list[FakeConnection] = []
        self.down = False
        self.most = 100
        self.asked = 0

    async def connect(self) -> FakeConnection:
        self.asked += 1
        await asyncio.sleep(0)
        if self.down:
            raise DatabaseUnavailable("down")
        if len(self.opened) >= self.most:
            raise ServerFull("too many connections")
        self.opened.append(FakeConnection())
        return self.opened[-1]

    def connections(self, size: int = 2, keep: int = 0, wait_seconds: float = 5) -> Connections:
        return Connections(self.connect, size, keep, wait_seconds)


async def waiting(pool: Connections) -> asyncio.Task[FakeConnection]:
    """Return a task that waits for a connection."""
    task = asyncio.create_task(pool.take())
    for _ in range(3):
        await asyncio.sleep(0)
    assert not task.done()
    return task


async def test_what_is_given_back_last_is_lent_first() -> None:
    server = Server()
    pool = server.connections()
    one, two = await pool.take(), await pool.take()
    pool.give(one)
    pool.give(two)

    assert await pool.take() is two
    assert await pool.take() is one
    assert len(server.opened) == 2
    assert pool.usage == (2, 0)


async def test_who_waits_longest_is_served_first() -> None:
    pool = Server().connections(size=1)
    one = await pool.take()
    first, second = await waiting(pool), await waiting(pool)
    pool.give(one)

    assert await first is one
    assert not second.done()
    pool.give(one)
    assert await second is one


async def test_when_none_is_free_in_time_the_pool_is_exhausted() -> None:
    pool = Server().connections(size=1, wait_seconds=0.01)
    one = await pool.take()

    async with asyncio.timeout(10):
        with pytest.raises(PoolExhausted):
            await pool.take()

    pool.give(one)
    assert await pool.take() is one


async def test_one_who_gives_up_at_the_moment_of_being_served_passes_it_on() -> None:
    pool = Server().connections(size=1)
    one = await pool.take()
    first, second = await waiting(pool), await waiting(pool)
    pool.give(one)
    first.cancel()

    assert await second is one
    pool.give(one)
    assert pool.usage == (1, 1)


async def test_a_lost_connection_is_replaced_for_who_waits() -> None:
    server = Server()
    pool = server.connections(size=1)
    one = await pool.take()
    other = await waiting(pool)
    one.closed = True
    pool.give(one)

    assert await other is server.opened[1]
    pool.give(await other)
    assert pool.usage == (1, 1)


async def test_who_waits_keeps_its_turn_when_what_comes_back_is_lost() -> None:
    server = Server()
    pool = server.connections(size=1)
    one = await pool.take()
    order: list[str] = []
    tasks = [named(name, await waiting(pool), order) for name in ("first", "second")]
    tasks.append(named("late", asyncio.create_task(pool.take()), order))  # runs before who is served below does
    one.closed = True
    pool.give(one)
    for task in tasks:
        pool.give(await task)

    assert order == ["first", "second", "late"]
    assert pool.usage == (1, 1)


async def test_who_waits_keeps_its_turn_when_opening_for_another_fails() -> None:
    order: list[str] = []
    tasks: dict[str, asyncio.Task[FakeConnection]] = {}
    answer = asyncio.Event()
    server = Server()

    async def connect() -> FakeConnection:
        await answer.wait()
        if "late" in tasks:
            return await server.connect()
        tasks["late"] = named("late", asyncio.create_task(pool.take()), order)  # runs before who is served next does
        raise DatabaseUnavailable("down")

    pool = Connections(connect, size=1, keep=0, wait_seconds=5)
    for name in ("opens", "first", "second"):
        tasks[name] = named(name, await waiting(pool), order)
    answer.set()
    with pytest.raises(DatabaseUnavailable):
        await tasks["opens"]
    for name in ("first", "second", "late"):
        pool.give(await tasks[name])

    assert order == ["opens", "first", "second", "late"]
    assert pool.usage == (1, 1)


async def test_turn_and_opening_together_take_no_longer_than_the_wait() -> None:
    server = SlowServer()
    server.answer.set()
    pool = server.connections(size=1, wait_seconds=0.05)
    one = await pool.take()
    server.answer.clear()
    first = await waiting(pool)
    one.closed = True
    pool.give(one)

    async with asyncio.timeout(5):
        with pytest.raises(PoolExhausted):
            await first

    server.answer.set()
    pool.give(await pool.take())
    assert pool.usage == (1, 1), "what was opened too late for one is there for the next"


@pytest.mark.parametrize("down", [False, True])
async def test_a_place_is_kept_wherever_who_waits_for_it_is_interrupted(down: bool) -> None:
    server = Server()
    pool = server.connections(size=1)

    async def served_after_a_loss() -> None:
        lost = await pool.take()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(used_and_lost(lost))
            with suppress(DatabaseUnavailable):
                pool.give(await pool.take())

    async def used_and_lost(connection: FakeConnection) -> None:
        try:
            await asyncio.sleep(0)
            server.down = down
        finally:
            connection.closed = True
            pool.give(connection)

    with quiet():
        async for _ in every_interruption(served_after_a_loss):
            server.down = False
            async with asyncio.timeout(5):
                pool.give(await pool.take())
            assert pool.usage == (1, 1)


def named(name: str, task: asyncio.Task[FakeConnection], order: list[str]) -> asyncio.Task[FakeConnection]:
    """Return a task that is noted when it is done."""
    task.add_done_callback(lambda _: order.append(name))
    return task


async def test_one_lost_while_idle_is_not_lent() -> None:
    server = Server()
    pool = server.connections()
    one = await pool.take()
    pool.give(one)
    one.closed = True

    assert await pool.take() is server.opened[1]


async def test_one_that_comes_back_inside_a_transaction_is_cut() -> None:
    server = Server()
    pool = server.connections(size=1)
    one = await pool.take()
    one.dirty = True
    pool.give(one)

    assert one.closed
    assert await pool.take() is server.opened[1]


async def test_a_database_that_is_down_keeps_nobody_waiting_and_takes_no_place() -> None:
    server = Server()
    pool = server.connections(size=1)
    server.down = True
    outcomes = await asyncio.gather(*(pool.take() for _ in range(3)), return_exceptions=True)
    server.down = False

    assert [type(outcome) for outcome in outcomes] == [DatabaseUnavailable] * 3
    assert await pool.take() is server.opened[0]


async def test_what_nobody_has_needed_for_long_is_closed() -> None:
    server = Server()
    pool = server.connections(size=3, keep=1)
    for connection in [await pool.take() for _ in range(3)]:
        pool.give(connection)
    assert pool.usage == (3, 3)

    idle_seconds = covey.database.connections.IDLE_SECONDS
    pool._idle = type(pool._idle)((connection, since - idle_seconds - 1) for connection, since in pool._idle)
    for _ in range(5):
        pool.give(await pool.take())

    assert pool.usage == (1, 1)


async def test_closing_waits_for_what_is_lent_and_then_cuts_it() -> None:
    pool = Server().connections()
    lent, stuck = await pool.take(), await pool.take()
    closing = asyncio.create_task(pool.close(0.05))
    await asyncio.sleep(0)
    pool.give(lent)
    await closing

    assert lent.closed
    assert stuck.closed
    with pytest.raises(DatabaseUnavailable):
        await pool.take()


class SlowServer(Server):
    """Opens connections, or fails to, when `answer` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = asyncio.Event()

    async def connect(self) -> FakeConnection:
        await self.answer.wait()
        return await super().connect()


async def test_many_who_are_cancelled_while_they_wait_leave_no_noise_and_every_connection() -> None:
    pool = Server().connections(size=2)
    lent = [await pool.take(), await pool.take()]
    with quiet():
        tasks = [await waiting(pool) for _ in range(20)]
        for task in tasks[::2]:
            task.cancel()
        for connection in lent:
            pool.give(connection)
        for task in tasks[1::2]:
            pool.give(await task)
        outcomes = await asyncio.gather(*tasks[::2], return_exceptions=True)
        del tasks, task

    assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
    assert pool.usage == (2, 2)


async def test_many_whose_wait_is_over_leave_no_noise_and_every_connection() -> None:
    pool = Server().connections(size=1, wait_seconds=0.01)
    one = await pool.take()
    with quiet():
        outcomes = await asyncio.gather(*(pool.take() for _ in range(20)), return_exceptions=True)

    assert [type(outcome) for outcome in outcomes] == [PoolExhausted] * 20
    pool.give(one)
    assert pool.usage == (1, 1)


@pytest.mark.parametrize("after", range(6))
async def test_a_wait_that_is_cancelled_at_any_moment_of_being_served_leaks_nothing(after: int) -> None:
    server = Server()
    pool = server.connections(size=1)
    one = await pool.take()
    with quiet():
        task = await waiting(pool)
        one.closed = after % 2 == 1  # then who waits has to open another
        pool.give(one)
        for _ in range(after):
            await asyncio.sleep(0)
        task.cancel()
        for outcome in await asyncio.gather(task, return_exceptions=True):
            if isinstance(outcome, FakeConnection):
                pool.give(outcome)
        del task

    again = await asyncio.wait_for(pool.take(), 1)
    pool.give(again)
    assert [connection.closed for connection in server.opened].count(False) == pool.usage[0] == 1


@pytest.mark.parametrize("down", [False, True])
async def test_one_who_is_cancelled_while_a_connection_is_opened_for_it_keeps_nobody_else_waiting(down: bool) -> None:
    server = SlowServer()
    pool = server.connections(size=1)
    with quiet():
        opening = await waiting(pool)
        other = await waiting(pool)
        server.down = down
        opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)
        server.answer.set()
        (outcome,) = await asyncio.gather(other, return_exceptions=True)
        del opening, other

    assert isinstance(outcome, DatabaseUnavailable if down else FakeConnection)
    assert pool.usage == ((0, 0) if down else (1, 0))


async def test_those_who_wait_when_the_pool_is_closed_are_told_without_noise() -> None:
    pool = Server().connections(size=1)
    one = await pool.take()
    with quiet():
        tasks = [await waiting(pool) for _ in range(3)]
        tasks[0].cancel()
        closing = asyncio.create_task(pool.close(5))
        await asyncio.sleep(0)
        pool.give(one)
        outcomes = await asyncio.gather(*tasks, closing, return_exceptions=True)
        del tasks, closing

    assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError, *[DatabaseUnavailable] * 2, type(None)]
    assert one.closed


class TestAServerThatGrantsNoMore:
    async def test_is_asked_again_after_a_while_by_who_waits_and_serves_all_then(self) -> None:
        server = Server()
        server.most = 1
        pool = server.connections(size=3)
        await pool.take()
        first, second = await waiting(pool), await waiting(pool)

        server.most = 3

        assert len({await first, await second}) == 2
        assert (pool.usage, pool.waiting) == ((3, 0), 0)

    async def test_is_asked_a_few_times_a_second_however_many_wait(self) -> None:
        server = Server()
        server.most = 1
        pool = server.connections(size=10, wait_seconds=1.0)
        await pool.take()
        loop, begun = asyncio.get_running_loop(), asyncio.get_running_loop().time()

        outcomes = await asyncio.gather(*(pool.take() for _ in range(50)), return_exceptions=True)

        assert [type(outcome) for outcome in outcomes] == [PoolExhausted] * 50
        assert "too many connections" in str(outcomes[0])
        at_first = 9
        assert server.asked - 1 <= at_first + (loop.time() - begun) / FULL_SECONDS + 1

    async def test_refuses_all_who_wait_once_none_is_lent(self) -> None:
        server = Server()
        server.most = 1
        pool = server.connections(size=3)
        lent = await pool.take()
        first, second = await waiting(pool), await waiting(pool)

        lent.closed = True
        pool.give(lent)

        for one in (first, second):
            with pytest.raises(ServerFull):
                await one

    async def test_is_not_waited_for_by_who_finds_the_pool_closed_meanwhile(self) -> None:
        server = Server()
        server.most = 1
        pool = server.connections(size=3, wait_seconds=60)
        await pool.take()
        asked = asyncio.create_task(pool.take())
        while server.asked < 2:  # noqa: ASYNC110 - the loop, turn by turn
            await asyncio.sleep(0)

        await pool.close(0)

        with pytest.raises(ServerFull):
            await asyncio.wait_for(asked, 5)
