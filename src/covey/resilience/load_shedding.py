"""Load shedding: past its capacity a service refuses the least important work at once, and does the rest as before.

How much can be under way is not known beforehand: it depends on the slowest of what a service needs. It is found from
how long work takes. By Little's law the share of what is under way that is being worked on, and not waiting, is the
time that work takes by itself over the time that it takes now. So the limit follows

    limit ← limit · min(1, TOLERANCE · alone / now) + √limit

smoothed, over windows of a tenth of a second: what waits beyond the tolerance is taken away, and a little room is tried
anew each time that the limit was reached (after the gradient limit of Netflix's concurrency-limits, which goes back to
TCP Vegas: Brakmo and Peterson, 1995). How long work takes by itself is learnt for each route, from what is done while
little is under way; so a queue that stands for long is never taken for normal, and a dependency that has become slower
for good is, once the limit has fallen to its floor.

Important work may go past the limit, unimportant work not even up to it. So there is room for the one before the other
is felt, and nobody waits in a queue to be refused.

Where so much is stuck that nothing is let in, nothing is measured, and the limit would stay below it for ever. So after
a second in which nothing was measured one is let in past the limit, as a probe, and what it takes moves the limit. The
next waits a second longer for each that is not back: what is really slow, or stuck for good, is not filled by them.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum

from covey.clock import Clock
from covey.errors import DefinitionError, Unavailable

_WINDOW_SECONDS = 0.1
_LEAST_SAMPLES = 8
_PROBE_SECONDS = 1.0
_SMOOTHING = 0.3
_LEARNING = 0.02
_TOLERANCE = 1.5
_RETRY_SECONDS = (1.0, 3.0)


class Priority(Enum):
    """How important work is: the value is the share of the limit up to which it is let in."""

    CRITICAL = 2.0
    NORMAL = 1.0
    LOW = 0.75


class Overloaded(Unavailable):
    """Refused at once, because as much is under way as can be done in time."""


@dataclass(frozen=True, kw_only=True)
class SheddingOptions:
    """The limit starts at `initial` and stays between `least` and `most`."""

    initial: int = 200
    least: int = 20
    most: int = 1_000

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.initial <= self.most:
            raise DefinitionError(f"work cannot be shed like this: {self}")


class LoadShedder:
    """One for each service. Whatever enters must leave, once."""

    def __init__(
        self, options: SheddingOptions, clock: Clock, chance: Callable[[float, float], float] = random.uniform
    ) -> None:
        self._options = options
        self.now = clock.monotonic
        self._chance = chance
        self._limit = float(options.initial)
        self._alone: dict[str, tuple[float, int]] = {}  # the mean by kind, and of how many
        self._window_ends = 0.0
        self._samples = 0
        self._took = self._would_take = 0.0
        self._highest = 0
        self._quiet_since = self.now()  # when something was measured last, or a probe let in
        self._probes: set[float] = set()  # when those began that are under way
        self.under_way = 0
        self.shed: dict[Priority, int] = dict.fromkeys(Priority, 0)

    @property
    def limit(self) -> int:
        """Return how much ordinary work may be under way now."""
        return int(self._limit)

    def enter(self, priority: Priority) -> float:
        """Let work in and return when it began, to be given back when it leaves. Raises Overloaded."""
        now = self.now()
        if self.under_way >= self._limit * priority.value and not self._may_probe(now):
            self.shed[priority] += 1
            # Spread, or all who were refused together would come back together.
            raise Overloaded("too much is under way", timedelta(seconds=self._chance(*_RETRY_SECONDS)))
        self.under_way += 1
        if self.under_way > self._highest:
            self._highest = self.under_way
        return now

    def leave(self, begun: float, kind: str, *, done: bool, waited: float = 0.0) -> None:
        """Let work of this kind out. What failed, or was refused, says nothing of how long it takes.

        Of its time it has `waited` so many seconds for somebody whose slowness is not ours.
        """
        under_way = self.under_way
        self.under_way = under_way - 1
        was_probe = begun in self._probes
        if was_probe:
            self._probes.remove(begun)
        if not done:
            return
        self._quiet_since = now = self.now()
        took = now - begun - waited
        alone, count = self._alone.get(kind, (took, 0))
        if count == 0 or under_way <= max(self._options.least, self._limit / 2):
            count += 1
            alone += max(_LEARNING, 1 / count) * (took - alone)
            self._alone[kind] = alone, count
        self._samples += 1
        self._took += took
        self._would_take += alone
        if now >= self._window_ends and (was_probe or self._samples >= _LEAST_SAMPLES):
            self._adjust(now)

    def _may_probe(self, now: float) -> bool:
        """Tell whether one may go past the limit, because nothing has been measured for long; it is let in then."""
        if now - self._quiet_since < _PROBE_SECONDS * (1 + len(self._probes)) or self.under_way >= self._options.most:
            return False
        self._quiet_since = now
        self._probes.add(now)
        return True

    def _adjust(self, now: float) -> None:
        """Set the limit by what was seen since it was set last."""
        working = self._would_take / self._took if self._took > 0 else 1.0
        wanted = self._limit * min(1.0, _TOLERANCE * working)
        if self._highest >= self._limit * 0.9:
            wanted += math.sqrt(self._limit)  # it was used up: is there more?
        elif wanted >= self._limit:
            wanted = self._limit
        limit = self._limit + _SMOOTHING * (wanted - self._limit)
        self._limit = min(float(self._options.most), max(float(self._options.least), limit))
        self._window_ends = now + _WINDOW_SECONDS
        self._samples, self._took, self._would_take, self._highest = 0, 0.0, 0.0, self.under_way
