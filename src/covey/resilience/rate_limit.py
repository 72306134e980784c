"""Rate limits: so many in so long a time for each subject, exact over all processes that share a Valkey.

The generic cell rate algorithm (ITU-T I.371, annex A; Brandur Leach, "Rate Limiting, Cells, and GCRA"): a bucket that
holds `most` units and gets them back evenly over `span`. It is one number for each subject, read and written inside
the server (rate_limit.lua) by the server's clock, in one round trip for all limits of a request; so two processes
can neither both take the last unit nor disagree on the time. What is refused takes nothing.

A subject that has rested may take `most` at once, and then one each `span / most`. So no more than `most` are admitted
at one moment, and no more than twice as many in any `span`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from covey.clock import Clock, SystemClock
from covey.errors import DefinitionError, ValkeyUnavailable
from covey.valkey.client import Valkey
from covey.valkey.script import Script

WhenAway = Literal["local", "admit", "refuse"]
"""What a limit is while Valkey is away: that of each process for itself, none, or closed."""

_SCRIPT = Script.beside(__name__, "rate_limit.lua")
_FORM = re.compile(r"([1-9][0-9]{0,8})/(?:([1-9][0-9]{0,5}) ?)?(second|minute|hour|day)s?")
_SPANS = {"second": 1, "minute": 60, "hour": 3_600, "day": 86_400}
_MOST_LOCAL_SUBJECTS = 10_000


@dataclass(frozen=True, slots=True)
class RateLimit:
    """`most` units in `span`."""

    most: int
    span: timedelta

    @classmethod
    def parse(cls, text: str) -> RateLimit:
        """Read "100/hour", "5/10 seconds". Raises DefinitionError."""
        found = _FORM.fullmatch(text)
        if found is None:
            raise DefinitionError(f'{text!r} is no rate limit: write "100/hour", "10/second" or "5/30 seconds"')
        return cls(int(found[1]), timedelta(seconds=int(found[2] or 1) * _SPANS[found[3]]))

    def __post_init__(self) -> None:
        if not 1 <= self.most <= self.span // timedelta(microseconds=1):
            raise DefinitionError(
                f"a rate limit of {self.most} in {self.span} cannot be: at least 1, at most 1 each µs"
            )

    @property
    def interval_us(self) -> int:
        """Return the microseconds in which one unit comes back: whole ones, so that nothing is lost in rounding."""
        return -(-(self.span // timedelta(microseconds=1)) // self.most)


@dataclass(frozen=True, slots=True)
class Use:
    """How a subject stands to one limit. `retry_after` is zero when it was admitted as far as this limit goes."""

    limit: RateLimit
    left: int
    retry_after: timedelta
    full_after: timedelta


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a request is admitted, and how its subject stands to each limit, in their order."""

    admitted: bool
    uses: tuple[Use, ...]

    @property
    def retry_after(self) -> timedelta:
        """Return how long to wait before the same could be admitted; zero when it is."""
        return max((use.retry_after for use in self.uses), default=timedelta())


class RateLimiter:
    """Counts for one system. `when_away` says what holds while Valkey is away; `prefix` keeps systems apart."""

    def __init__(
        self, valkey: Valkey | None, prefix: str, when_away: WhenAway = "local", clock: Clock | None = None
    ) -> None:
        self._valkey = valkey
        self._prefix = prefix
        self._when_away = when_away
        self._local = LocalLimiter(clock or SystemClock())

    async def take(self, subject: str, limits: Sequence[tuple[str, RateLimit]], cost: int = 1) -> Verdict:
        """Take `cost` units of each limit, which has a name for its own count, or of none when one of them lacks them.

        One round trip. `cost` above what a limit holds is never admitted.
        """
        if self._valkey is None:
            return self._local.take(subject, limits, cost)
        keys = [f"{self._prefix}:{{{subject}}}:{name}" for name, _ in limits]
        arguments = [part for _, limit in limits for part in (limit.interval_us, limit.most)]
        try:
            found = await self._valkey.run(_SCRIPT, keys, cost, *arguments)
        except ValkeyUnavailable as away:
            return self._without(subject, limits, cost, away)
        return _verdict([limit for _, limit in limits], found)

    def _without(
        self, subject: str, limits: Sequence[tuple[str, RateLimit]], cost: int, away: ValkeyUnavailable
    ) -> Verdict:
        match self._when_away:
            case "local":
                return self._local.take(subject, limits, cost)
            case "admit":
                return Verdict(True, ())
            case "refuse":
                raise away


class LocalLimiter:
    """The same algorithm for one process. It remembers the subjects that were seen last, at most so many."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._arrivals: dict[tuple[str, str], int] = {}

    def take(self, subject: str, limits: Sequence[tuple[str, RateLimit]], cost: int) -> Verdict:
        """Take `cost` units of each limit or of none; see `RateLimiter.take`."""
        now = int(self._clock.monotonic() * 1e6)
        arrivals = [max(now, self._arrivals.get((subject, name), now)) for name, _ in limits]
        waits = [
            arrival + (cost - limit.most) * limit.interval_us - now
            for arrival, (_, limit) in zip(arrivals, limits, strict=True)
        ]
        admitted = all(wait <= 0 for wait in waits)
        found: list[int] = []
        for arrival, wait, (name, limit) in zip(arrivals, waits, limits, strict=True):
            after = arrival + cost * limit.interval_us if admitted else arrival
            if admitted:
                self._keep((subject, name), after)
            left = (limit.most * limit.interval_us - (after - now)) // limit.interval_us
            found += [max(0, wait), left, after - now]
        return _verdict([limit for _, limit in limits], found)

    def _keep(self, key: tuple[str, str], arrival: int) -> None:
        self._arrivals.pop(key, None)  # what was used last stands last
        self._arrivals[key] = arrival
        if len(self._arrivals) > _MOST_LOCAL_SUBJECTS:
            del self._arrivals[next(iter(self._arrivals))]


def _verdict(limits: Sequence[RateLimit], found: Sequence[int]) -> Verdict:
    uses = tuple(
        Use(limit, found[3 * n + 1], timedelta(microseconds=found[3 * n]), timedelta(microseconds=found[3 * n + 2]))
        for n, limit in enumerate(limits)
    )
    return Verdict(not any(use.retry_after for use in uses), uses)
