"""Handling: the messages of a batch one after the other, and whose fault it is when one of them fails."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

from covey.context import use
from covey.database.pool import Connection
from covey.errors import Contention, DatabaseUnavailable, TransactionAborted
from covey.messaging.batch import Batch
from covey.messaging.containment import contained
from covey.messaging.delivery import Delivery
from covey.messaging.dispatch import Dispatch
from covey.messaging.failure import Failed, Failure, judge
from covey.messaging.observation import Observation
from covey.messaging.options import MessagingOptions
from covey.messaging.router import Engine, Raw, Router
from covey.work.unit_of_work import Work

MOST_CONNECTIONS = 3
_MOST_SUSPECTS = 1_000

Leave = Callable[[Work, Delivery], None]
"""What is done with a message that is not handled in this turn."""


class Handling:
    """Handles batches for one service, each for `longest`. It remembers who was in hand when a connection was lost."""

    def __init__(
        self,
        router: Router,
        dispatch: Dispatch,
        options: MessagingOptions,
        longest: timedelta,
        observation: Observation,
    ) -> None:
        self._table = router.table
        self._dispatch = dispatch
        self._options = options
        self._longest_seconds = longest.total_seconds()
        self._observation = observation
        self._lost: Counter[UUID] = Counter()

    async def all_of(self, connection: Connection, batch: Batch, failures: dict[str, Failure], leave: Leave) -> None:
        """Handle what was taken, in order; leave what follows a message set aside, too much to publish, or a long time.

        Raises Failed for the message that is to blame, and what is nobody's fault as it is.
        """
        await self._prepare(batch)
        until = time.monotonic() + self._longest_seconds
        for delivery in batch.deliveries:
            key = delivery.envelope.key
            failure = failures.get(key)
            if key in batch.aside or batch.work.plenty or (batch.ran and time.monotonic() >= until):
                leave(batch.work, delivery)
            elif failure is not None and failure.delivery.envelope.id == delivery.envelope.id:
                # The place in the inbox is of this attempt: the other one was rolled back.
                batch.park(replace(failure, delivery=delivery))
            elif not_here := await self._dispatch.elsewhere(delivery, batch.work):
                batch.park(self.blame(delivery, not_here))  # nothing was done for it that is to be rolled back
            else:
                await self._one(connection, batch, delivery)
        batch.given = True

    def blame(self, delivery: Delivery, error: Exception) -> Failure:
        """Say what is to become of a message that this error is the fault of."""
        return judge(delivery, error, self._options, self.is_patient(delivery))

    def count_lost(self, delivery: Delivery) -> None:
        """Remember that a connection was lost with this message in hand; the third time it is to blame."""
        if len(self._lost) >= _MOST_SUSPECTS:
            self._lost.clear()
        self._lost[delivery.envelope.id] += 1

    def is_patient(self, delivery: Delivery) -> bool:
        """Tell whether this message must never be given up: the moves of sagas are not, or one could be stranded."""
        return isinstance(self._table.get(delivery.envelope.type), Engine)

    async def _prepare(self, batch: Batch) -> None:
        """Let engines load what all their deliveries of this turn need, in one statement."""
        groups: dict[int, tuple[Raw, list[Delivery]]] = {}
        for delivery in batch.deliveries:
            registration = self._table.get(delivery.envelope.type)
            if isinstance(registration, Engine):
                groups.setdefault(id(registration.raw), (registration.raw, []))[1].append(delivery)
        for raw, of_it in groups.values():
            await raw.prepare(of_it, batch.work)

    async def _one(self, connection: Connection, batch: Batch, delivery: Delivery) -> None:
        self._require_faith(delivery)
        context = delivery.context()
        with use(context), self._observation.handling(delivery, context):
            try:
                given = self._dispatch.give(batch, delivery)
                await contained(given, self._options.handler_timeout, "it")
                _require_connection(connection)
            except Contention:
                raise
            except Exception as error:
                if isinstance(error, TransactionAborted) and batch.ran:
                    raise  # one of those before it hid the failure of its statement
                if connection.is_closed():
                    self.count_lost(delivery)
                    raise DatabaseUnavailable(f"the connection was lost: {error}") from error
                raise Failed(self.blame(delivery, error)) from error

    def _require_faith(self, delivery: Delivery) -> None:
        """A lost connection is nobody's fault, unless it is lost in the handling of one message again and again."""
        if self._lost[delivery.envelope.id] >= MOST_CONNECTIONS:
            del self._lost[delivery.envelope.id]
            error = DatabaseUnavailable(f"{MOST_CONNECTIONS} connections were lost while it was handled")
            raise Failed(self.blame(delivery, error))


def _require_connection(connection: Connection) -> None:
    """Raise when the connection was lost and the handler said nothing: its neighbours would be blamed for it."""
    if connection.is_closed():
        raise DatabaseUnavailable("its error was caught")
