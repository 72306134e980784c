"""A bulkhead: so many calls to one target at a time, and few that wait, so that a slow one cannot take all there is.

Michael Nygard, *Release It!*, 2nd edition, chapter 5.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from dataclasses import dataclass

from covey.errors import DefinitionError, Unavailable


class BulkheadFull(Unavailable):
    """Nobody was asked, because as many calls as may be are under way, and as many as may wait do."""


@dataclass(frozen=True, kw_only=True)
class BulkheadOptions:
    """`most` calls are under way at a time, and `waiting` more may wait for a place, as long as their time lasts."""

    most: int = 64
    waiting: int = 64

    def __post_init__(self) -> None:
        if self.most < 1 or self.waiting < 0:
            raise DefinitionError(f"a bulkhead cannot be like this: {self}")


class Bulkhead:
    """One for each target. Places are given in the order in which they were asked for."""

    def __init__(self, target: str, options: BulkheadOptions) -> None:
        self.target = target
        self._options = options
        self._free = options.most
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def under_way(self) -> int:
        """Return how many places are taken."""
        return self._options.most - self._free

    @property
    def waiting(self) -> int:
        """Return how many wait."""
        return len(self._waiting)

    def take(self) -> asyncio.Future[None] | None:
        """Take a place: None when there is one at once, else what to hand to `wait`. Raises BulkheadFull."""
        if self._free and not self._waiting:
            self._free -= 1
            return None
        if len(self._waiting) >= self._options.waiting:
            raise BulkheadFull(f"{self._options.most} calls to {self.target} are under way, and no more may wait")
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        return turn

    async def wait(self, turn: asyncio.Future[None]) -> None:
        """Wait for one's turn. Whoever is cancelled meanwhile has no place, and passes on one that just came."""
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled():
                self.give_back()
            else:
                with suppress(ValueError):  # whoever looked for the next has passed over it
                    self._waiting.remove(turn)
            raise

    def give_back(self) -> None:
        """Give a place back, to who has waited longest."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
