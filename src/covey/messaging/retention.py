"""Retention: forgets what can never be asked for again, in small batches.

A message that is published again from the outbox on its last day lies in the stream for as long as any other. The inbox
remembers it for a day longer than both together, so that no redelivery, rereading or republishing can bring back one
that it has forgotten (H4). What is pending, held or unpublished is never removed. The outbox is kept past the broker's
confirmation, so that it can be published again (H5).
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

from covey.database.errors import translated
from covey.database.pool import Database
from covey.messaging.broker import STREAM_MAX_AGE

OUTBOX_AGE = STREAM_MAX_AGE
INBOX_AGE = OUTBOX_AGE + STREAM_MAX_AGE + timedelta(days=1)
IDEMPOTENCY_AGE = timedelta(hours=24)
BATCH = 1_000
PERIOD_SECONDS = 60.0

_INBOX = """
DELETE FROM covey.inbox WHERE id IN (
    SELECT i.id FROM covey.inbox i
    WHERE i.received_at < now() - $1::interval
      AND NOT EXISTS (SELECT FROM covey.inbox_pending p WHERE p.lane = covey.lane(i.key) AND p.position = i.position)
      AND NOT EXISTS (SELECT FROM covey.inbox_held h WHERE h.key = i.key AND h.position = i.position)
    LIMIT $2)
"""
_OUTBOX = """
DELETE FROM covey.outbox WHERE position IN (
    SELECT o.position FROM covey.outbox o
    WHERE o.created_at < now() - $1::interval
      AND NOT EXISTS (SELECT FROM covey.outbox_pending p WHERE p.position = o.position)
    LIMIT $2)
"""
_REPLY = """
DELETE FROM covey.reply WHERE command_id IN (
    SELECT command_id FROM covey.reply WHERE at < now() - $1::interval LIMIT $2)
"""
_IDEMPOTENCY = """
DELETE FROM covey.idempotency WHERE (scope, key) IN (
    SELECT scope, key FROM covey.idempotency WHERE created_at < now() - $1::interval LIMIT $2)
"""

RULES = (
    (_INBOX, INBOX_AGE),
    (_OUTBOX, OUTBOX_AGE),
    (_REPLY, INBOX_AGE),
    (_IDEMPOTENCY, IDEMPOTENCY_AGE),
)


class Retention:
    """Cleans the tables of one service; one replica has this role."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def run(self) -> None:
        """Clean until cancelled; an error ends the role, and whoever gets it next goes on."""
        while True:
            for statement, age in RULES:
                await self._clean_all(statement, age)
            await asyncio.sleep(PERIOD_SECONDS)

    async def _clean_all(self, statement: str, age: timedelta) -> None:
        """Remove batch after batch, with a pause between them for everybody else."""
        removed = BATCH
        while removed == BATCH:
            removed = await self.clean(statement, age)
            await asyncio.sleep(0.1)

    async def clean(self, statement: str, age: timedelta) -> int:
        """Remove at most one batch; return how many rows went."""
        async with self._database.acquire() as connection:
            with translated():
                return int((await connection.execute(statement, age, BATCH)).rpartition(" ")[2])
