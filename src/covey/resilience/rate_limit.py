"""Rate limits: so many in so long a time for each subject, exact over all processes that share a Valkey.

The generic cell rate algorithm (ITU-T I.371, annex A; Brandur Leach, "Rate Limiting, Cells, and GCRA"): a bucket that
holds `most` units and gets them back evenly over `span`. It is one number for each subject, read and written inside
the server (rate_limit.lua) by the server's clock, in one round trip for all limits of a request, and for all requests
of one tick of the event loop; so two processes can neither both take the last unit nor disagree on the time. What is
refused takes nothing.

A subject that has rested may take `most` at once, and then one each `span / most`. So no more than `most` are admitted
at one moment, and no more than twice as many in any `span`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal, NamedTuple

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
    interval_us: int = field(init=False, repr=False)
    """The microseconds in which one unit comes back: whole ones, so that nothing is lost in rounding."""

    @classmethod
    def parse(cls, text: str) -> RateLimit:
        """Read "100/hour", "5/10 seconds". Raises DefinitionError."""
        found = _FORM.fullmatch(text)
        if found is None:
            raise DefinitionError(f'{text!r} is no rate limit: write "100/hour", "10/second" or "5/30 seconds"')
        return cls(int(found[1]), timedelta(seconds=int(found[2] or 1) * _SPANS[found[3]]))

    def __post_init__(self) -> None:
        span_us = self.span // timedelta(microseconds=1)
        if not 1 <= self.most <= span_us:
            raise DefinitionError(
                f"a rate limit of {self.most} in {self.span} cannot be: at least 1, at most 1 each µs"
            )
        object.__setattr__(self, "interval_us", -(-span_us // self.most))


Limits = Sequence[tuple[str, RateLimit]]
"""Limits, each with the name of its own count."""


class Use(NamedTuple):
    """How a subject stands to one limit: the units left, and the microseconds until it would do and until all are back.

    Until it would do is zero when it was admitted as far as this limit goes.
    """

    limit: RateLimit
    left: int
    retry_after_us: int
    full_after_us: int

    @property
    def retry_after(self) -> timedelta:
        """Return how long to wait before the same could be admitted by this limit."""
        return timedelta(microseconds=self.retry_after_us)

    @property
    def full_after(self) -> timedelta:
        """Return how long it takes until all units are back."""
        return timedelta(microseconds=self.full_after_us)


class Verdict:
    """Whether a request is admitted, and how its subject stands to each limit, in their order.

    `found` says for each when all its units are back, in microseconds t from now: t where they were taken, -1 - t where
    not. What follows is worked out when somebody asks.
    """

    __slots__ = ("_cost", "_found", "_limits", "admitted")

    def __init__(self, limits: Limits, cost: int, found: Sequence[int]) -> None:
        self.admitted = not found or found[0] >= 0
        self._limits = limits
        self._cost = cost
        self._found = found

    @property
    def uses(self) -> tuple[Use, ...]:
        """Return how the subject stands to each limit; nothing when nobody counts."""
        return tuple([self._use(limit, after) for (_, limit), after in zip(self._limits, self._found, strict=False)])

    @property
    def retry_after(self) -> timedelta:
        """Return how long to wait before the same could be admitted; zero when it is."""
        return max((use.retry_after for use in self.uses), default=timedelta())

    def _use(self, limit: RateLimit, after: int) -> Use:
        wait, interval = 0, limit.interval_us
        if after < 0:
            after = -1 - after
            wait = max(0, after + (self._cost - limit.most) * interval)
        left = (limit.most * interval - after) // interval
        return Use(limit, left, wait, after)


class RateLimiter:
    """Counts for one system. `when_away` says what holds while Valkey is away, or where there is none; `prefix` keeps
    systems apart.
    """

    def __init__(
        self, valkey: Valkey | None, prefix: str, when_away: WhenAway = "local", clock: Clock | None = None
    ) -> None:
        self._valkey = valkey
        self._prefix = prefix
        self._when_away = when_away
        self._local = LocalLimiter(clock or SystemClock())

    async def take(self, subject: str, limits: Limits, cost: int = 1) -> Verdict:
        """Take `cost` units of each limit, which has a name for its own count, or of none when one of them lacks them.

        One round trip. `cost` above what a limit holds is never admitted.
        """
        if not limits:
            return Verdict((), cost, ())
        if self._valkey is None:
            return self._without(subject, limits, cost, ValkeyUnavailable("there is no Valkey: set VALKEY_URL"))
        keys = [f"{self._prefix}:{{{subject}}}:{name}" for name, _ in limits]
        arguments = [part for _, limit in limits for part in (limit.interval_us, limit.most)]
        try:
            found = await self._valkey.ask(_SCRIPT, keys, cost, *arguments)
        except ValkeyUnavailable as away:
            return self._without(subject, limits, cost, away)
        return Verdict(limits, cost, found)

    def _without(self, subject: str, limits: Limits, cost: int, away: ValkeyUnavailable) -> Verdict:
        match self._when_away:
            case "local":
                return self._local.take(subject, limits, cost)
            case "admit":
                return Verdict((), cost, ())
            case "refuse":
                raise away


class LocalLimiter:
    """The same algorithm for one process. It remembers the subjects that were seen last, at most so many."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._arrivals: dict[tuple[str, str], int] = {}

    def take(self, subject: str, limits: Limits, cost: int) -> Verdict:
        """Take `cost` units of each limit or of none; see `RateLimiter.take`."""
        now = int(self._clock.monotonic() * 1e6)
        arrivals = [max(now, self._arrivals.get((subject, name), now)) for name, _ in limits]
        if any(
            arrival + (cost - limit.most) * limit.interval_us > now
            for arrival, (_, limit) in zip(arrivals, limits, strict=True)
        ):
            return Verdict(limits, cost, [now - arrival - 1 for arrival in arrivals])
        found: list[int] = []
        for arrival, (name, limit) in zip(arrivals, limits, strict=True):
            after = arrival + cost * limit.interval_us
            self._keep((subject, name), after)
            found.append(after - now)
        return Verdict(limits, cost, found)

    def _keep(self, key: tuple[str, str], arrival: int) -> None:
        self._arrivals.pop(key, None)  # what was used last stands last
        self._arrivals[key] = arrival
        if len(self._arrivals) > _MOST_LOCAL_SUBJECTS:
            del self._arrivals[next(iter(self._arrivals))]
