"""Sagas as this process has last written them, so that a turn need not read what it knows already.

What is remembered is only a guess: another replica may have moved the saga since, or a failover taken the writing
back. The row's token tells: `covey.move_sagas` writes over the very writing that is remembered, or raises. Who
decides on a memory to do nothing has it written over itself, to be told.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Collection, Iterable
from dataclasses import replace
from uuid import UUID

from covey.saga.journal import Record, has_ended

MOST_SAGAS = 1_000
MOST_CHARACTERS = 16_000
"""What carries more data than this is read anew each time."""


class Recent:
    """The sagas that were written last, and are still on their way."""

    def __init__(self) -> None:
        self._records: OrderedDict[UUID, tuple[Record, float]] = OrderedDict()

    def take(self, ids: Collection[UUID]) -> dict[UUID, Record] | None:
        """Return these sagas and forget them, until they are kept again; None unless all of them are here."""
        if not all(saga_id in self._records for saga_id in ids):
            return None
        now = time.monotonic()
        taken = [self._records.pop(saga_id) for saga_id in ids]
        return {record.id: replace(record, unmoved_seconds=now - since, remembered=True) for record, since in taken}

    def keep(self, records: Iterable[Record]) -> None:
        """Remember sagas that were written in a transaction which has committed."""
        now = time.monotonic()
        for record in records:
            if record.written is None or record.size > MOST_CHARACTERS or has_ended(record.state):
                self._records.pop(record.id, None)
            else:
                self._records[record.id] = replace(record, token=record.written, written=None), now
        while len(self._records) > MOST_SAGAS:
            self._records.popitem(last=False)
