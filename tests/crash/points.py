"""A point: one call at a seam in the life of one order, and the side of it on which the process is killed."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from zlib import crc32

from tests.crash.logbook import OUTSIDE, Sighting
from tests.crash.seams import PUBLISH, STATEMENT, When, seam_of

EXPLANATION: dict[When, str] = {
    "before": "the call has left the process, and nothing of it arrives; of a delivery: it has not arrived",
    "after": "it is done, and the process is not told; of a delivery: the process has just got it",
    "delivered": "it is done, and the process has just been told",
    "booked": "the provider, the carrier or the mail server has booked it, and does not answer",
}


@dataclass(frozen=True, slots=True)
class Point:
    """Where to kill: in an order of this outcome, at the `number`-th such call of the service, on this side of it."""

    outcome: str
    service: str
    about: str
    call: str
    number: int
    when: When

    @property
    def seam(self) -> str:
        """Return the seam that this is a point of."""
        return seam_of(self.call, self.when)

    def __str__(self) -> str:
        nth = f" (no. {self.number})" if self.number > 1 else ""
        return f"{self.outcome} · {self.service} · {self.about}: {self.call}{nth}, {self.when}"


def points_of(outcome: str, service: str, sightings: Iterable[Sighting]) -> list[Point]:
    """Return the points that follow from what one order of that outcome did in one service."""
    return [
        Point(outcome, service, one.about, one.call, one.number, when)
        for one in sorted(sightings, key=lambda one: one.order)
        for when in _sides(one)
    ]


def seams_missing(points: Iterable[Point], outcomes: Collection[str]) -> list[str]:
    """Return the seams that there are, but not in these outcomes."""
    seams: dict[str, set[str]] = {}
    for point in points:
        seams.setdefault(point.seam, set()).add(point.outcome)
    return sorted(seam for seam, of_outcomes in seams.items() if of_outcomes.isdisjoint(outcomes))


def one_per_seam(points: Iterable[Point]) -> list[Point]:
    """Return a point of each seam; of services, outcomes and sides as evenly as can be."""
    members: dict[str, list[Point]] = {}
    for point in points:
        members.setdefault(point.seam, []).append(point)
    used: Counter[str] = Counter()
    chosen = []
    for of_it in sorted(members.values(), key=len):
        best = min(of_it, key=lambda one: (used[one.service], used[one.when], used[one.outcome]))
        used.update((best.service, best.when, best.outcome))
        chosen.append(best)
    return chosen


def shard_of(text: str) -> tuple[int, int]:
    """Read `2/8` as the second of eight parts."""
    number, slash, parts = text.partition("/")
    if not (slash and number.isdecimal() and parts.isdecimal() and 1 <= int(number) <= int(parts)):
        raise ArgumentTypeError(f"{text!r} is no part such as 2/8, the second of eight")
    return int(number), int(parts)


def sharded(points: Iterable[Point], number: int, parts: int) -> list[Point]:
    """Return one of so many parts of the points. A point is in the same part in every run, by its name: two recordings
    may differ by some.
    """
    return [point for point in points if crc32(str(point).encode()) % parts == number - 1]


def _sides(sighting: Sighting) -> tuple[When, ...]:
    if sighting.about in OUTSIDE and not sighting.answered:
        return ("before", "booked")
    if sighting.about in OUTSIDE or sighting.call.startswith(PUBLISH):
        return ("before", "after", "delivered")
    if seam_of(sighting.call, "before") == STATEMENT:
        return ("before",)  # inside a transaction: after it is before the next one
    return ("before", "after")
