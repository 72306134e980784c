"""What a cache says about itself: counts, by the names of the reads, which are few."""

from __future__ import annotations

from typing import Literal

from covey.telemetry.metrics import Metrics

Outcome = Literal["hit", "negative hit", "miss", "away"]
Trouble = Literal["unannounced", "not leased", "not kept", "overtaken", "unreadable", "unwritable"]


class Observation:
    """The counts of one read. `read` is on the path of every hit."""

    def __init__(self, metrics: Metrics, name: str) -> None:
        self._name = name
        self._reads = metrics.counter(
            "covey_cache_reads_total", "Reads, by what was found: hit, negative hit, miss, away", ("cache", "outcome")
        )
        self._loads = metrics.counter("covey_cache_loads_total", "Loads: done, failed", ("cache", "outcome"))
        self._waits = metrics.counter(
            "covey_cache_waits_total", "Looks at a load that is under way, in this process or another", ("cache", "at")
        )
        self._troubles = metrics.counter(
            "covey_cache_troubles_total",
            "What did not go as it should, and harmed nobody: unannounced, not kept, overtaken, unreadable",
            ("cache", "what"),
        )

    def read(self, outcome: Outcome) -> None:
        """Count a read."""
        self._reads.add((self._name, outcome))

    def loaded(self, outcome: Literal["done", "failed"]) -> None:
        """Count a load."""
        self._loads.add((self._name, outcome))

    def waited(self, at: Literal["this process", "another process"]) -> None:
        """Count a look at somebody else's load."""
        self._waits.add((self._name, at))

    def failed(self, what: Trouble) -> None:
        """Count something that did not go as it should."""
        self._troubles.add((self._name, what))
