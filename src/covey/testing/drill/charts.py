"""The charts of a drill's report: throughput, time until acceptance, attempts that failed, and the faults in lanes."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from covey.testing.drill.faults import Duplicate, Kill, KillRelay, Own, Pause, lane, text
from covey.testing.drill.record import Record, Strike, percentile
from covey.testing.drill.result import Result
from covey.testing.drill.svg import LEFT, Frame, clock, element, mark, nice, path, round_up, words

_HEIGHT = 170
_LANE_HEIGHT = 22
_MOST_BINS = 120
_STEPS = (1, 2, 3, 4, 5, 10, 15, 30, 60)
_SHORTEST_SECONDS, _LONGEST_SECONDS = 0.001, 100.0
_COLOURS = 6
"""As many kinds of failed attempts have a colour of their own; the rest is one kind, "other"."""


def charts(result: Result) -> list[str]:
    """Return the charts from top to bottom. They share their time axis, so what stands in one line happened at once."""
    record = result.record
    last = max([1.0, record.load_ended, *(sample.at for sample in record.samples[-1:])])
    bins = Bins(width=nice(last / _MOST_BINS, _STEPS), seconds=last)
    return [
        _throughput(result, bins),
        _latency(result, bins),
        _failures(result, bins),
        _lanes(result, bins),
    ]


@dataclass(frozen=True, kw_only=True)
class Bins:
    """The time of a drill in parts of equal width, in seconds."""

    width: float
    seconds: float

    @property
    def number(self) -> int:
        """Return how many there are."""
        return max(1, math.ceil(self.seconds / self.width))

    def of(self, at: float) -> int:
        """Return in which of them an instant is."""
        return min(max(int(at / self.width), 0), self.number - 1)

    def middle(self, number: int) -> float:
        """Return the instant in the middle of one."""
        return (number + 0.5) * self.width


def accepted_per_second(record: Record, bins: Bins) -> list[float]:
    """Return how much was accepted in each bin, per second."""
    counts = Counter(bins.of(at) for at, _ in record.accepts)
    return [counts[number] / bins.width for number in range(bins.number)]


def completed_per_second(record: Record, bins: Bins) -> list[float]:
    """Return how much came to its end in each bin, per second, as far as it was known at its end."""
    known = [0] * bins.number
    for sample in record.samples:
        known[bins.of(sample.at)] = sample.completed
    rates, before = [], 0
    for now in known:
        rates.append(max(now - before, 0) / bins.width)
        before = max(now, before)
    return rates


def _frame(result: Result, bins: Bins, title: str, height: int = _HEIGHT) -> Frame:
    load_end = result.record.load_ended
    last = max((strike.until for strike in result.record.strikes), default=0.0)
    return Frame(
        title=title,
        seconds=bins.seconds,
        height=height,
        calm_from=min(max(result.schedule.calm_from, last), load_end),
        load_end=load_end,
    )


def _throughput(result: Result, bins: Bins) -> str:
    accepted, completed = accepted_per_second(result.record, bins), completed_per_second(result.record, bins)
    frame = _frame(result, bins, "Throughput")
    highest = round_up(max(*accepted, *completed, result.rate))

    def y(value: float) -> float:
        return frame.bottom - frame.height * value / highest

    def points(values: Sequence[float]) -> list[tuple[float, float] | None]:
        return [(frame.x(bins.middle(number)), y(value)) for number, value in enumerate(values)]

    rate = y(result.rate)
    content = [
        *_levels(frame, highest),
        path([(frame.x(0), rate), (frame.x(result.record.load_ended), rate)], "arrivals"),
        path(points(completed), "completed"),
        path(points(accepted), "accepted"),
    ]
    legend = [("line accepted", "accepted"), ("line completed", "completed"), ("line arrivals", "arrivals, on average")]
    return frame.drawn("per second", content, legend)


def _latency(result: Result, bins: Bins) -> str:
    frame = _frame(result, bins, "Until accepted")
    seconds: dict[int, list[float]] = defaultdict(list)
    for at, taken in result.record.accepts:
        seconds[bins.of(at)].append(taken)
    decades = math.log10(_LONGEST_SECONDS / _SHORTEST_SECONDS)

    def y(value: float) -> float:
        inside = min(max(value, _SHORTEST_SECONDS), _LONGEST_SECONDS)
        return frame.bottom - frame.height * math.log10(inside / _SHORTEST_SECONDS) / decades

    def points(share: float) -> list[tuple[float, float] | None]:
        return [
            (frame.x(bins.middle(number)), y(percentile(seconds[number], share))) if seconds[number] else None
            for number in range(bins.number)
        ]

    labels = {0.001: "1 ms", 0.01: "10 ms", 0.1: "100 ms", 1.0: "1 s", 10.0: "10 s", 100.0: "100 s"}
    content = [
        *(frame.level(y(value), label) for value, label in labels.items()),
        path(points(0.99), "p99"),
        path(points(0.5), "p50"),
    ]
    legend = [("line p50", "p50"), ("line p99", "p99, retries included; logarithmic")]
    return frame.drawn("", content, legend)


def _failures(result: Result, bins: Bins) -> str:
    frame = _frame(result, bins, "Failed attempts")
    kinds = list(result.record.kinds)
    place = {kind: min(number, _COLOURS - 1) for number, kind in enumerate(kinds)}
    counts = Counter((bins.of(at), place[kind]) for at, kind in result.record.failures)
    most = max((sum(counts[number, colour] for colour in range(_COLOURS)) for number in range(bins.number)), default=0)
    highest = round_up(most / bins.width)
    content = [*_levels(frame, highest)]
    if not kinds:
        content.append(words("none", LEFT + 8, frame.bottom - 8))
    for number in range(bins.number):
        base = float(frame.bottom)
        for colour in range(_COLOURS):
            if count := counts[number, colour]:
                height = frame.height * count / bins.width / highest
                base -= height
                left, right = frame.x(number * bins.width), frame.x((number + 1) * bins.width)
                width = max(right - left - 1, 1.0)
                content.append(
                    element("rect", x=left, y=base, width=width, height=height, class_=f"bar failure{colour}")
                )
    return frame.drawn("per second", content, [*_failure_legend(result, kinds)])


def _failure_legend(result: Result, kinds: Sequence[str]) -> Iterator[tuple[str, str]]:
    own = kinds if len(kinds) <= _COLOURS else kinds[: _COLOURS - 1]
    for colour, kind in enumerate(own):
        yield f"bar failure{colour}", f"{kind}: {result.record.kinds[kind]}"
    if others := kinds[len(own) :]:
        yield f"bar failure{_COLOURS - 1}", f"other: {sum(result.record.kinds[kind] for kind in others)}"


def _lanes(result: Result, bins: Bins) -> str:
    strikes = result.record.strikes
    names = lanes(strikes)
    frame = _frame(result, bins, "Faults", max(len(names), 1) * _LANE_HEIGHT)
    middle = {name: frame.top + (number + 0.5) * _LANE_HEIGHT for number, name in enumerate(names)}
    content = [frame.level(y, name) for name, y in middle.items()]
    content += [_strike(frame, middle[lane(strike.fault)], strike) for strike in sorted(strikes, key=_bars_first)]
    if not names:
        content.append(words("none", LEFT + 8, frame.top + _LANE_HEIGHT - 7))
    legend = [
        ("mark kill", "kill -9"),
        ("bar pause", "stands still"),
        ("bar own", "the system's own fault"),
        ("mark duplicate", "published again"),
        ("mark missed", "nobody hit"),
    ]
    return frame.drawn("", content, legend)


def lanes(strikes: Sequence[Strike]) -> list[str]:
    """Return what was hit, from top to bottom: processes, relays, the system's own faults, messages."""
    ranks = {Kill: 0, Pause: 0, KillRelay: 1, Own: 2, Duplicate: 3}
    return [name for _, name in sorted({(ranks[type(strike.fault)], lane(strike.fault)) for strike in strikes})]


def _bars_first(strike: Strike) -> tuple[bool, float]:
    return not isinstance(strike.fault, Pause | Own), strike.at


def _strike(frame: Frame, y: float, strike: Strike) -> str:
    title = element("title", escape(f"{clock(strike.at)}  {text(strike.fault)}; {strike.note or 'hit'}"))
    x = frame.x(strike.at)
    match strike:
        case Strike(hit=False):
            shape = mark("mark missed", x, y)
        case Strike(fault=Kill() | KillRelay()):
            shape = mark("mark kill", x, y)
        case Strike(fault=Duplicate()):
            shape = mark("mark duplicate", x, y)
        case Strike(fault=Pause()):
            shape = _bar(frame, y, strike, "bar pause")
        case _:
            shape = _bar(frame, y, strike, "bar own")
    return element("g", title, shape)


def _bar(frame: Frame, y: float, strike: Strike, class_: str) -> str:
    x = frame.x(strike.at)
    return element("rect", x=x, y=y - 5, width=max(frame.x(strike.until) - x, 2.0), height=10, class_=class_)


def _levels(frame: Frame, highest: float) -> Iterator[str]:
    """Yield four lines of a grid from nothing to the highest value."""
    for quarter in range(5):
        value = highest * quarter / 4
        yield frame.level(frame.bottom - frame.height * quarter / 4, f"{value:g}")
