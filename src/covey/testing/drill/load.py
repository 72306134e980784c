"""Load in an open loop: who arrives does not wait for those before, however slow the system is.

A closed loop asks less of a system that answers late, and so hides the very time in which it was slow (G. Tene, "How
NOT to Measure Latency"; Schroeder et al., "Open Versus Closed", NSDI 2006).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator

from covey.clock import Clock
from covey.testing.drill.drilled import Drilled
from covey.testing.drill.record import Record

MOST_UNDER_WAY = 500


class Load:
    """Sends users at instants drawn from a seed, `rate` a second on average. At most so many are under way at once."""

    def __init__(self, drilled: Drilled, record: Record, clock: Clock, most_under_way: int = MOST_UNDER_WAY) -> None:
        self._drilled = drilled
        self._record = record
        self._clock = clock
        self._most = most_under_way
        self._users: set[asyncio.Task[None]] = set()
        self._error: BaseException | None = None

    @property
    def under_way(self) -> int:
        """Return how many have not got what they came for yet."""
        return len(self._users)

    async def run(self, seed: int, rate: float, seconds: float) -> None:
        """Let users arrive for so many seconds; does not wait for their end. Raises what one of them raised."""
        for number, at in enumerate(arrivals(seed, rate, seconds)):
            await self._clock.sleep(at - self._record.now())
            if self._error is not None:
                raise self._error
            self._record.arrived += 1
            if self.under_way >= self._most:
                self._record.not_begun += 1
            else:
                self._begin(random.Random(f"{seed} user {number}"))

    async def end(self, within_seconds: float) -> None:
        """Wait for those who are under way, at most so long, then send them home. Raises what one of them raised."""
        if self._users:
            await asyncio.wait(self._users, timeout=within_seconds)
        for user in (late := list(self._users)):
            user.cancel()
            self._record.given_up()
        await asyncio.gather(*late, return_exceptions=True)
        self._users.difference_update(late)
        if self._error is not None:
            raise self._error

    def _begin(self, chance: random.Random) -> None:
        user = asyncio.create_task(self._drilled.arrive(chance, self._record))
        self._users.add(user)
        user.add_done_callback(self._left)

    def _left(self, user: asyncio.Task[None]) -> None:
        self._users.discard(user)
        if not user.cancelled() and (error := user.exception()) is not None:
            self._error = self._error or error


def arrivals(seed: int, rate: float, seconds: float) -> Iterator[float]:
    """Yield the instants at which users arrive: a Poisson process, its gaps drawn from an exponential clock."""
    chance, at = random.Random(f"{seed} arrivals"), 0.0
    while (at := at + chance.expovariate(rate)) < seconds:
        yield at
