"""Time limits that share a timer: never early, hardly late, and only for what is waited for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import pytest

from covey.resilience.time_limit import MOST_LATE_SECONDS, TimeLimits


async def within(limits: TimeLimits, seconds: float, work: Coroutine[Any, Any, Any]) -> bool:
    """Do some work within a limit; True: it did not end in time."""
    limit = limits.begin(seconds)
    try:
        await work
    except asyncio.CancelledError:
        if not limit.end():
            raise
        return True
    return limit.end()


async def ends_in_time(limits: TimeLimits, seconds: float) -> None:
    """See a limit end: not early, and not later than a timer that is set for when it would be late.

    On a loop that was busy both come late, the limit first; a few turns of the loop later its task has gone on.
    """
    loop, late = asyncio.get_running_loop(), asyncio.Event()
    judging = loop.call_later(seconds + MOST_LATE_SECONDS + 0.005, in_turns, 5, late.set)
    began = time.monotonic()

    assert await within(limits, seconds, asyncio.sleep(60))

    assert time.monotonic() - began >= seconds
    assert not late.is_set()
    judging.cancel()


def in_turns(turns: int, call: Callable[[], object]) -> None:
    """Call something so many turns of the loop from now."""
    if turns:
        asyncio.get_running_loop().call_soon(in_turns, turns - 1, call)
    else:
        call()


@pytest.mark.parametrize("seconds", [0.001, 0.02, 0.125, 0.3])
async def test_a_limit_is_never_early_and_late_by_ten_milliseconds_at_most(seconds: float) -> None:
    await ends_in_time(TimeLimits(), seconds)


async def test_limits_of_any_length_end_in_their_own_time() -> None:
    limits = TimeLimits()

    await asyncio.gather(*(ends_in_time(limits, seconds) for seconds in (0.3, 0.05, 0.2, 0.1, 0.05, 0.25)))


async def test_what_ends_in_time_is_left_alone_afterwards() -> None:
    limits = TimeLimits()

    for _ in range(100):
        assert not await within(limits, 0.03, asyncio.sleep(0))
    await asyncio.sleep(0.1)

    task = asyncio.current_task()
    assert task is not None and task.cancelling() == 0


async def test_a_limit_and_a_cancellation_from_outside_do_not_swallow_each_other() -> None:
    limits = TimeLimits()
    begun, at_once = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        begun.set()
        await at_once.wait()

    task = asyncio.create_task(within(limits, 0.05, work()))
    await begun.wait()
    time.sleep(0.07)  # noqa: ASYNC251 - the limit runs out and the task is cancelled in one turn of the loop
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task


async def test_what_swallows_its_cancellation_has_ended_well() -> None:
    limits = TimeLimits()

    async def stubborn() -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(5)

    limit = limits.begin(0.02)
    await stubborn()
    limit.end()
    await asyncio.sleep(0)

    task = asyncio.current_task()
    assert task is not None and task.cancelling() == 0


def test_limits_outlive_their_loop() -> None:
    limits = TimeLimits()

    for _ in range(2):
        assert asyncio.run(within(limits, 0.02, asyncio.sleep(5)))


async def test_a_limit_is_that_of_a_task() -> None:
    refused: list[bool] = []

    def outside() -> None:
        with pytest.raises(RuntimeError):
            TimeLimits().begin(1)
        refused.append(True)

    asyncio.get_running_loop().call_soon(outside)
    await asyncio.sleep(0)

    assert refused == [True]
