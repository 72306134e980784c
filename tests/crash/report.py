"""What a run of the crash test has shown, as a table."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median

from tests.crash.lane import Strike
from tests.crash.points import EXPLANATION, Point
from tests.crash.run import Results

_WIDTH = 26


def listing(points: Iterable[Point]) -> list[str]:
    """Return all points by outcome, service and what is being done, and how to read them."""
    lines, last = [], ("", "", "")
    for point in points:
        place = (point.outcome, point.service, point.about)
        for depth, (word, before) in enumerate(zip(place, last, strict=True)):
            if place[: depth + 1] != last[: depth + 1]:
                lines.append("  " * depth + word)
                del before
        last = place
        nth = f" (no. {point.number})" if point.number > 1 else ""
        lines.append(f"      {point.call}{nth}, {point.when}")
    return [*lines, "", *(f"{when + ':':<11}{what}" for when, what in EXPLANATION.items())]


def table(results: Results) -> list[str]:
    """Return a line for each seam, and one for all."""
    seams: dict[str, list[Strike]] = {}
    for strike in results.strikes:
        seams.setdefault(strike.point.seam, []).append(strike)
    head = (
        f"{'seam':<{_WIDTH}} {'killed':>6} {'unfinished':>10} {'good':>6} {'resumed after':>14} {'at rest after':>14}"
    )
    lines = [head, "-" * len(head)]
    lines += [_line(seam, of_it) for seam, of_it in sorted(seams.items())]
    return [*lines, "-" * len(head), _line("all", results.strikes), *_notes(results)]


def _line(seam: str, strikes: list[Strike]) -> str:
    resumed = max((strike.resumed_seconds or 0.0 for strike in strikes), default=0.0)
    settled = max((strike.settled_seconds for strike in strikes), default=0.0)
    unfinished = sum(bool(strike.unfinished) for strike in strikes)
    good = sum(not strike.problems for strike in strikes)
    return f"{seam:<{_WIDTH}} {len(strikes):>6} {unfinished:>10} {good:>6} {resumed:>12.2f} s {settled:>12.2f} s"


def _notes(results: Results) -> list[str]:
    resumed = sorted(one.resumed_seconds for one in results.strikes if one.resumed_seconds is not None)
    ready = sorted(one.ready_seconds for one in results.strikes)
    finished = sum(not one.unfinished for one in results.strikes)
    notes = [
        "the slowest of each; resumed: until work goes on after the process is ready; at rest: after the kill",
        f"{finished} kills came when all was on record and only the process did not know it",
        f"{sum(results.missed.values())} orders passed their point by and were run again",
    ]
    if resumed:
        spread = (
            f"median {median(resumed):.3f}, 99 % {resumed[int(len(resumed) * 0.99) - 1]:.3f}, most {resumed[-1]:.3f}"
        )
        notes.append(f"work resumed, in seconds after ready: {spread} (of {len(resumed)})")
    if ready:
        notes.append(f"ready again, in seconds after the kill: median {median(ready):.2f}, most {ready[-1]:.2f}")
    return notes
