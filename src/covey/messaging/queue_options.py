"""How a queue is worked off."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, kw_only=True)
class QueueOptions:
    """How much at once, and how patiently.

    `at_once`: so many jobs at the same time in each process. `timeout` bounds one attempt, `max_attempts` how many
    there are, also of those in which the worker died; a job that was left by two workers is done alone. `lease`: a
    worker that has said nothing for so long has lost its jobs to others; it says three times as often that it is there.
    `most`: so many jobs may be there, dead ones too; who adds one more is refused. `poll`: a worker looks by itself at
    least so often.
    """

    at_once: int = 4
    timeout: timedelta = timedelta(minutes=1)
    max_attempts: int = 5
    backoff: timedelta = timedelta(seconds=1)
    backoff_cap: timedelta = timedelta(minutes=5)
    lease: timedelta = timedelta(seconds=30)
    most: int = 100_000
    poll: timedelta = timedelta(seconds=1)

    def delay(self, attempts: int) -> timedelta:
        """Return how long to wait after that many failures: exponential, capped, half of it jitter."""
        full: timedelta = min(self.backoff * 2 ** min(attempts - 1, 20), self.backoff_cap)
        return full * random.uniform(0.5, 1.0)
