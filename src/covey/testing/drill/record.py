"""What happened in a drill, second by second. `at` is in seconds from the start of the load."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from covey.clock import Clock
from covey.testing.drill.faults import Fault, Kill, KillRelay


@dataclass(frozen=True, kw_only=True)
class Strike:
    """A fault that was carried out, from `at` to `until`; `hit` is false when there was nobody to be hit."""

    fault: Fault
    at: float
    until: float
    hit: bool
    note: str = ""


@dataclass(frozen=True)
class Sample:
    """How many were under way, and how much had come to its end."""

    at: float
    under_way: int
    completed: int


@dataclass
class Record:
    """Notes of one drill. It is `Notes` for who arrives."""

    clock: Clock
    began: float = 0.0
    load_ended: float = 0.0
    arrived: int = 0
    not_begun: int = 0
    abandoned: int = 0
    accepts: list[tuple[float, float]] = field(default_factory=list)
    failures: list[tuple[float, str]] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    strikes: list[Strike] = field(default_factory=list)

    def begin(self) -> None:
        """Let the time of the drill begin now."""
        self.began = self.clock.monotonic()

    def now(self) -> float:
        """Return the seconds since then."""
        return self.clock.monotonic() - self.began

    def accepted(self, seconds: float) -> None:
        """See Notes."""
        self.accepts.append((self.now(), seconds))

    def failed(self, kind: str) -> None:
        """See Notes."""
        self.failures.append((self.now(), kind))

    def given_up(self) -> None:
        """See Notes."""
        self.abandoned += 1

    @property
    def completed(self) -> int:
        """Return how much had come to its end when it was last known."""
        return self.samples[-1].completed if self.samples else 0

    @property
    def kills(self) -> int:
        """Return how many kills have hit a running process."""
        return sum(isinstance(strike.fault, Kill | KillRelay) and strike.hit for strike in self.strikes)

    @property
    def kinds(self) -> dict[str, int]:
        """Return how many attempts have failed, by kind, the most frequent first."""
        return dict(Counter(kind for _, kind in self.failures).most_common())

    def latencies(self) -> dict[str, float]:
        """Return median and 99th percentile of the seconds until acceptance, over the whole drill."""
        seconds = [seconds for _, seconds in self.accepts]
        return {"p50": percentile(seconds, 0.5), "p99": percentile(seconds, 0.99)}


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least this share does not exceed (nearest rank); nan of nothing."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan
