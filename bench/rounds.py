"""Compares things on a machine that is not quiet: all of them in every round, the order turned round each time.

Absolute figures swing by a third from minute to minute here; the ratio of two measurements of one round does not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median

Measurements = dict[str, list[float]]


def interleaved(
    subjects: Mapping[str, Callable[[], float]], rounds: int, settle_s: float = 1.0, warm_up: bool = True
) -> Measurements:
    """Measure every subject once a round and return, for each, its values in order of the rounds."""
    if warm_up:
        for measure in subjects.values():
            measure()
    taken: Measurements = {name: [] for name in subjects}
    for number in range(rounds):
        for name in list(subjects) if number % 2 == 0 else list(reversed(subjects)):
            time.sleep(settle_s)
            taken[name].append(subjects[name]())
    return taken


def ratios(taken: Measurements, subject: str, baseline: str) -> list[float]:
    """Return subject / baseline, one for each round."""
    return [one / other for one, other in zip(taken[subject], taken[baseline], strict=True)]


def spread(values: Sequence[float], digits: int = 0) -> str:
    """Return `median [least..most]`."""
    return f"{median(values):,.{digits}f} [{min(values):,.{digits}f}..{max(values):,.{digits}f}]"


def table(taken: Measurements, baseline: str, unit: str) -> str:
    """Return the measurements as a Markdown table, with the ratio of each to `baseline`."""
    rows = [f"| | {unit} | ratio to {baseline} |", "|---|---|---|"]
    rows += [f"| {name} | {spread(taken[name])} | {spread(ratios(taken, name, baseline), 2)} |" for name in taken]
    return "\n".join(rows)
