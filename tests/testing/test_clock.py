from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from covey.clock import Clock
from covey.testing.clock import FakeClock


async def test_time_passes_only_when_it_is_advanced(fake_clock: FakeClock) -> None:
    clock: Clock = fake_clock
    begun, start = clock.now(), clock.monotonic()

    await fake_clock.advance(timedelta(hours=1, seconds=0.5))

    assert clock.now() - begun == timedelta(hours=1, seconds=0.5)
    assert clock.monotonic() - start == 3600.5
    assert clock.now().tzinfo is UTC


async def test_it_begins_where_the_test_says() -> None:
    start = datetime(2030, 5, 6, tzinfo=UTC)

    assert FakeClock(start).now() == start


def test_the_wall_clock_can_be_set_and_no_time_passes(fake_clock: FakeClock) -> None:
    begun = fake_clock.now()

    fake_clock.set_wall(-timedelta(hours=1))

    assert (fake_clock.now() - begun, fake_clock.monotonic()) == (-timedelta(hours=1), 0.0)


async def test_a_sleeper_wakes_when_its_time_has_come_and_not_before(fake_clock: FakeClock) -> None:
    sleeping = asyncio.create_task(fake_clock.sleep(10))
    await fake_clock.sleepers(1)

    await fake_clock.advance(timedelta(seconds=9.9))
    assert not sleeping.done()
    await fake_clock.advance(timedelta(seconds=0.1))
    assert sleeping.done()


async def test_sleepers_wake_in_the_order_of_their_time_each_at_its_own_instant(fake_clock: FakeClock) -> None:
    woken: list[tuple[str, float]] = []

    async def sleeper(name: str, *spans: float) -> None:
        for span in spans:
            await fake_clock.sleep(span)
            woken.append((name, fake_clock.monotonic()))

    tasks = [asyncio.create_task(sleeper("late", 5)), asyncio.create_task(sleeper("often", 2, 2, 2))]
    await fake_clock.sleepers(2)

    await fake_clock.advance(timedelta(seconds=10))

    assert woken == [("often", 2), ("often", 4), ("late", 5), ("often", 6)]
    assert fake_clock.monotonic() == 10
    assert all(task.done() for task in tasks)


async def test_what_a_sleeper_does_next_is_done_when_advance_returns(fake_clock: FakeClock) -> None:
    done = asyncio.Event()

    async def work() -> None:
        await fake_clock.sleep(1)
        for _ in range(5):
            await asyncio.sleep(0)
        done.set()

    task = asyncio.create_task(work())
    await fake_clock.sleepers(1)
    await fake_clock.advance(timedelta(seconds=1))

    assert done.is_set()
    await task


async def test_a_cancelled_sleeper_is_forgotten(fake_clock: FakeClock) -> None:
    cancelled, other = asyncio.create_task(fake_clock.sleep(1)), asyncio.create_task(fake_clock.sleep(2))
    await fake_clock.sleepers(2)

    cancelled.cancel()
    await fake_clock.advance(timedelta(seconds=2))

    assert other.done()
    assert cancelled.cancelled()


async def test_sleeping_for_no_time_only_lets_others_run(fake_clock: FakeClock) -> None:
    other = asyncio.create_task(asyncio.sleep(0, "ran"))

    await fake_clock.sleep(0)
    await fake_clock.sleep(-1)

    assert other.done()


async def test_waiting_for_sleepers_that_do_not_come_fails(fake_clock: FakeClock) -> None:
    with pytest.raises(AssertionError, match="sleep"):
        await fake_clock.sleepers(1, within=timedelta(seconds=0.05))
