"""Load shedding, played through event by event: a route that is limited by what it needs, under any load."""

from __future__ import annotations

import heapq
import random
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import pytest

from covey.errors import DefinitionError
from covey.resilience.load_shedding import LoadShedder, Overloaded, Priority, SheddingOptions
from covey.testing.clock import FakeClock

SERVERS, TAKES = 16, 0.05
CAPACITY = SERVERS / TAKES


class Hand(FakeClock):
    """A clock that is set by hand."""

    at = 0.0

    def monotonic(self) -> float:
        return self.at


@dataclass
class Played:
    """What has become of the requests, by their priority, and how long those that were done have taken."""

    offered: Counter[Priority] = field(default_factory=Counter)
    done: Counter[Priority] = field(default_factory=Counter)
    took: list[float] = field(default_factory=list)


class Play:
    """A dependency that does 16 things at a time, each in 50 ms, behind a load shedder; what waits, waits in turn."""

    def __init__(self, options: SheddingOptions | None = None, takes: Callable[[], float] = lambda: TAKES) -> None:
        self.clock = Hand()
        self.chance = random.Random(7)
        self.takes = takes
        self.shedder = LoadShedder(options or SheddingOptions(), self.clock, self.chance.uniform)
        self._busy: list[tuple[float, int, float, Priority]] = []
        self._waiting: deque[tuple[float, Priority]] = deque()
        self._number = 0

    def run(self, seconds: float, rates: dict[Priority, float]) -> Played:
        """Offer so many requests a second of each priority, whatever becomes of them."""
        played, total = Played(), sum(rates.values())
        ends = self.clock.monotonic() + seconds
        arrives = self.clock.monotonic() + self.chance.expovariate(total)
        while arrives < ends or self._busy:
            if self._busy and self._busy[0][0] <= arrives:
                self._finish(played)
                continue
            if arrives >= ends:
                break
            self._advance(arrives)
            level = self.chance.choices(list(rates), list(rates.values()))[0]
            self._arrive(level, played)
            arrives += self.chance.expovariate(total)
        self._advance(ends)
        return played

    def _arrive(self, level: Priority, played: Played) -> None:
        played.offered[level] += 1
        try:
            begun = self.shedder.enter(level)
        except Overloaded as refused:
            assert refused.retry_after is not None and 1 <= refused.retry_after.total_seconds() <= 3
            return
        if len(self._busy) < SERVERS:
            self._begin(begun, level)
        else:
            self._waiting.append((begun, level))

    def _begin(self, begun: float, level: Priority) -> None:
        self._number += 1
        heapq.heappush(self._busy, (self.clock.monotonic() + self.takes(), self._number, begun, level))

    def _finish(self, played: Played) -> None:
        at, _, begun, level = heapq.heappop(self._busy)
        self._advance(at)
        self.shedder.leave(begun, "/orders", done=True)
        played.done[level] += 1
        played.took.append(at - begun)
        if self._waiting:
            self._begin(*self._waiting.popleft())

    def _advance(self, to: float) -> None:
        self.clock.at = max(to, self.clock.at)


MIXED = {Priority.CRITICAL: 0.03, Priority.NORMAL: 0.47, Priority.LOW: 0.5}


def at(rate: float) -> dict[Priority, float]:
    return {level: share * rate for level, share in MIXED.items()}


def test_under_ten_times_its_capacity_it_does_all_that_it_can_and_the_important_first() -> None:
    play = Play()
    play.run(5, at(0.5 * CAPACITY))

    first, played = play.run(2, at(10 * CAPACITY)), play.run(28, at(10 * CAPACITY))

    assert sum(played.done.values()) >= 0.9 * 28 * CAPACITY
    assert sum(first.done.values()) >= 0.9 * 2 * CAPACITY
    assert played.done[Priority.CRITICAL] >= 0.99 * played.offered[Priority.CRITICAL]
    assert played.done[Priority.LOW] < 0.2 * played.offered[Priority.LOW]
    assert sorted(played.took)[int(0.99 * len(played.took))] < 5 * TAKES


def test_it_holds_also_when_it_begins_under_overload() -> None:
    play = Play()
    play.run(5, at(10 * CAPACITY))

    played = play.run(10, at(10 * CAPACITY))

    assert sum(played.done.values()) >= 0.9 * 10 * CAPACITY
    assert sorted(played.took)[int(0.99 * len(played.took))] < 6 * TAKES


def test_soon_after_nothing_is_refused_any_more() -> None:
    play = Play()
    play.run(20, at(10 * CAPACITY))
    play.run(2, at(0.5 * CAPACITY))

    before = dict(play.shedder.shed)

    play.run(5, at(0.5 * CAPACITY))

    assert play.shedder.shed == before


@pytest.mark.parametrize("load", [0.1, 0.5, 0.8])
def test_below_its_capacity_nothing_is_refused(load: float) -> None:
    play = Play()

    played = play.run(30, at(load * CAPACITY))

    assert sum(played.offered.values()) - sum(played.done.values()) <= SERVERS * 2  # still under way at the end
    assert play.shedder.shed == dict.fromkeys(Priority, 0)


def test_work_that_takes_very_different_times_is_not_taken_for_a_queue() -> None:
    play = Play()
    play.takes = lambda: play.chance.choice([0.001, 0.099])

    play.run(30, at(0.6 * CAPACITY))

    assert play.shedder.shed == dict.fromkeys(Priority, 0)


def test_a_dependency_that_has_become_slower_for_good_is_used_to_the_full_again() -> None:
    play = Play()
    play.run(5, at(0.5 * CAPACITY))
    play.takes = lambda: 4 * TAKES
    play.run(60, at(5 * CAPACITY))

    played = play.run(20, at(5 * CAPACITY))

    assert sum(played.done.values()) >= 0.9 * 20 * CAPACITY / 4


def test_a_queue_that_stands_for_long_is_not_taken_for_normal() -> None:
    play = Play()
    play.run(5, at(0.5 * CAPACITY))
    play.run(300, at(3 * CAPACITY))

    played = play.run(10, at(3 * CAPACITY))

    assert sorted(played.took)[len(played.took) // 2] < 4 * TAKES


def test_what_failed_says_nothing_of_how_long_work_takes() -> None:
    clock = Hand()
    shedder = LoadShedder(SheddingOptions(initial=20), clock)
    for _ in range(1_000):
        begun = shedder.enter(Priority.NORMAL)
        clock.at += 0.0001
        shedder.leave(begun, "/orders", done=False)
    for _ in range(100):
        begun = shedder.enter(Priority.NORMAL)
        clock.at += 1
        shedder.leave(begun, "/orders", done=True)

    assert shedder.limit == 20
    assert shedder.under_way == 0


def test_important_work_may_go_past_the_limit_and_unimportant_not_up_to_it() -> None:
    shedder = LoadShedder(SheddingOptions(initial=20), FakeClock())

    admitted: Counter[Priority] = Counter()
    for level in (Priority.LOW, Priority.NORMAL, Priority.CRITICAL):
        for _ in range(50):
            try:
                shedder.enter(level)
            except Overloaded:
                break
            admitted[level] += 1

    assert admitted == {Priority.LOW: 15, Priority.NORMAL: 5, Priority.CRITICAL: 20}
    assert shedder.shed == dict.fromkeys(Priority, 1)


class Frozen:
    """Sixty that never end, and a limit that has fallen below them since what takes 10 ms has taken 200 ms."""

    def __init__(self) -> None:
        self.clock = Hand()
        self.shedder = LoadShedder(SheddingOptions(), self.clock)
        self.stuck = [self.shedder.enter(Priority.NORMAL) for _ in range(60)]
        for _ in range(100):
            self.do(0.01)
        with suppress(Overloaded):
            while True:
                self.do(0.2)

    def do(self, seconds: float) -> None:
        """Do something that takes so long. Raises Overloaded."""
        begun = self.shedder.enter(Priority.NORMAL)
        self.clock.at += seconds
        self.shedder.leave(begun, "/orders", done=True)

    def let_in(self, seconds: float, level: Priority = Priority.NORMAL) -> list[float]:
        """Ask for so long, twenty times a second, twice at once; return when each began that was let in."""
        began, ends = [], self.clock.at + seconds
        while self.clock.at < ends:
            self.clock.at += 0.05
            for _ in range(2):
                with suppress(Overloaded):
                    began.append(self.shedder.enter(level))
        return began


def test_a_limit_below_what_is_stuck_is_found_again_by_one_that_is_let_in() -> None:
    frozen = Frozen()
    frozen.clock.at += 3600

    begun = frozen.shedder.enter(Priority.NORMAL)
    with pytest.raises(Overloaded):
        frozen.shedder.enter(Priority.NORMAL)
    frozen.shedder.leave(begun, "/orders", done=True)
    asked = 0
    while frozen.shedder.limit <= 60:
        frozen.clock.at += 1
        frozen.do(0.01)
        asked += 1

    assert asked <= 5
    for _ in range(1_000):
        frozen.do(0.01)
    assert frozen.shedder.limit > 60


@pytest.mark.parametrize("level", Priority)
def test_whatever_its_importance_one_a_second_is_let_in_while_nothing_is_measured(level: Priority) -> None:
    frozen = Frozen()
    with suppress(Overloaded):
        while True:
            frozen.shedder.enter(Priority.CRITICAL)

    for _ in range(10):
        began = frozen.let_in(1.01, level)
        assert len(began) == 1
        frozen.shedder.leave(began[0], "/orders", done=False)  # cancelled: nothing is measured


def test_while_something_is_measured_nothing_goes_past_the_limit() -> None:
    frozen = Frozen()
    begun = [frozen.shedder.enter(Priority.CRITICAL) for _ in range(30)]

    for one in begun:
        frozen.clock.at += 0.9
        frozen.shedder.leave(one, "/orders", done=True)
        with pytest.raises(Overloaded):
            frozen.shedder.enter(Priority.NORMAL)


def test_where_those_that_are_let_in_are_stuck_too_they_become_few() -> None:
    frozen = Frozen()

    minute, hour = len(frozen.let_in(60)), len(frozen.let_in(3600))

    assert 5 <= minute <= 15
    assert 50 <= hour <= 100


def test_what_is_really_slow_is_not_filled_by_those_that_are_let_in() -> None:
    """One a second would be twice as much as it can do, and nothing else would stop them."""
    play = Play(takes=lambda: 30)
    play.run(300, at(0.5 * SERVERS / 30))

    played = play.run(3600, at(4))

    assert play.shedder.under_way <= 200
    assert sum(played.done.values()) >= 0.9 * 3600 * SERVERS / 30


def test_limits_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(DefinitionError):
        SheddingOptions(initial=10, least=20)
