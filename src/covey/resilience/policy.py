"""How another service is called: deadline › retry › circuit breaker › bulkhead › timeout, in this order, here alone.

The deadline is of the whole call, and shrinks along the chain: what is left of the caller's own bounds it. Each
attempt enters the breaker, then takes a place in the bulkhead, then has its own timeout within the deadline. So what
waits for a place counts against no target, a breaker that is open costs no place, and no retry begins that could not
end in time.

What an attempt raises decides. `Unavailable` is a failure of the target; it is tried again if the call is repeatable,
the budget has a retry left and time remains, not before the target's `retry_after`. `Rejected`, `NotOffered` and
`TriedAlready` are answers: whoever refuses a request, does not know it, or says that others do not answer it, is
there, which to the breaker is a success. Neither is tried again: in a chain of services only the last one retries, or
each would multiply what the others add. All else says nothing of the target: a mistake before it was asked, a
cancellation, an attempt that had much less time than the timeout because a deadline was near, a connection that had
been closed before it was asked (`NeverHeard`).

A call that succeeds makes no timer: its time is an entry in `TimeLimits`, and ends up to 10 ms late.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal, TypeVar, get_args

from covey.clock import Clock
from covey.context import active
from covey.errors import DeadlineExceeded, Defect, DependencyTooSlow, DependencyUnavailable, Rejected, Unavailable
from covey.resilience.bulkhead import Bulkhead, BulkheadFull, BulkheadOptions
from covey.resilience.circuit_breaker import BreakerOptions, CircuitBreaker, CircuitOpen
from covey.resilience.retry import RetryBudget, RetryOptions
from covey.resilience.time_limit import TimeLimits

T = TypeVar("T")

Outcome = Literal[
    "succeeded",
    "rejected",
    "failed",
    "too_slow",
    "tried_already",
    "deadline_exceeded",
    "circuit_open",
    "bulkhead_full",
    "other",
]
"""How an attempt ended. `other` says nothing of the target: a mistake of ours, a cancellation."""


class TriedAlready(DependencyUnavailable):
    """Whom the target asks in turn did not answer it, and it has tried again: nobody else should."""


class NotOffered(Defect):
    """The target answered that it does not have what it was asked for, or has it elsewhere: asking so is a mistake."""


class NeverHeard(DependencyUnavailable):
    """A connection that had rested was closed, most likely before the request came; nobody can be certain of that."""


@dataclass(frozen=True, kw_only=True)
class PolicyOptions:
    """`deadline` bounds a whole call, `timeout` each attempt of it."""

    deadline: timedelta = timedelta(seconds=5)
    timeout: timedelta = timedelta(seconds=2)
    retry: RetryOptions = field(default_factory=RetryOptions)
    breaker: BreakerOptions = field(default_factory=BreakerOptions)
    bulkhead: BulkheadOptions = field(default_factory=BulkheadOptions)


class Policy:
    """One for each target, shared by all who call it. `outcomes` counts attempts, `retries` those after the first."""

    def __init__(
        self, target: str, options: PolicyOptions, clock: Clock, chance: Callable[[], float] = random.random
    ) -> None:
        self.target = target
        self.breaker = CircuitBreaker(target, options.breaker, clock, self._changed)
        self.bulkhead = Bulkhead(target, options.bulkhead)
        self.budget = RetryBudget(options.retry)
        self.outcomes: dict[Outcome, int] = dict.fromkeys(_OUTCOMES, 0)
        self.retries = 0
        self.opened = 0
        self._limits = TimeLimits()
        self._retry = options.retry
        self._deadline_seconds = options.deadline.total_seconds()
        self._timeout_seconds = min(options.timeout, options.deadline).total_seconds()
        self._fair_seconds = _FAIR * self._timeout_seconds
        self._clock = clock
        self._monotonic = clock.monotonic
        self._now = clock.now
        self._chance = chance

    async def call(self, attempt: Callable[[float], Awaitable[T]], *, repeatable: bool) -> T:
        """Have `attempt` made, and again if need be, and return what it gives. It is told how many seconds it has.

        `repeatable` says that an attempt which may have had its effect can be made again. Raises what the last attempt
        raised; CircuitOpen and BulkheadFull, DeadlineExceeded.
        """
        until = self._monotonic() + self._seconds()
        number = 1
        while True:
            try:
                return await self._once(attempt, until, number)
            except Unavailable as error:
                pause = self._pause(number, error, until, repeatable)
                if pause is None:
                    raise
            await self._clock.sleep(pause)
            number += 1

    def take_retry(self) -> bool:
        """Take a retry that an attempt makes by itself from the budget; False when there is none left."""
        taken = self.budget.take_out()
        self.retries += taken
        return taken

    def _seconds(self) -> float:
        """Return how long the whole call may take: no longer than who waits for it."""
        context = active()
        if context is None or context.deadline is None:
            return self._deadline_seconds
        left = (context.deadline - self._now()).total_seconds()
        return left if left < self._deadline_seconds else self._deadline_seconds

    async def _once(self, attempt: Callable[[float], Awaitable[T]], until: float, number: int) -> T:
        """Make one attempt. The breaker is told how it went, and the place given back, however it ends.

        The first pays into the budget once the target is asked: what is refused here is no load to it.
        """
        try:
            entered = self.breaker.enter()
        except CircuitOpen:
            self.outcomes["circuit_open"] += 1
            raise
        tell = self.breaker.ignored
        outcome: Outcome = "other"
        try:
            turn = self.bulkhead.take()
            if turn is not None:
                await self._wait(turn, until)
            try:
                seconds = until - self._monotonic()
                hurried = seconds < self._fair_seconds
                if seconds > self._timeout_seconds:
                    seconds = self._timeout_seconds
                elif seconds <= 0:
                    raise DeadlineExceeded(f"the time for asking {self.target} was over before it was asked")
                if number == 1:
                    self.budget.pay_in()
                limit = self._limits.begin(seconds)
                try:
                    result = await attempt(seconds)
                except BaseException as error:
                    raised = self._meant(error, limit.end(), hurried)
                    if isinstance(raised, _ANSWERS):
                        tell, outcome = self.breaker.succeeded, "rejected"
                    elif self._is_failure(raised, hurried):
                        tell = self.breaker.failed
                    if raised is error:
                        raise
                    raise raised from error
                limit.end()
                tell, outcome = self.breaker.succeeded, "succeeded"
                return result
            finally:
                self.bulkhead.give_back()
        except Unavailable as error:
            outcome = _outcome_of(error)
            raise
        finally:
            self.outcomes[outcome] += 1
            tell(entered)

    def _meant(self, error: BaseException, is_over: bool, hurried: bool) -> BaseException:
        """Return what an attempt is to raise that ended with this error; `is_over`: because its time was."""
        if is_over and isinstance(error, asyncio.CancelledError):
            if hurried:
                return DeadlineExceeded(f"{self.target} did not answer in the time that was left")
            return DependencyTooSlow(f"{self.target} did not answer within {self._timeout_seconds:g} s")
        if isinstance(error, TimeoutError):
            return DependencyUnavailable(f"{self.target}: {error or 'a timeout of its client'}")
        return error

    def _is_failure(self, error: BaseException, hurried: bool) -> bool:
        """Tell whether what is no answer is a failure of the target: not if it was not heard or had too little time."""
        if isinstance(error, DeadlineExceeded):
            return not hurried
        return isinstance(error, Unavailable) and not isinstance(error, NeverHeard)

    async def _wait(self, turn: asyncio.Future[None], until: float) -> None:
        try:
            async with asyncio.timeout(until - self._monotonic()):
                await self.bulkhead.wait(turn)
        except TimeoutError:
            raise BulkheadFull(f"no place for a call to {self.target} became free in time") from None

    def _pause(self, number: int, error: Unavailable, until: float, repeatable: bool) -> float | None:
        """Return how long to wait before the next attempt; None: there is none."""
        if isinstance(error, _FINAL) or not repeatable or number >= self._retry.attempts:
            return None
        pause = self._retry.pause_seconds(number, self._chance)
        if error.retry_after is not None:
            pause += error.retry_after.total_seconds()
        if self._monotonic() + pause >= until or not self.take_retry():
            return None
        return pause

    def _changed(self, name: str) -> None:
        self.opened += name == "open"


_FAIR = 0.9
"""An attempt that has had this share of the timeout has had its time: a pause of our own process excuses no target."""

_FINAL = (CircuitOpen, BulkheadFull, DeadlineExceeded, TriedAlready)

_ANSWERS = (Rejected, NotOffered, TriedAlready)

_OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)

_BY_ERROR: dict[type[Unavailable], Outcome] = {
    CircuitOpen: "circuit_open",
    BulkheadFull: "bulkhead_full",
    DeadlineExceeded: "deadline_exceeded",
    DependencyTooSlow: "too_slow",
    TriedAlready: "tried_already",
    Unavailable: "failed",
}


def _outcome_of(error: Unavailable) -> Outcome:
    return next(_BY_ERROR[kind] for kind in type(error).__mro__ if kind in _BY_ERROR)
