"""Retention: forgets what can never be asked for again, in small batches.

A message that is published again from the outbox on its last day lies in the stream for as long as any other. The inbox
remembers it for a day longer than both together, so that no redelivery, rereading or republishing can bring back one
that it has forgotten (H4). What is pending, held or unpublished is never removed. The outbox is kept past the broker's
confirmation, so that it can be published again (H5).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from covey.database.errors import translated
from covey.database.pool import Database
from covey.messaging.broker import STREAM_MAX_AGE

OUTBOX_AGE = STREAM_MAX_AGE
INBOX_AGE = OUTBOX_AGE + STREAM_MAX_AGE + timedelta(days=1)
IDEMPOTENCY_AGE = timedelta(hours=24)
BATCH = 1_000
PERIOD_SECONDS = 60.0
PAUSE_SECONDS = 0.1
"""Between two batches, for everybody else."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What a function of the schema `covey` forgets, and at what age."""

    function: str
    age: timedelta


RULES = (
    Rule("forget_inbox", INBOX_AGE),
    Rule("forget_outbox", OUTBOX_AGE),
    Rule("forget_replies", INBOX_AGE),
    Rule("forget_idempotency", IDEMPOTENCY_AGE),
)


class Retention:
    """Cleans tables of one service by these rules; one replica has this role."""

    def __init__(self, database: Database, rules: Sequence[Rule] = RULES) -> None:
        self._database = database
        self._rules = rules

    async def run(self) -> None:
        """Clean until cancelled; an error ends the role, and whoever gets it next goes on."""
        while True:
            await self.clean()
            await asyncio.sleep(PERIOD_SECONDS)

    async def clean(self) -> None:
        """Remove all that is to go now, batch after batch."""
        for rule in self._rules:
            place: int | None = 0
            while place is not None:
                place = await self.step(rule, place)
                await asyncio.sleep(PAUSE_SECONDS)

    async def step(self, rule: Rule, place: int = 0) -> int | None:
        """Remove one batch at the most; return where the next begins, or None when nothing behind is old enough."""
        async with self._database.acquire() as connection:
            with translated():
                old, last = await connection.fetchrow(
                    f"SELECT * FROM covey.{rule.function}($1, $2, $3)", rule.age, BATCH, place
                )
        return last if old else None
