"""Drawing: elements of SVG, and a frame with a time axis that all charts of a report share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

WIDTH = 1120
LEFT, RIGHT = 168, 24
_HEAD, _FOOT = 40, 40
_TEXT_HEIGHT = 4


def element(tag: str, *content: str, **attributes: object) -> str:
    """Return an element. `class_` is written class, an underscore in other names as a hyphen; content is as it is."""
    written = "".join(
        f" {name.rstrip('_').replace('_', '-')}={quoteattr(_shown(value))}" for name, value in attributes.items()
    )
    return f"<{tag}{written}>{''.join(content)}</{tag}>" if content else f"<{tag}{written}/>"


def words(text: str, x: float, y: float, **attributes: object) -> str:
    """Return a text at a place."""
    return element("text", escape(text), x=x, y=y, **attributes)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> str:
    """Return a line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


@dataclass(frozen=True, kw_only=True)
class Frame:
    """Where a chart is drawn: `seconds` along its width, and `height` pixels between the highest and the lowest value.

    `load_end` and `calm_from` are shown in each chart: when the load was over, and when the last fault was.
    """

    title: str
    seconds: float
    height: int
    calm_from: float
    load_end: float

    @property
    def top(self) -> int:
        """Return where the plot begins."""
        return _HEAD

    @property
    def bottom(self) -> int:
        """Return where the plot ends."""
        return _HEAD + self.height

    def x(self, at: float) -> float:
        """Return where an instant is."""
        return LEFT + (WIDTH - LEFT - RIGHT) * min(max(at, 0.0), self.seconds) / self.seconds

    def drawn(self, unit: str, content: Iterable[str], legend: Sequence[tuple[str, str]]) -> str:
        """Return the chart: the frame with its title, legend and time axis, and what is in it."""
        return element(
            "svg",
            element("title", escape(self.title)),
            *self._calm(),
            *self._time_axis(),
            *content,
            words(self.title, 0, 18, class_="title"),
            *([words(unit, LEFT - 8, self.top - 8, class_="end faint")] if unit else []),
            *_legend(legend),
            xmlns="http://www.w3.org/2000/svg",
            viewBox=f"0 0 {WIDTH} {self.bottom + _FOOT}",
            role="img",
        )

    def _calm(self) -> Iterator[str]:
        x, end = self.x(self.calm_from), self.x(self.load_end)
        yield element("rect", x=x, y=self.top, width=self.x(self.seconds) - x, height=self.height, class_="calm")
        yield line(end, self.top, end, self.bottom, "mark")

    def _time_axis(self) -> Iterator[str]:
        step = nice(self.seconds / 10, (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1_800, 3_600))
        for number in range(int(self.seconds / step) + 1):
            x = self.x(number * step)
            yield line(x, self.bottom, x, self.bottom + 5, "axis")
            yield words(clock(number * step), x, self.bottom + 18, class_="middle")
        yield line(LEFT, self.bottom, WIDTH - RIGHT, self.bottom, "axis")
        yield words("time since the start of the load, min:s", WIDTH - RIGHT, self.bottom + 34, class_="end faint")

    def level(self, y: float, label: str) -> str:
        """Return a horizontal line of the grid with its label."""
        return line(LEFT, y, WIDTH - RIGHT, y, "grid") + words(label, LEFT - 8, y + _TEXT_HEIGHT, class_="end")


def nice(least: float, steps: Sequence[float]) -> float:
    """Return the smallest of these steps that is large enough, or the largest."""
    return next((step for step in steps if step >= least), steps[-1])


def round_up(value: float) -> float:
    """Return the smallest of 1, 2, 5, 10, 20, 50, … that is not below a value; 1 at least."""
    power = 10.0 ** math.floor(math.log10(max(value, 1.0)))
    return nice(max(value, 1.0), (power, 2 * power, 5 * power, 10 * power))


def clock(seconds: float) -> str:
    """Return a span as minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


def path(points: Sequence[tuple[float, float] | None], class_: str) -> str:
    """Return a line through points, broken where there is none; a point alone between gaps is a dot."""
    parts, before = [], None
    for place, point in enumerate(points):
        if point is not None:
            alone = before is None and (place + 1 == len(points) or points[place + 1] is None)
            parts.append(f"{'M' if before is None else 'L'}{point[0]:.1f} {point[1]:.1f}{'h0.01' if alone else ''}")
        before = point
    return element("path", d=" ".join(parts), class_=f"line {class_}") if parts else ""


def _legend(entries: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Yield the entries in a row from the left edge of the plot, above it: a class for the sample, and what it is."""
    x = float(LEFT)
    for class_, text in entries:
        yield sample(class_, x, 14)
        yield words(text, x + 26, 18)
        x += 26 + 7 * len(text) + 18


def sample(class_: str, x: float, y: float) -> str:
    """Return what an entry of a legend looks like in the chart."""
    kind = class_.split()[0]
    if kind == "line":
        return line(x, y, x + 20, y, class_)
    if kind == "bar":
        return element("rect", x=x + 3, y=y - 5, width=14, height=10, class_=class_)
    return mark(class_, x + 10, y)


def mark(class_: str, x: float, y: float) -> str:
    """Return a mark at an instant: a cross for a kill, a ring for nobody hit, a diamond for anything else."""
    if "kill" in class_:
        return element("path", d=f"M{x - 5:.1f} {y - 5:.1f}l10 10m0 -10l-10 10", class_=class_)
    if "missed" in class_:
        return element("circle", cx=round(x, 1), cy=y, r=4, class_=class_)
    return element("path", d=f"M{x:.1f} {y - 6:.1f}l6 6l-6 6l-6 -6z", class_=class_)


def _shown(value: object) -> str:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)
