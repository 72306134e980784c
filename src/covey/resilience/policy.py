"""How another service is called: deadline › retry › circuit breaker › bulkhead › timeout, in this order, here alone.

The deadline is of the whole call, and shrinks along the chain: what is left of the caller's own bounds it. Each
attempt enters the breaker, then takes a place in the bulkhead, then has its own timeout within the deadline. So what
waits for a place counts against no target, a breaker that is open costs no place, and no retry begins that could not
end in time.

What an attempt raises decides. `Unavailable` is a failure of the target; it is tried again if the call is repeatable,
the budget has a retry left and time remains, not before the target's `retry_after`. What is the caller's fault, or
ours, says nothing of the target and is raised as it is; so does a cancellation, and an attempt that ended early because
the deadline was nearer than the timeout.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

from covey.clock import Clock
from covey.context import active
from covey.errors import DeadlineExceeded, DependencyUnavailable, Unavailable
from covey.resilience.bulkhead import Bulkhead, BulkheadFull, BulkheadOptions
from covey.resilience.circuit_breaker import BreakerOptions, CircuitBreaker, CircuitOpen
from covey.resilience.retry import RetryBudget, RetryOptions

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class PolicyOptions:
    """`deadline` bounds a whole call, `timeout` each attempt of it."""

    deadline: timedelta = timedelta(seconds=5)
    timeout: timedelta = timedelta(seconds=2)
    retry: RetryOptions = field(default_factory=RetryOptions)
    breaker: BreakerOptions = field(default_factory=BreakerOptions)
    bulkhead: BulkheadOptions = field(default_factory=BulkheadOptions)


class Policy:
    """One for each target, shared by all who call it."""

    def __init__(
        self, target: str, options: PolicyOptions, clock: Clock, chance: Callable[[], float] = random.random
    ) -> None:
        self.target = target
        self.breaker = CircuitBreaker(target, options.breaker, clock)
        self.bulkhead = Bulkhead(target, options.bulkhead)
        self.budget = RetryBudget(options.retry)
        self._retry = options.retry
        self._deadline_seconds = options.deadline.total_seconds()
        self._timeout_seconds = options.timeout.total_seconds()
        self._clock = clock
        self._chance = chance

    async def call(self, attempt: Callable[[float], Awaitable[T]], *, repeatable: bool) -> T:
        """Have `attempt` made, and again if need be, and return what it gives. It is told how many seconds it has.

        `repeatable` says that an attempt which may have had its effect can be made again. Raises what the last attempt
        raised; CircuitOpen and BulkheadFull, DeadlineExceeded.
        """
        until = self._clock.monotonic() + self._seconds()
        self.budget.pay_in()
        number = 1
        while True:
            try:
                return await self._once(attempt, until)
            except Unavailable as error:
                pause = self._pause(number, error, until, repeatable)
                if pause is None:
                    raise
            await self._clock.sleep(pause)
            number += 1

    def _seconds(self) -> float:
        """Return how long the whole call may take: no longer than who waits for it."""
        context = active()
        if context is None or context.deadline is None:
            return self._deadline_seconds
        return min(self._deadline_seconds, (context.deadline - self._clock.now()).total_seconds())

    async def _once(self, attempt: Callable[[float], Awaitable[T]], until: float) -> T:
        entered = self.breaker.enter()
        outcome = self.breaker.ignored
        try:
            turn = self.bulkhead.take()
            if turn is not None:
                await self._wait(turn, until)
            try:
                seconds = until - self._clock.monotonic()
                if seconds <= 0:
                    raise DeadlineExceeded(f"the time for asking {self.target} was over before it was asked")
                hurried = seconds < self._timeout_seconds
                try:
                    result = await self._limited(attempt, seconds if hurried else self._timeout_seconds)
                except TimeoutError as error:
                    if hurried:
                        raise DeadlineExceeded(f"{self.target} did not answer in the time that was left") from error
                    outcome = self.breaker.failed
                    raise DependencyUnavailable(
                        f"{self.target} did not answer within {self._timeout_seconds:g} s"
                    ) from error
                except Unavailable:
                    outcome = self.breaker.failed
                    raise
                outcome = self.breaker.succeeded
                return result
            finally:
                self.bulkhead.give_back()
        finally:
            outcome(entered)

    async def _limited(self, attempt: Callable[[float], Awaitable[T]], seconds: float) -> T:
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                return await attempt(seconds)
        except TimeoutError as error:
            if limit.expired():
                raise
            raise DependencyUnavailable(f"{self.target}: {error or 'a timeout of its client'}") from error

    async def _wait(self, turn: asyncio.Future[None], until: float) -> None:
        try:
            async with asyncio.timeout(until - self._clock.monotonic()):
                await self.bulkhead.wait(turn)
        except TimeoutError:
            raise BulkheadFull(f"no place for a call to {self.target} became free in time") from None

    def _pause(self, number: int, error: Unavailable, until: float, repeatable: bool) -> float | None:
        """Return how long to wait before the next attempt; None: there is none."""
        if isinstance(error, CircuitOpen | BulkheadFull | DeadlineExceeded) or not repeatable:
            return None
        if number >= self._retry.attempts:
            return None
        pause = self._retry.pause_seconds(number, self._chance)
        if error.retry_after is not None:
            pause += error.retry_after.total_seconds()
        if self._clock.monotonic() + pause >= until or not self.budget.take_out():
            return None
        return pause
