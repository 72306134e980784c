"""Timeouts of sagas: the database's clock decides, and a message tells the saga (H10).

One replica has this role. A due deadline becomes a message in the service's own inbox, in the transaction that
clears the deadline; the saga handles it as it handles a reply. Two replicas at once skip each other's rows. It has a
connection of its own: when requests have taken the whole pool, sagas still move.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from covey.database.pool import Connection, Database
from covey.ids import new_id
from covey.message import Envelope
from covey.messaging.delivery import IN_REPLY_TO
from covey.work.inbox import enqueue
from covey.work.unit_of_work import Transactions, Work, begin

PERIOD_SECONDS = 0.25

BATCH = 500

_DUE = "SELECT * FROM covey.due_sagas($1)"


class SagaTimers:
    """Tells the sagas of one service that their time is up."""

    def __init__(self, database: Database, transactions: Transactions, wake: Callable[[], None]) -> None:
        self._database = database
        self._transactions = transactions
        self._wake = wake

    async def run(self) -> None:
        """Look until cancelled; an error ends the role, and whoever gets it next goes on."""
        async with self._database.connected(application_name="covey saga timers") as connection:
            while True:
                if await self.fire(connection):
                    self._wake()
                else:
                    await asyncio.sleep(PERIOD_SECONDS)

    async def fire(self, connection: Connection) -> int:
        """Turn what is due into messages; return how many. After an error the connection is of no use any more."""
        service = self._transactions.service
        work = Work(connection, service, self._transactions.clock)
        await begin(connection)
        try:
            due = await work.fetch(_DUE, BATCH)
            for saga_id, waiting, now in due:
                headers = {IN_REPLY_TO: str(waiting)} if waiting else {}
                enqueue(
                    work,
                    Envelope(
                        id=new_id(),
                        type=f"{service}.saga-timeout.v1",
                        key=str(saga_id),
                        source=service,
                        time=now,
                        body=b"{}",
                        kind="event",
                        stream=service,
                        headers=headers,
                    ),
                )
            await work.finish()
        finally:
            work.end()
        return len(due)
