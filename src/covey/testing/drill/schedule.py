"""The schedule of a drill: which fault, when, to whom. Pure: the same seed and the same system make the same one.

Victims are dealt from a shuffled deck rather than drawn, so that each has its turn: in a deck every replica of a
service lies twice, every engine and every other process once. Times are drawn freely, so faults overlap as they happen
to. What a deck may never come to in a short drill has its turn in every drill: a relay is killed, and the broker and
each process beside the services stand still. At the end there is a part without faults, in which everything can settle.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from covey.testing.drill.faults import Duplicate, Fault, Kill, KillRelay, Own, Pause

KILLS_A_MINUTE = 16
RELAY_KILLS_A_MINUTE = 1
PAUSES_A_MINUTE = 6
DUPLICATES_A_MINUTE = 3
OWN_A_MINUTE = 5

KILLS_APART_SECONDS = 5.0
"""A process that was killed is back after two or three seconds: to kill it earlier would hit nobody."""
SHORT_PAUSE_SECONDS = (0.3, 2.5)
LONG_PAUSE_SECONDS = (6.0, 8.5)
"""Longer than the lease of a role (5 s): another replica takes over, and the first wakes up in the middle of that."""
NEAR_SECONDS, FAR_SECONDS = 4.0, 30.0
"""How far back messages are duplicated: all within the broker's window of this drill, and most of them past it."""
WINDOW_SECONDS = 5.0
"""How long the broker recognizes a message during a drill. Two minutes otherwise: no drill would ever get past them."""


@dataclass(frozen=True, kw_only=True)
class OwnKind:
    """A fault that the system brings along, and how long it may last."""

    name: str
    shortest_seconds: float
    longest_seconds: float


@dataclass(frozen=True, kw_only=True)
class Targets:
    """What there is to break: the processes of each service, engines, other processes, and the system's own faults.

    `relays` are the services that have messages to relay. `broker` is which of the engines is it, if any is.
    """

    services: Mapping[str, Sequence[str]]
    relays: Sequence[str] = ()
    engines: Sequence[str] = ()
    broker: str | None = None
    processes: Sequence[str] = ()
    own: Sequence[OwnKind] = ()

    def deck(self) -> list[str]:
        """Return every process as often as it is to be hit while all others are hit once or twice."""
        replicas = [unit for units in self.services.values() for unit in units]
        return [*replicas, *replicas, *self.engines, *self.processes]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """All faults in the order of their time. From `calm_from` on there are none, and none lasts any more."""

    seed: int
    seconds: float
    calm_from: float
    faults: tuple[Fault, ...]

    @property
    def kills(self) -> int:
        """Return how many processes are to be killed."""
        return sum(isinstance(fault, Kill | KillRelay) for fault in self.faults)


def draw(seed: int, seconds: float, targets: Targets) -> Schedule:
    """Draw the schedule of a drill of so many seconds."""
    calm_from = seconds - min(30.0, max(0.15 * seconds, min(5.0, seconds / 2)))
    span = _Span(begin=min(3.0, 0.1 * calm_from), end=calm_from, minutes=seconds / 60)
    faults: list[Fault] = [
        *_kills(_chance(seed, "kills"), span, targets),
        *_relay_kills(_chance(seed, "kills of relays"), span, targets),
        *_pauses(_chance(seed, "pauses"), span, targets),
        *_duplicates(_chance(seed, "duplicates"), span, targets),
        *_own(_chance(seed, "own"), span, targets),
    ]
    return Schedule(seed=seed, seconds=seconds, calm_from=calm_from, faults=tuple(sorted(faults, key=lambda f: f.at)))


@dataclass(frozen=True, kw_only=True)
class _Span:
    """When faults may begin and must be over; `minutes` are those of the whole drill, to which the rates refer."""

    begin: float
    end: float
    minutes: float

    def instants(self, chance: random.Random, a_minute: float) -> list[float]:
        number = math.ceil(a_minute * self.minutes)
        return sorted(round(chance.uniform(self.begin, self.end), 2) for _ in range(number))


def _chance(seed: int, what: str) -> random.Random:
    """Return a source of chance for one kind of fault: to change one kind's rate leaves the others as they were."""
    return random.Random(f"{seed} {what}")


@dataclass
class _Deck:
    """Deals cards from a shuffled deck, and takes a new one when it is empty."""

    chance: random.Random
    cards: Sequence[str]
    _left: list[str] = field(default_factory=list)

    def deal(self, fits: Callable[[str], bool]) -> str | None:
        """Return the next card that fits; when none of this deck and the next does, None."""
        for _ in range(2):
            for place, card in enumerate(self._left):
                if fits(card):
                    return self._left.pop(place)
            new = list(self.cards)
            self.chance.shuffle(new)
            self._left += new
        return None


def _kills(chance: random.Random, span: _Span, targets: Targets) -> list[Kill]:
    """Where every process was killed just now, the one whose kill is longest ago is killed again."""
    deck, last = _Deck(chance, targets.deck()), dict.fromkeys(targets.deck(), -math.inf)
    kills = []
    for at in span.instants(chance, KILLS_A_MINUTE) if last else []:
        unit = deck.deal(lambda unit: at - last[unit] >= KILLS_APART_SECONDS)  # noqa: B023 - asked at once
        unit = unit or min(last, key=lambda unit: last[unit])
        last[unit] = at
        kills.append(Kill(at=at, unit=unit))
    return kills


def _relay_kills(chance: random.Random, span: _Span, targets: Targets) -> list[KillRelay]:
    deck = _Deck(chance, targets.relays)
    instants = span.instants(chance, RELAY_KILLS_A_MINUTE) if targets.relays else []
    return [KillRelay(at=at, service=deck.deal(lambda _: True) or "") for at in instants]


def _pauses(chance: random.Random, span: _Span, targets: Targets) -> list[Pause]:
    """Short and long in turn. One that would not be over in time, or meets another of its process, is left out."""
    pauses = _certain_pauses(chance, span, targets)

    def is_free(unit: str, at: float, seconds: float) -> bool:
        own = [pause for pause in pauses if pause.unit == unit]
        return all(at + seconds < pause.at or at > pause.at + pause.seconds for pause in own)

    deck = _Deck(chance, targets.deck())
    for number, at in enumerate(span.instants(chance, PAUSES_A_MINUTE)):
        seconds = round(chance.uniform(*(LONG_PAUSE_SECONDS if number % 2 else SHORT_PAUSE_SECONDS)), 2)
        unit = deck.deal(lambda unit: is_free(unit, at, seconds))  # noqa: B023 - asked at once
        if unit is not None and at + seconds <= span.end:
            pauses.append(Pause(at=at, unit=unit, seconds=seconds))
    return pauses


def _certain_pauses(chance: random.Random, span: _Span, targets: Targets) -> list[Pause]:
    """The broker's delays every message there is; it is a long one, where there is room for others beside it."""
    pauses = []
    for unit in [*([targets.broker] if targets.broker else []), *targets.processes]:
        has_room = unit == targets.broker and span.end - span.begin > 3 * LONG_PAUSE_SECONDS[1]
        seconds = round(chance.uniform(*(LONG_PAUSE_SECONDS if has_room else SHORT_PAUSE_SECONDS)), 2)
        seconds = min(seconds, round(0.8 * (span.end - span.begin), 2))
        at = round(chance.uniform(span.begin, span.end - seconds - 0.02), 2)
        pauses.append(Pause(at=at, unit=unit, seconds=seconds))
    return pauses


def _duplicates(chance: random.Random, span: _Span, targets: Targets) -> list[Duplicate]:
    deck = _Deck(chance, targets.relays)
    found = []
    for number, at in enumerate(span.instants(chance, DUPLICATES_A_MINUTE)):
        service = deck.deal(lambda _: True)
        if service is not None:
            found.append(Duplicate(at=at, service=service, reach_seconds=NEAR_SECONDS if number % 2 else FAR_SECONDS))
    return found


def _own(chance: random.Random, span: _Span, targets: Targets) -> list[Own]:
    """One after the other, never two at a time: they may be settings of one and the same thing."""
    kinds = {kind.name: kind for kind in targets.own}
    deck = _Deck(chance, list(kinds))
    number = math.ceil(OWN_A_MINUTE * span.minutes) if kinds else 0
    room = (span.end - span.begin) / max(number, 1)
    found = []
    for place in range(number):
        kind = kinds[deck.deal(lambda _: True) or ""]
        seconds = round(min(chance.uniform(kind.shortest_seconds, kind.longest_seconds), 0.8 * room), 2)
        at = span.begin + place * room + chance.uniform(0, room - seconds - 0.02)
        found.append(Own(at=round(at, 2), name=kind.name, seconds=seconds))
    return found
