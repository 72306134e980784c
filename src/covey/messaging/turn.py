"""A turn: one transaction that handles a batch of messages.

Lanes are locked, messages read, handlers run, their effects and messages written, the messages taken off the
queue, all in one transaction. A crash anywhere before COMMIT repeats the turn, on any replica. When a handler
fails the turn rolls back and runs again up to the failing message, whose key is then held; so a poison message
costs one rerun and stops nobody else. Handlers therefore may run more than once, their effects happen once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, assert_never
from uuid import UUID

from covey.clock import Clock
from covey.context import use
from covey.database.errors import translated
from covey.database.pool import Connection
from covey.errors import Contention, DatabaseUnavailable, Fenced
from covey.ids import new_id
from covey.message import Reply, is_service
from covey.messaging.answers import Answers
from covey.messaging.delivery import UNREADABLE, Delivery, delivery_of
from covey.messaging.external import Call, Calls
from covey.messaging.failure import Dead, Failed, Failure, judge, parse
from covey.messaging.observation import Observation
from covey.messaging.options import LANES, MessagingOptions
from covey.messaging.router import Engine, External, Handled, Ignored, Raw, Registration, Router, as_reply, is_command
from covey.work.inbox import REPLY_TO
from covey.work.unit_of_work import Work, begin, commit, roll_back

_TAKE = "SELECT * FROM covey.take($1, $2, $3)"
_TAKE_DUE = "SELECT * FROM covey.take_due($1, $2)"
_FINISH = "SELECT covey.finish($1, $2)"
_FINISH_HELD = "SELECT covey.finish_held($1, $2)"
_PARK = "SELECT covey.park($1, $2, $3, $4, $5, $6, $7, $8)"
_EXPIRED = """
INSERT INTO covey.dead_letter_log (position, message_id, key, what, reason)
VALUES ($1, $2, $3, 'expired', 'its deadline has passed: nobody waits for it any more')
"""


@dataclass(slots=True)
class Batch:
    """What one attempt at a turn has done so far."""

    work: Work
    handled: list[Delivery] = field(default_factory=list)
    aside: set[str] = field(default_factory=set)
    calls: list[Call] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)


class Turns:
    """Runs turns for one service. Each connection belongs to one runner at a time."""

    def __init__(
        self,
        service: str,
        router: Router,
        clock: Clock,
        options: MessagingOptions,
        owner: int,
        calls: Calls,
        committed: Callable[[Work], None],
        observation: Observation,
    ) -> None:
        self._service = service
        self._answers = Answers(service, clock)
        self._table = router.table
        self._clock = clock
        self._options = options
        self._owner = owner
        self._calls = calls
        self._committed = committed
        self._observation = observation
        self._cautious = 0

    async def run(self, connection: Connection) -> int:
        """Handle a batch of ready messages; return how many were dealt with."""

        async def take(limit: int) -> list[Delivery]:
            return await _fetch(connection, _TAKE, LANES, self._options.lanes, limit)

        async def finish(deliveries: Sequence[Delivery]) -> None:
            await connection.execute(_FINISH, [d.lane for d in deliveries], [d.position for d in deliveries])

        return await self._run(connection, take, finish)

    async def run_due(self, connection: Connection) -> int:
        """Handle what waits behind one due hold; return how many were dealt with."""

        async def take(limit: int) -> list[Delivery]:
            return await _fetch(connection, _TAKE_DUE, LANES, limit)

        async def finish(deliveries: Sequence[Delivery]) -> None:
            await connection.execute(_FINISH_HELD, deliveries[0].envelope.key, [d.position for d in deliveries])

        return await self._run(connection, take, finish)

    async def begun(self, connection: Connection, deliveries: list[Delivery]) -> Batch:
        """Handle deliveries inside a transaction that the caller has begun; raise Failed with no effect to keep.

        The caller then takes them off the queue and commits, or rolls back. Used where reading and handling share
        a transaction.
        """
        batch = Batch(Work(connection, self._service, self._clock))
        await self._handle_all(connection, batch, deliveries, {})
        return batch

    async def _run(
        self,
        connection: Connection,
        take: Callable[[int], Awaitable[list[Delivery]]],
        finish: Callable[[Sequence[Delivery]], Awaitable[None]],
    ) -> int:
        """Attempt the turn until an attempt commits; each failure is remembered and its key set aside in the next."""
        failures: dict[str, Failure] = {}
        limit = self._options.batch
        while True:
            if self._cautious:
                limit = 1
            batch = Batch(Work(connection, self._service, self._clock))
            await begin(connection)
            deliveries: list[Delivery] = []
            try:
                deliveries = await take(limit)
                await self._handle_all(connection, batch, deliveries, failures)
                await self._finish(connection, batch, finish)
                await commit(connection)
            except Failed as failed:
                await roll_back(connection)
                failures[failed.failure.delivery.envelope.key] = failed.failure
                if len(failures) > 5:
                    limit = max(1, limit // 2)
                continue
            except (Contention, Fenced):
                await roll_back(connection)
                limit = max(1, len(deliveries) // 2)
                continue
            except BaseException as error:
                await roll_back(connection)
                if not self._nobody_to_blame(error, connection, batch, failures):
                    raise
                continue
            self._cautious = max(0, self._cautious - 1)
            self._after_commit(batch)
            return len(deliveries)

    def _nobody_to_blame(
        self, error: BaseException, connection: Connection, batch: Batch, failures: dict[str, Failure]
    ) -> bool:
        """An error at the end of a turn has no culprit: look for it one message at a time. True: try again."""
        if not isinstance(error, Exception) or connection.is_closed() or not batch.handled:
            return False
        if len(batch.handled) == 1:
            failure = judge(batch.handled[0], error, self._options, self._patient(batch.handled[0]))
            failures[failure.delivery.envelope.key] = failure
        else:
            self._cautious = len(batch.handled)
        return True

    async def _handle_all(
        self, connection: Connection, batch: Batch, deliveries: list[Delivery], failures: dict[str, Failure]
    ) -> None:
        await self._prepare(batch, deliveries)
        for delivery in deliveries:
            key = delivery.envelope.key
            failure = failures.get(key)
            if key in batch.aside:
                continue
            if failure is not None and failure.delivery.position == delivery.position:
                await self._park(connection, batch, failure)
            else:
                await self._handle(connection, batch, delivery)

    async def _prepare(self, batch: Batch, deliveries: list[Delivery]) -> None:
        """Let engines load what all their deliveries of this turn need, in one statement."""
        groups: dict[int, tuple[Raw, list[Delivery]]] = {}
        for delivery in deliveries:
            registration = self._table.get(delivery.envelope.type)
            if isinstance(registration, Engine):
                groups.setdefault(id(registration.raw), (registration.raw, []))[1].append(delivery)
        for raw, of_it in groups.values():
            await raw.prepare(of_it, batch.work)

    async def _handle(self, connection: Connection, batch: Batch, delivery: Delivery) -> None:
        context = delivery.context()
        with use(context), self._observation.handling(delivery, context):
            try:
                await self._dispatch(connection, batch, delivery)
            except Contention:
                raise
            except Exception as error:
                if isinstance(error, DatabaseUnavailable) and connection.is_closed():
                    raise
                raise Failed(judge(delivery, error, self._options, self._patient(delivery))) from error

    async def _dispatch(self, connection: Connection, batch: Batch, delivery: Delivery) -> None:
        work = batch.work
        if delivery.expired:
            work.defer(_EXPIRED, delivery.position, delivery.envelope.id, delivery.envelope.key)
            batch.handled.append(delivery)
            return
        answer = self._answers.known(work, delivery)
        if answer is not None:
            self._answers.send(work, delivery, answer)
            batch.handled.append(delivery)
            return
        registration = self._registration(delivery)
        match registration:
            case Handled():
                message = parse(registration.model, delivery)
                result: object = None
                for function in registration.functions:
                    result = await function(message, work)
                if is_command(registration):
                    self._answers.give(work, delivery, as_reply(result, delivery.envelope.type))
            case External():
                if not await self._intend(connection, batch, delivery, registration):
                    return
            case Ignored():
                pass
            case Engine():
                await registration.raw.handle(delivery, work)
            case _:
                assert_never(registration)
        batch.handled.append(delivery)

    async def _intend(
        self, connection: Connection, batch: Batch, delivery: Delivery, registration: External[Any]
    ) -> bool:
        """Begin an effect outside; True when it settled at once, False when its key is now worked on."""
        if not self._calls.room():
            soon = self._options.backoff
            await self._hold(connection, batch, delivery, "waiting", soon, delivery.attempts, None, None)
            return False
        message = parse(registration.model, delivery)
        intent = await registration.effect.intend(message, batch.work)
        if isinstance(intent, Reply):
            if is_command(registration):
                self._answers.give(batch.work, delivery, intent)
            return True
        token = new_id()
        lease = registration.timeout + timedelta(seconds=5)
        await self._hold(connection, batch, delivery, "working", lease, delivery.attempts, token, None)
        batch.calls.append(Call(delivery, message, intent, token, registration))
        return False

    def _patient(self, delivery: Delivery) -> bool:
        """Tell whether this message must never be given up: the moves of sagas are not, or one could be stranded."""
        return isinstance(self._table.get(delivery.envelope.type), Engine)

    def _registration(self, delivery: Delivery) -> Registration:
        envelope = delivery.envelope
        if UNREADABLE in envelope.headers:
            raise Dead(f"unreadable: {envelope.headers[UNREADABLE]}")
        if not is_service(envelope.headers.get(REPLY_TO, envelope.stream)):
            raise Dead(f"unreadable: {REPLY_TO} is not the name of a service")
        registration = self._table.get(envelope.type)
        if registration is None:
            name = envelope.type.rpartition(".")[0]
            known = sorted(t for t in self._table if t.rpartition(".")[0] == name)
            raise Dead(
                f"unknown version: {envelope.type}; {self._service} handles {', '.join(known)}"
                if known
                else f"unknown type: {self._service} has no handler for {envelope.type}"
            )
        return registration

    async def _park(self, connection: Connection, batch: Batch, failure: Failure) -> None:
        state = "dead" if failure.dead else "waiting"
        after = None if failure.dead else self._options.delay(failure.attempts)
        await self._hold(connection, batch, failure.delivery, state, after, failure.attempts, None, failure.error)
        batch.failures.append(failure)

    async def _hold(
        self,
        connection: Connection,
        batch: Batch,
        delivery: Delivery,
        state: str,
        after: timedelta | None,
        attempts: int,
        token: UUID | None,
        error: str | None,
    ) -> None:
        key = delivery.envelope.key
        owner = self._owner if token is not None else None
        with translated():
            await connection.execute(_PARK, key, delivery.position, state, after, attempts, token, owner, error)
        batch.aside.add(key)

    async def _finish(
        self, connection: Connection, batch: Batch, finish: Callable[[Sequence[Delivery]], Awaitable[None]]
    ) -> None:
        await batch.work.flush()
        if batch.handled:
            with translated():
                await finish(batch.handled)

    def _after_commit(self, batch: Batch) -> None:
        self._committed(batch.work)
        for failure in batch.failures:
            self._observation.parked(failure.delivery, failure.error, failure.dead, failure.attempts)
        for call in batch.calls:
            self._calls.start(call)


async def _fetch(connection: Connection, sql: str, *args: Any) -> list[Delivery]:
    with translated():
        return [delivery_of(row) for row in await connection.fetch(sql, *args)]
