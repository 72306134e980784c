"""A clock that stands still until the test moves it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from heapq import heappop, heappush
from itertools import count

from covey.testing.eventually import eventually

_START = datetime(2026, 1, 1, tzinfo=UTC)


class FakeClock:
    """A `covey.clock.Clock` whose time passes only by `advance`. Sleepers wake in the order of their time.

    clock = FakeClock()
    task = asyncio.create_task(retry(clock))
    await clock.sleepers(1)                       # it has gone to sleep
    await clock.advance(timedelta(seconds=30))    # now it has slept for 30 seconds
    """

    def __init__(self, start: datetime = _START) -> None:
        self._start = start
        self._elapsed = timedelta()
        self._order = count()
        self._sleeping: list[tuple[timedelta, int, asyncio.Future[None]]] = []

    def now(self) -> datetime:
        """Return the present instant of this clock."""
        return self._start + self._elapsed

    def set_wall(self, by: timedelta) -> None:
        """Set the wall clock on or back, as an administrator or a server of time does: no time passes."""
        self._start += by

    def monotonic(self) -> float:
        """Return the seconds that were advanced so far."""
        return self._elapsed.total_seconds()

    async def sleep(self, seconds: float) -> None:
        """Wait until the clock was advanced by so much; zero or less only lets other tasks run."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        woken = asyncio.get_running_loop().create_future()
        heappush(self._sleeping, (self._elapsed + timedelta(seconds=seconds), next(self._order), woken))
        await woken

    async def advance(self, span: timedelta) -> None:
        """Let time pass. Each sleeper wakes at its own instant and may sleep again within the span.

        Returns when those that woke have run until they wait for something again.
        """
        until = self._elapsed + span
        while self._sleeping and self._sleeping[0][0] <= until:
            due, _, woken = heappop(self._sleeping)
            if not woken.done():
                self._elapsed = max(self._elapsed, due)
                woken.set_result(None)
                await _settle()
        self._elapsed = until
        await _settle()

    async def sleepers(self, number: int, within: timedelta = timedelta(seconds=10)) -> None:
        """Wait until so many tasks sleep on this clock; fail when they do not."""
        await eventually(
            lambda: sum(not woken.done() for _, _, woken in self._sleeping) >= number,
            within,
            because=f"{number} tasks sleep on the fake clock",
        )


async def _settle() -> None:
    """Give what was woken time to run on: a few turns of the loop, enough for awaits that do not really wait."""
    for _ in range(10):
        await asyncio.sleep(0)
