"""Counters, gauges and histograms that cost a dictionary access each; Prometheus is only met when it asks.

The request path touches plain dictionaries keyed by label values. `exposition.py` turns them into the text
format of Prometheus (https://prometheus.io/docs/instrumenting/exposition_formats/) when `/metrics` is read.

Label values come from bounded sets: route templates, message types, statuses; never ids. Should one not
be bounded, the number of series of a metric still is: past `max_series` everything new is counted in one
series whose labels all read `other`, and `covey_metric_series_refused_total` says how often.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeVar

from covey.errors import DefinitionError

Labels = tuple[str, ...]
Observation = Callable[[], Mapping[Labels, float]]

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds in seconds, for durations of requests, handlers and statements."""

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_OTHER = "other"


class Counter:
    """A number that only grows. Add to it from one thread; it may be read from any."""

    kind: Literal["counter"] = "counter"

    def __init__(self, name: str, help: str, labels: Labels, max_series: int) -> None:
        self.name, self.help, self.labels = name, help, labels
        self.refused = 0
        self._max_series = max_series
        self._values: dict[Labels, float] = {} if labels else {(): 0.0}

    def add(self, labels: Labels = (), amount: float = 1.0) -> None:
        """Add to the series with these label values, given in the order in which the labels were declared."""
        try:
            self._values[labels] += amount
        except KeyError:
            self._admit(labels, amount)

    def value(self, labels: Labels = ()) -> float:
        """Return the sum of that series so far; 0 when nothing was added."""
        return self._values.get(labels, 0.0)

    def series(self) -> dict[Labels, float]:
        """Return all series as they are now."""
        return dict(self._values)

    def _admit(self, labels: Labels, amount: float) -> None:
        labels = _admissible(self, labels, self._values)
        self._values[labels] = self._values.get(labels, 0.0) + amount


class Gauge:
    """A number that goes up and down."""

    kind: Literal["gauge"] = "gauge"

    def __init__(self, name: str, help: str, labels: Labels, max_series: int) -> None:
        self.name, self.help, self.labels = name, help, labels
        self.refused = 0
        self._max_series = max_series
        self._values: dict[Labels, float] = {} if labels else {(): 0.0}

    def set(self, value: float, labels: Labels = ()) -> None:
        """Replace the value of that series."""
        if labels not in self._values:
            labels = _admissible(self, labels, self._values)
        self._values[labels] = value

    def add(self, amount: float, labels: Labels = ()) -> None:
        """Add to the value of that series; a negative amount lowers it."""
        self.set(self._values.get(labels, 0.0) + amount, labels)

    def value(self, labels: Labels = ()) -> float:
        """Return the value of that series; 0 when it was never set."""
        return self._values.get(labels, 0.0)

    def series(self) -> dict[Labels, float]:
        """Return all series as they are now."""
        return dict(self._values)


class Histogram:
    """How often values fell up to each of its bounds, and their sum. `buckets` ascend; infinity is implied."""

    kind: Literal["histogram"] = "histogram"

    def __init__(self, name: str, help: str, labels: Labels, buckets: Sequence[float], max_series: int) -> None:
        if not buckets or list(buckets) != sorted(set(buckets)):
            raise DefinitionError(f"{name}: buckets must ascend: {buckets!r}")
        self.name, self.help, self.labels = name, help, labels
        self.buckets = tuple(buckets)
        self.refused = 0
        self._max_series = max_series
        self._cells: dict[Labels, list[float]] = {} if labels else {(): self._new_cell()}

    def observe(self, value: float, labels: Labels = ()) -> None:
        """Count one value in the series with these label values."""
        cell = self._cells.get(labels)
        if cell is None:
            labels = _admissible(self, labels, self._cells)
            cell = self._cells.setdefault(labels, self._new_cell())
        cell[bisect_left(self.buckets, value)] += 1
        cell[-1] += value

    def count(self, labels: Labels = ()) -> int:
        """Return how many values that series has seen."""
        return int(sum(self._cells.get(labels, (0.0,))[:-1]))

    def series(self) -> dict[Labels, tuple[list[float], float]]:
        """Return for each series how many values fell into each bucket (not cumulated), and their sum."""
        copies = {labels: cell[:] for labels, cell in list(self._cells.items())}
        return {labels: (cell[:-1], cell[-1]) for labels, cell in copies.items()}

    def _new_cell(self) -> list[float]:
        return [0.0] * (len(self.buckets) + 2)  # one for each bound, one for infinity, the sum


class Observed:
    """A metric whose value is asked for when it is read; `observe` must be quick and must not wait."""

    def __init__(
        self, name: str, help: str, labels: Labels, kind: Literal["counter", "gauge"], observe: Observation
    ) -> None:
        self.name, self.help, self.labels = name, help, labels
        self.kind = kind
        self.refused = 0
        self.series = observe


Metric = Counter | Gauge | Histogram | Observed
M = TypeVar("M", Counter, Gauge, Histogram)


class Metrics:
    """The metrics of one process. A name may be asked for again and gives the same metric, if declared alike."""

    def __init__(self, max_series: int = 1000) -> None:
        self._max_series = max_series
        self._metrics: dict[str, Metric] = {}
        self.observe(
            "covey_metric_series_refused_total",
            "Values counted under 'other' because their metric has too many series",
            lambda: {(metric.name,): metric.refused for metric in self.all() if metric.refused},
            labels=("metric",),
            kind="counter",
        )

    def counter(self, name: str, help: str, labels: Labels = ()) -> Counter:
        """Return the counter of that name, which ends in `_total`; raises DefinitionError if declared otherwise."""
        if not name.endswith("_total"):
            raise DefinitionError(f"{name}: the name of a counter ends in _total")
        return self._declare(Counter(name, help, labels, self._max_series))

    def gauge(self, name: str, help: str, labels: Labels = ()) -> Gauge:
        """Return the gauge of that name; raises DefinitionError if it is declared otherwise."""
        return self._declare(Gauge(name, help, labels, self._max_series))

    def histogram(self, name: str, help: str, labels: Labels = (), buckets: Sequence[float] = SECONDS) -> Histogram:
        """Return the histogram of that name; raises DefinitionError if it is declared otherwise."""
        return self._declare(Histogram(name, help, labels, buckets, self._max_series))

    def observe(
        self,
        name: str,
        help: str,
        observe: Observation,
        labels: Labels = (),
        kind: Literal["counter", "gauge"] = "gauge",
    ) -> None:
        """Declare a metric that is asked for its series when it is read: `lambda: {(): pool.size}`.

        A later declaration of the same name replaces the earlier: the object that it asked may be gone.
        """
        _check_name(name, labels)
        known = self._metrics.get(name)
        if known is not None and not isinstance(known, Observed):
            raise DefinitionError(f"{name} is already a {known.kind}")
        self._metrics[name] = Observed(name, help, labels, kind, observe)

    def all(self) -> list[Metric]:
        """Return every metric declared so far."""
        return list(self._metrics.values())

    def _declare(self, metric: M) -> M:
        _check_name(metric.name, metric.labels)
        known = self._metrics.setdefault(metric.name, metric)
        if type(known) is not type(metric) or known.labels != metric.labels:
            raise DefinitionError(f"{metric.name} is already a {known.kind} with labels {known.labels}")
        return known


def _check_name(name: str, labels: Labels) -> None:
    for word in (name, *labels):
        if not _NAME.fullmatch(word):
            raise DefinitionError(f"{name}: {word!r} must consist of lower-case letters, digits and underscores")


def _admissible(metric: Counter | Gauge | Histogram, labels: Labels, series: Mapping[Labels, object]) -> Labels:
    """Return the labels under which something new is kept: its own, or `other` when there are too many."""
    if len(labels) != len(metric.labels):
        raise DefinitionError(f"{metric.name} has the labels {metric.labels}, not {labels}")
    if len(series) < metric._max_series:
        return labels
    metric.refused += 1
    return (_OTHER,) * len(labels)
