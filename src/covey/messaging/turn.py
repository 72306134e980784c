"""A turn: one transaction that handles a batch of messages.

Lanes are locked, messages read, handlers run, their effects and messages written, the messages taken off the
queue, all in one transaction. A crash anywhere before COMMIT repeats the turn, on any replica. When a handler
fails the turn rolls back and runs again up to the failing message, whose key is then held; so a poison message
costs one rerun and stops nobody else. Handlers therefore may run more than once, their effects happen once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

from covey.clock import Clock
from covey.database.errors import translated
from covey.database.pool import Connection
from covey.errors import Contention, Fenced
from covey.ids import new_id
from covey.messaging.at_once import AtOnce
from covey.messaging.batch import Batch, Ends, finish_held, finished, leave_it, queue, take_off
from covey.messaging.delivery import Delivery, Received, delivery_of, received_delivery
from covey.messaging.dispatch import Dispatch
from covey.messaging.external import Calls
from covey.messaging.failure import Failed, Failure
from covey.messaging.handling import Handling, Leave
from covey.messaging.observation import Observation
from covey.messaging.options import LANES, MessagingOptions
from covey.messaging.router import Router
from covey.work.unit_of_work import Resources, Work, begin

NOT_ITS_OWN = 2
"""So many deaths make a suspect, and any that was in hand beside it may have caused them (decision 0007)."""
MOST_OF_ITS_OWN = 3
"""So many more, handled alone, are enough for any; where fewer attempts are allowed, as many as these."""

_LOOK = "SELECT * FROM covey.look()"
_TAKE = "SELECT * FROM covey.take($1, $2, $3)"
_TAKE_DUE = "SELECT * FROM covey.take_due($1, $2)"
_BEGIN_SUSPECT = "SELECT * FROM covey.begin_suspect($1, $2, $3, $4)"
_TAKE_SUSPECT = "SELECT * FROM covey.take_suspect($1, $2, $3)"
_RECEIVE = f"SELECT * FROM covey.receive({', '.join(f'${n}' for n in range(1, 17))})"


class Turns:
    """Runs turns for one service, which begin no handler after `longest`. A connection has one runner at a time."""

    def __init__(
        self,
        service: str,
        router: Router,
        clock: Clock,
        options: MessagingOptions,
        longest: timedelta,
        owner: int,
        calls: Calls,
        committed: Callable[[Work], None],
        observation: Observation,
        resources: Resources,
    ) -> None:
        self._service = service
        self._clock = clock
        self._resources = resources
        self._options = options
        self._owner = owner
        self._observation = observation
        self._ends = Ends(calls, committed, observation)
        dispatch = Dispatch(service, router, clock, owner, calls)
        self._handling = Handling(router, dispatch, options, longest, observation)
        self._at_once = AtOnce(service, router, clock, self._handling, self._ends, resources)
        self._cautious = 0

    async def look(self, connection: Connection) -> tuple[bool, bool]:
        """Tell whether any message is ready, and whether a hold is due; somebody else may have them by then."""
        with translated():
            row = await connection.fetchrow(_LOOK)
        return row[0], row[1]

    async def run(self, connection: Connection) -> int:
        """Handle a batch of ready messages; return how many were dealt with."""

        async def take(limit: int) -> list[Delivery]:
            return await _fetch(connection, _TAKE, LANES, self._options.lanes, limit)

        return len((await self._run(connection, take, take_off, leave_it)).deliveries)

    async def run_due(self, connection: Connection) -> int:
        """Handle what waits behind one due hold; return how many were dealt with."""

        async def take(limit: int) -> list[Delivery]:
            return await _fetch(connection, _TAKE_DUE, LANES, limit)

        return len((await self._run(connection, take, finish_held, leave_it)).deliveries)

    async def run_suspect(self, connection: Connection) -> list[asyncio.Task[None]] | None:
        """Handle one message that processes may have died of; return the calls that it has begun.

        None if there is no such message. It is marked before it is begun. After `max_attempts` crashes (the first two
        do not count where fewer than five are allowed) it is a dead letter instead; what moves a saga is never given
        up, but a saga is told that its functions keep failing.
        """
        token, lease = new_id(), self._options.handler_timeout + timedelta(seconds=5)
        with translated():
            suspect = await connection.fetchrow(_BEGIN_SUSPECT, LANES, self._owner, token, lease)
        if suspect is None:
            return None
        key, crashes = suspect
        failures: dict[str, Failure] = {}

        async def take(limit: int) -> list[Delivery]:
            found = await _fetch(connection, _TAKE_SUSPECT, LANES, key, token)
            for delivery in found:
                self._observation.suspected(delivery, crashes)
            attempts = self._options.max_attempts
            if crashes < max(attempts, NOT_ITS_OWN + min(attempts, MOST_OF_ITS_OWN)):
                return found
            if any(self._handling.is_patient(delivery) for delivery in found):
                return [replace(delivery, attempts=max(delivery.attempts, crashes)) for delivery in found]
            error = f"the process that handled it died, {crashes} times on end"
            failures.update((key, Failure(delivery, error, None, delivery.attempts)) for delivery in found)
            return found

        return (await self._run(connection, take, finish_held, leave_it, failures)).begun

    async def store(self, connection: Connection, received: Received) -> None:
        """Store what was read from a stream, to be handled by workers. Raises Fenced when another reader is ahead."""
        with translated():
            await connection.fetch(_RECEIVE, LANES, 0, *received.columns())

    async def receive(self, connection: Connection, received: Received) -> int:
        """Store what was read from a stream and handle it in the same transaction, as far as nothing stands before it.

        Saves a commit and a wake-up for each message. Returns how many are left to the workers; those behind a hold
        are not, because whoever ends the hold sees to them. Raises Fenced.
        """
        if not self._cautious and self._at_once.suits(received) and await self._at_once.run(connection, received):
            return 0
        by_id = {envelope.id: envelope for envelope in reversed(received.envelopes)}

        async def take(limit: int) -> list[Delivery]:
            with translated():
                rows = await connection.fetch(_RECEIVE, LANES, limit, *received.columns())
            return [received_delivery(by_id[row[0]], *row[1:]) for row in rows]

        batch = await self._run(connection, take, finished, queue)
        left = len(received.envelopes) - len(batch.handled)
        if not left:
            self._at_once.calm(received.stream)
        return left - len(batch.behind_holds())

    async def _run(
        self,
        connection: Connection,
        take: Callable[[int], Awaitable[list[Delivery]]],
        finish: Callable[[Work, Delivery], None],
        leave: Leave,
        failures: dict[str, Failure] | None = None,
    ) -> Batch:
        """Attempt the turn until an attempt commits; each failure is remembered and its key set aside in the next."""
        failures = {} if failures is None else failures
        limit = self._options.batch
        while True:
            if self._cautious:
                limit = 1
            batch = Batch(Work(connection, self._service, self._clock, resources=self._resources))
            await begin(connection)
            try:
                batch.deliveries = await take(limit)
                await self._handling.all_of(connection, batch, failures, leave)
                for delivery in batch.handled:
                    finish(batch.work, delivery)
                await self._ends.commit(batch)
            except Failed as failed:
                await self._ends.undo(connection, batch)
                failures[failed.failure.delivery.envelope.key] = failed.failure
                if len(failures) > 5:
                    limit = max(1, limit // 2)
                continue
            except (Contention, Fenced) as error:
                await self._ends.undo(connection, batch)
                if not batch.deliveries:
                    raise
                if isinstance(error, Contention) and len(batch.deliveries) == 1:
                    self._blame(batch.deliveries[0], error, failures)
                limit = max(1, len(batch.deliveries) // 2)
                continue
            except BaseException as error:
                await self._ends.undo(connection, batch)
                if not self._nobody_to_blame(error, connection, batch, failures):
                    raise
                continue
            self._cautious = max(0, self._cautious - 1)
            self._ends.after_commit(batch)
            return batch

    def _nobody_to_blame(
        self, error: BaseException, connection: Connection, batch: Batch, failures: dict[str, Failure]
    ) -> bool:
        """An error at the end of a turn has no culprit: look for it one message at a time. True: try again.

        So has a connection that is lost there. Once that is PostgreSQL's doing and nobody's fault; a message that is
        alone in hand each time is to blame in the end.
        """
        lost = connection.is_closed()
        if not isinstance(error, Exception) or not batch.ran or (lost and not batch.given):
            return False
        if len(batch.deliveries) > 1:
            self._cautious = len(batch.deliveries)
        elif lost:
            self._handling.count_lost(batch.deliveries[0])
        else:
            self._blame(batch.deliveries[0], error, failures)
        return not lost

    def _blame(self, delivery: Delivery, error: Exception, failures: dict[str, Failure]) -> None:
        failures[delivery.envelope.key] = self._handling.blame(delivery, error)


async def _fetch(connection: Connection, sql: str, *args: Any) -> list[Delivery]:
    with translated():
        return [delivery_of(row) for row in await connection.fetch(sql, *args)]
