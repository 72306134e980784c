"""Time as a Protocol, so that tests own it.

Two clocks, never mixed: `now` is an instant that may be compared with other machines and may jump;
`monotonic` measures spans in this process and never goes back. What is scheduled across processes
(timeouts, holds) uses neither: PostgreSQL's clock decides.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Protocol


class Clock(Protocol):
    """Where time comes from."""

    def now(self) -> datetime:
        """Return the present instant, aware, in UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds since some fixed point; only differences mean anything."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait for that many seconds of this clock."""
        ...


class Grace:
    """A span of time that several things together have to finish. It runs from `begin`, or from who first asks."""

    def __init__(self, span: timedelta, clock: Clock | None = None) -> None:
        self._seconds = span.total_seconds()
        self._clock = clock or SystemClock()
        self._ends: float | None = None

    def begin(self) -> None:
        """Have it run from now on, if it does not yet."""
        if self._ends is None:
            self._ends = self._clock.monotonic() + self._seconds

    def seconds_left(self) -> float:
        """Return what is left, 0 when it is over."""
        self.begin()
        assert self._ends is not None
        return max(0.0, self._ends - self._clock.monotonic())


class SystemClock:
    """The machine's clocks."""

    monotonic = staticmethod(time.monotonic)  # both are asked for each call of another service
    now = staticmethod(partial(datetime.now, UTC))

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
