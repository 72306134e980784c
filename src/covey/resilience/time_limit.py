"""Time limits that cost next to nothing: all of one target share a timer.

A call nearly always ends in time, and `asyncio.timeout` makes and cancels a timer for it all the same. Here a limit is
an entry in a set, and one timer waits for the first of those that were under way when it was set: most often that one
has long ended when it rings, and the next is waited for. It rings every 10 ms at most, and looks at all that are under
way.

A limit is never early, and late by 10 ms at most, beside what the event loop itself is late. It cancels its task only
while it has not been ended: who ends it before going on cannot be hit later on.
"""

from __future__ import annotations

import asyncio
from asyncio import current_task
from math import inf
from time import monotonic

MOST_LATE_SECONDS = 0.01
"""By how much a limit may be late."""


class TimeLimit:
    """A limit on what a task does now. `is_over`: it has run out, and the task was cancelled."""

    __slots__ = ("_cancelling", "_task", "_under_way", "is_over", "until")

    def __init__(self, task: asyncio.Task[object], until: float, under_way: set[TimeLimit]) -> None:
        self.until = until
        self.is_over = False
        self._task = task
        self._cancelling = task.cancelling()
        self._under_way = under_way

    def end(self) -> bool:
        """End it, once, before the task awaits anything else.

        True: it has run out, and nobody else wants the task cancelled, so that a CancelledError on its way is its own.
        """
        self._under_way.discard(self)
        return self.is_over and self._task.uncancel() <= self._cancelling

    def run_out(self) -> None:
        """Cancel what the task waits for."""
        self.is_over = True
        self._task.cancel()


class TimeLimits:
    """Limits that share a timer. It runs only while there is one, which may have ended."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._under_way: set[TimeLimit] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._rings_at = inf
        self._looked_at = -inf

    def begin(self, seconds: float) -> TimeLimit:
        """Limit what the current task does from now until `end()`."""
        # To ask which loop is running costs a system call in Python 3.11; a loop that is not has no current task.
        task = current_task(self._loop) if self._loop is not None else None
        if task is None:
            task = self._move()
        until = monotonic() + seconds
        limit = TimeLimit(task, until, self._under_way)
        self._under_way.add(limit)
        if until + MOST_LATE_SECONDS < self._rings_at:
            self._ring_at(max(until, self._looked_at + MOST_LATE_SECONDS))
        return limit

    def _move(self) -> asyncio.Task[object]:
        """Be those of the running loop; the last one has ended, with all that there was to look at."""
        task = current_task()
        if task is None:
            raise RuntimeError("a time limit is that of a task")
        self._loop, self._timer, self._rings_at = task.get_loop(), None, inf
        self._under_way.clear()
        return task

    def _ring_at(self, instant: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._rings_at = instant
        if self._loop is not None:
            self._timer = self._loop.call_later(max(0.0, instant - monotonic()), self._look)

    def _look(self) -> None:
        self._timer, self._rings_at = None, inf
        now = self._looked_at = monotonic()
        first = inf
        for limit in list(self._under_way):
            if limit.until <= now:
                self._under_way.discard(limit)
                limit.run_out()
            elif limit.until < first:
                first = limit.until
        if first < inf:
            self._ring_at(max(first, now + MOST_LATE_SECONDS))
