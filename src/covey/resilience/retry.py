"""Retries: of what is safe, with full jitter, and no more than a share of all calls.

Backoff with full jitter: Marc Brooker, "Exponential Backoff And Jitter" (AWS, 2015). The budget: Google SRE, *Site
Reliability Engineering*, chapter 22; each call pays a part of a retry in, each retry takes a whole one out. So when a
target is down, retries add at most that share to its load, however many clients there are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from covey.errors import DefinitionError


@dataclass(frozen=True, kw_only=True)
class RetryOptions:
    """`attempts` in all; a pause before each further one, drawn from 0 to `base`, then twice that, up to `cap`.

    `share` of all calls may be retries; `reserve` retries are in the budget from the start, and it holds no more.
    """

    attempts: int = 3
    base: timedelta = timedelta(milliseconds=50)
    cap: timedelta = timedelta(seconds=1)
    share: float = 0.1
    reserve: int = 10

    def __post_init__(self) -> None:
        counts_fit = self.attempts >= 1 and self.reserve >= 0 and 0 <= self.share <= 1
        if not counts_fit or not timedelta() < self.base <= self.cap:
            raise DefinitionError(f"retries cannot be like this: {self}")

    def pause_seconds(self, number: int, chance: Callable[[], float]) -> float:
        """Return the pause before the attempt that comes after attempt `number`. `chance` draws from 0 to 1."""
        longest = min(self.cap.total_seconds(), self.base.total_seconds() * 2.0 ** min(number - 1, 30))
        return chance() * longest


class RetryBudget:
    """What retries of one target may still be spent."""

    __slots__ = ("_reserve", "_share", "left")

    def __init__(self, options: RetryOptions) -> None:
        self._share = options.share
        self._reserve = float(options.reserve)
        self.left = self._reserve

    def pay_in(self) -> None:
        """Note a first attempt."""
        left = self.left + self._share
        self.left = left if left < self._reserve else self._reserve

    def take_out(self) -> bool:
        """Take a retry; False when there is none left."""
        if self.left < 1:
            return False
        self.left -= 1
        return True
