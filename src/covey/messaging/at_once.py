"""Turns at once: messages from a stream stored and handled in one round trip, when nothing stands before any of them.

Whether something does is not asked first: the statement that stores them finds out, and then nothing has happened
(docs/decisions/0008).
"""

from __future__ import annotations

from covey.clock import Clock
from covey.database.errors import translated
from covey.database.pool import Connection
from covey.errors import Contention
from covey.messaging.batch import Batch, Ends, leave_it
from covey.messaging.delivery import Received, received_delivery
from covey.messaging.handling import Handling
from covey.messaging.options import LANES
from covey.messaging.router import External, Router
from covey.work.unit_of_work import Resources, Work, begin, call_all


class AtOnce:
    """Runs such turns for one service; a stream where one has failed is not tried again until `calm`."""

    def __init__(
        self, service: str, router: Router, clock: Clock, handling: Handling, ends: Ends, resources: Resources
    ) -> None:
        self._service = service
        self._table = router.table
        self._clock = clock
        self._handling = handling
        self._ends = ends
        self._resources = resources
        self._careful: set[str] = set()

    def suits(self, received: Received) -> bool:
        """Tell whether these messages may be handled at once: none of them is unknown, or calls the outside."""
        return received.stream not in self._careful and not any(
            isinstance(self._table.get(envelope.type), External | None) for envelope in received.envelopes
        )

    def calm(self, stream: str) -> None:
        """Say that nothing of a stream waits any more, as far as one can see."""
        self._careful.discard(stream)

    async def run(self, connection: Connection, received: Received) -> bool:
        """Handle messages as if nothing stood before any of them, and have `covey.accept` see to it that this is so.

        It does with the first statement of a handler, or with the last of the turn: then that is all there is, and
        the turn is one round trip. Whatever goes wrong, nothing has happened, and False says that care is needed.
        """
        accept = ("accept", [LANES, *received.columns()])

        async def alone() -> Connection:
            return connection

        async def open_() -> Connection:
            await begin(connection)
            with translated():
                await call_all(connection, [accept])
            return connection

        batch = Batch(Work(None, self._service, self._clock, open_, accept, self._resources))
        batch.deliveries = [received_delivery(envelope, -1, False, None) for envelope in received.envelopes]
        try:
            await self._handling.all_of(connection, batch, {}, leave_it)
            if len(batch.handled) != len(batch.deliveries):
                raise Contention("the turn has too much to publish, or takes too long")
            await batch.work.finish(alone)
        except BaseException as error:
            self._careful.add(received.stream)
            await self._ends.undo(connection, batch)
            if not isinstance(error, Exception) or connection.is_closed():
                raise
            return False
        self._ends.after_commit(batch)
        return True
