"""A circuit breaker: whoever has failed too often of late is left alone for a while.

Michael Nygard, *Release It!*, 2nd edition, chapter 5. What opens it is the share of failures among the calls of a
window, and only when there were enough of them: five failures among thousands of successes are noise. After a rest a
few probes are let through, never more at a time than are needed to close it again.

A call belongs to the state that let it through: its outcome counts there or nowhere. So an answer that took its time
neither closes a breaker that has opened since, nor opens one that has closed. Outcomes are three: success, which is any
answer of one who is there, also that a request is refused; failure; and what says nothing of whom was asked (a mistake
made before anybody was asked, a cancellation), which counts neither way: a probe that ends so gives its place back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, TypeVar

from covey.clock import Clock
from covey.errors import DefinitionError, Unavailable

S = TypeVar("S", bound="State")
Name = Literal["closed", "open", "half-open"]

_SLICES = 10


class CircuitOpen(Unavailable):
    """Nobody was asked, because too many who were asked of late got no answer."""


@dataclass(frozen=True, kw_only=True)
class BreakerOptions:
    """It opens when at least `minimum` calls of the last `window` have ended and `failure_rate` of them failed.

    It stays open for `rest`; then `probes` calls must succeed to close it, and one that fails opens it again. The
    window moves in ten steps.
    """

    failure_rate: float = 0.5
    minimum: int = 20
    window: timedelta = timedelta(seconds=10)
    rest: timedelta = timedelta(seconds=5)
    probes: int = 3

    def __post_init__(self) -> None:
        counts, spans = (self.minimum, self.probes), (self.window, self.rest)
        if not 0 < self.failure_rate <= 1 or min(counts) < 1 or min(spans) <= timedelta():
            raise DefinitionError(f"a circuit breaker cannot be like this: {self}")


class Closed:
    """Calls pass, and their outcomes are counted by slices of the window."""

    name: Name = "closed"
    __slots__ = ("_ends", "_failed", "_now", "_slice", "_slices", "_succeeded", "_width", "failures", "successes")

    def __init__(self, options: BreakerOptions, now: Callable[[], float]) -> None:
        self._now = now
        self._width = options.window.total_seconds() / _SLICES
        self._slice = int(now() / self._width)
        self._ends = (self._slice + 1) * self._width
        self._succeeded = self._failed = 0  # in the present slice
        self._slices: deque[tuple[int, int, int]] = deque()  # those before it: number, successes, failures
        self.successes = self.failures = 0

    def count_success(self) -> None:
        """Count one, and forget those that have left the window."""
        if self._now() >= self._ends:
            self._turn()
        self._succeeded += 1
        self.successes += 1

    def count_failure(self) -> None:
        """Count one, and forget those that have left the window."""
        if self._now() >= self._ends:
            self._turn()
        self._failed += 1
        self.failures += 1

    def _turn(self) -> None:
        number = int(self._now() / self._width)
        self._ends = (number + 1) * self._width
        self._slices.append((self._slice, self._succeeded, self._failed))
        self._slice, self._succeeded, self._failed = number, 0, 0
        while self._slices and self._slices[0][0] <= number - _SLICES:
            _, succeeded, failed = self._slices.popleft()
            self.successes -= succeeded
            self.failures -= failed


@dataclass(slots=True, eq=False)
class Open:
    """No call passes until then, by the monotonic clock."""

    until: float
    name: Name = "open"


@dataclass(slots=True, eq=False)
class HalfOpen:
    """A few probes pass."""

    under_way: int = 0
    successes: int = 0
    name: Name = "half-open"


State = Closed | Open | HalfOpen


class CircuitBreaker:
    """One for each target. Whoever enters must say how it went, once: `succeeded`, `failed` or `ignored`.

    `on_change` is told of each change of state, and must not fail.
    """

    def __init__(
        self, target: str, options: BreakerOptions, clock: Clock, on_change: Callable[[Name], None] = lambda name: None
    ) -> None:
        self.target = target
        self._options = options
        self._now = clock.monotonic
        self._on_change = on_change
        self._state: State = Closed(options, self._now)

    @property
    def state(self) -> Name:
        """Return the state's name. An open one that has rested is half open from the next call on."""
        return self._state.name

    def enter(self) -> State:
        """Let a call through and return what it belongs to, to be given back with its outcome. Raises CircuitOpen."""
        state = self._state
        if isinstance(state, Closed):
            return state
        if isinstance(state, Open):
            left = state.until - self._now()
            if left > 0:
                raise self._refusal(left)
            state = self._become(HalfOpen())
        if state.under_way + state.successes >= self._options.probes:
            raise self._refusal(0.0)
        state.under_way += 1
        return state

    def succeeded(self, entered: State) -> None:
        """Say that a call had an answer, if only that it is refused."""
        if isinstance(entered, Closed):
            entered.count_success()  # one that has been left since is nobody's any more
        elif isinstance(entered, HalfOpen):
            entered.under_way -= 1
            entered.successes += 1
            if entered is self._state and entered.successes >= self._options.probes:
                self._become(Closed(self._options, self._now))

    def failed(self, entered: State) -> None:
        """Say that a call had no answer, or one that says the target is in trouble."""
        if isinstance(entered, Closed):
            entered.count_failure()
            total = entered.successes + entered.failures
            if total < self._options.minimum or entered.failures < self._options.failure_rate * total:
                return
        elif isinstance(entered, HalfOpen):
            entered.under_way -= 1
        if entered is self._state:
            self._become(Open(self._now() + self._options.rest.total_seconds()))

    def ignored(self, entered: State) -> None:
        """Say that a call ended in a way that says nothing of its target."""
        if isinstance(entered, HalfOpen):
            entered.under_way -= 1

    def _refusal(self, left: float) -> CircuitOpen:
        after = timedelta(seconds=left) if left else self._options.rest
        return CircuitOpen(f"{self.target} has failed too often of late and is left alone for now", after)

    def _become(self, state: S) -> S:
        self._state = state
        self._on_change(state.name)
        return state
