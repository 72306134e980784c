"""What a question answers: text for people, and figures that are held against `bars.toml`."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

BARS = Path(__file__).parent / "bars.toml"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """The values of one bar, one a round; their median counts. `sync` is JetStream's sync mode, "" where none is."""

    bar: str
    values: Sequence[float]
    sync: str = ""

    @property
    def value(self) -> float:
        """Return the median."""
        return median(self.values)


@dataclass(kw_only=True)
class Answer:
    """What one question found out. `text` is Markdown; `pictures` are files that it shows, PNG by name."""

    title: str
    text: list[str] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    pictures: dict[str, bytes] = field(default_factory=dict)


def bars() -> dict[str, dict[str, Any]]:
    """Return what `bars.toml` holds."""
    return tomllib.loads(BARS.read_text())


def verdict(figure: Figure, bar: dict[str, Any]) -> str:
    """Return `missed`, `held` or `aim reached`."""
    if not _within(figure.value, bar.get("least"), bar.get("most")):
        return "missed"
    aims = (bar.get("aim_least"), bar.get("aim_most"))
    return "aim reached" if aims != (None, None) and _within(figure.value, *aims) else "held"


def row(figure: Figure, bar: dict[str, Any]) -> str:
    """Return the figure beside its bar, as a row of a Markdown table."""
    limit = f"≥ {bar['least']:,}" if "least" in bar else f"≤ {bar['most']:,}"
    aim = bar.get("aim_least", bar.get("aim_most", ""))
    digits = 0 if figure.value >= 100 else 2
    shown = f"{figure.value:,.{digits}f} [{min(figure.values):,.{digits}f}..{max(figure.values):,.{digits}f}]"
    return f"| {bar['what']} | {limit} | {aim} | {shown} | {figure.sync} | {verdict(figure, bar)} |"


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that this share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def _within(value: float, least: float | None, most: float | None) -> bool:
    return (least is None or value >= least) and (most is None or value <= most)
