"""How a service handles its messages."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import timedelta

# Advisory locks with two integers: a class and a number. Locks on keys use the one-integer space.
LANES = 0x434F01  # one for each lane, held for a turn
ROLES = 0x434F02  # one for each role, held by the replica that has it
OWNERS = 0x434F03  # one for each process, held while it lives

LONGEST_TURN = timedelta(seconds=1)
"""After this no turn begins a further handler: beside it a commit costs nothing, and others wait for its lanes."""


@dataclass(frozen=True, kw_only=True)
class MessagingOptions:
    """How much at once, and how patiently. The defaults suit a service with two cores and short handlers.

    `handler_timeout` bounds one handler and must be shorter than the pool's `idle_in_transaction_timeout`, which would
    cut the connection of its whole batch: where it is not, each message has a turn of its own.
    """

    workers: int = 2
    batch: int = 200
    lanes: int = 16
    read_batch: int = 1_000
    max_attempts: int = 5
    handler_timeout: timedelta = timedelta(seconds=8)
    backoff: timedelta = timedelta(milliseconds=100)
    backoff_cap: timedelta = timedelta(seconds=30)
    poll: timedelta = timedelta(milliseconds=250)
    calls: int = 64

    def delay(self, attempts: int) -> timedelta:
        """Return how long to wait after that many failures: exponential, capped, half of it jitter."""
        full: timedelta = min(self.backoff * 2 ** min(attempts - 1, 20), self.backoff_cap)
        return full * random.uniform(0.5, 1.0)

    def turn(self, idle: timedelta) -> timedelta:
        """Return for how long a turn begins further handlers, when PostgreSQL cuts one that is `idle` for so long.

        Handlers that only defer and publish send it nothing from the first to the last. One that begins in the last
        moment has all its own time, and half of what is left beyond that is for the machine to be slow in.
        """
        return max(timedelta(0), min(LONGEST_TURN, (idle - self.handler_timeout) / 2))
