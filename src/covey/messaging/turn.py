"""A turn: one transaction that handles a batch of messages.

Lanes are locked, messages read, handlers run, their effects and messages written, the messages taken off the
queue, all in one transaction. A crash anywhere before COMMIT repeats the turn, on any replica. When a handler
fails the turn rolls back and runs again up to the failing message, whose key is then held; so a poison message
costs one rerun and stops nobody else. Handlers therefore may run more than once, their effects happen once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, assert_never
from uuid import UUID

from covey.clock import Clock
from covey.context import use
from covey.database.errors import translated
from covey.database.pool import Connection
from covey.errors import Contention, DatabaseUnavailable, Fenced, TransactionAborted
from covey.ids import new_id
from covey.message import Reply, is_service
from covey.messaging.answers import Answers
from covey.messaging.delivery import UNREADABLE, Delivery, Received, delivery_of, received_delivery
from covey.messaging.external import Call, Calls
from covey.messaging.failure import Dead, Failed, Failure, TooSlow, judge, leaked, parse
from covey.messaging.observation import Observation
from covey.messaging.options import LANES, MessagingOptions
from covey.messaging.router import (
    Engine,
    External,
    Handled,
    Ignored,
    Raw,
    Registration,
    Router,
    accepts,
    as_reply,
    is_command,
)
from covey.work.inbox import REPLY_TO
from covey.work.unit_of_work import Work, begin, call_all, commit, roll_back

MOST_CONNECTIONS = 3

_TAKE = "SELECT * FROM covey.take($1, $2, $3)"
_TAKE_DUE = "SELECT * FROM covey.take_due($1, $2)"
_BEGIN_SUSPECT = "SELECT * FROM covey.begin_suspect($1, $2, $3, $4)"
_TAKE_SUSPECT = "SELECT * FROM covey.take_suspect($1, $2, $3)"
_RECEIVE = f"SELECT * FROM covey.receive({', '.join(f'${n}' for n in range(1, 17))})"
_PARK = "SELECT covey.park($1, $2, $3, $4, $5, $6, $7, $8)"
_EXPIRED = """
INSERT INTO covey.dead_letter_log (position, message_id, key, what, reason)
VALUES ($1, $2, $3, 'expired', 'its deadline has passed: nobody waits for it any more')
"""


@dataclass(slots=True)
class Batch:
    """What one attempt at a turn has done so far."""

    work: Work
    deliveries: list[Delivery] = field(default_factory=list)
    handled: list[Delivery] = field(default_factory=list)
    places: int = 0
    aside: set[str] = field(default_factory=set)
    calls: list[Call] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    begun: list[asyncio.Task[None]] = field(default_factory=list)


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
        self._careful: set[str] = set()
        self._lost: tuple[UUID | None, int] = (None, 0)

    async def run(self, connection: Connection) -> int:
        """Handle a batch of ready messages; return how many were dealt with."""

        async def take(limit: int) -> list[Delivery]:
            return await _fetch(connection, _TAKE, LANES, self._options.lanes, limit)

        return len((await self._run(connection, take, _finish, _leave)).deliveries)

    async def run_due(self, connection: Connection) -> int:
        """Handle what waits behind one due hold; return how many were dealt with."""

        async def take(limit: int) -> list[Delivery]:
            return await _fetch(connection, _TAKE_DUE, LANES, limit)

        return len((await self._run(connection, take, _finish_held, _leave)).deliveries)

    async def run_suspect(self, connection: Connection) -> list[asyncio.Task[None]] | None:
        """Handle one message that processes may have died of; return the calls that it has begun.

        None if there is no such message. It is marked before it is begun. After `max_attempts` crashes it is a dead
        letter instead; what moves a saga is never given up, but a saga is told that its functions keep failing.
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
            if crashes < self._options.max_attempts:
                return found
            if any(self._patient(delivery) for delivery in found):
                return [replace(delivery, attempts=max(delivery.attempts, crashes)) for delivery in found]
            error = f"the process that handled it died, {crashes} times on end"
            failures.update((key, Failure(delivery, error, None, delivery.attempts)) for delivery in found)
            return found

        return (await self._run(connection, take, _finish_held, _leave, failures)).begun

    async def store(self, connection: Connection, received: Received) -> None:
        """Store what was read from a stream, to be handled by workers. Raises Fenced when another reader is ahead."""
        with translated():
            await connection.fetch(_RECEIVE, LANES, 0, *received.columns())

    async def receive(self, connection: Connection, received: Received) -> int:
        """Store what was read from a stream and handle it in the same transaction, as far as nothing stands before it.

        Saves a commit and a wake-up for each message. Returns how many are left to the workers. Raises Fenced.
        """
        if self._simple(received) and await self._at_once(connection, received):
            return 0
        by_id = {envelope.id: envelope for envelope in reversed(received.envelopes)}

        async def take(limit: int) -> list[Delivery]:
            with translated():
                rows = await connection.fetch(_RECEIVE, LANES, limit, *received.columns())
            return [received_delivery(by_id[row[0]], *row[1:]) for row in rows]

        batch = await self._run(connection, take, _finished, _queue)
        left = len(received.envelopes) - len(batch.handled)
        if not left:
            self._careful.discard(received.stream)
        return left

    def _simple(self, received: Received) -> bool:
        return not (self._cautious or received.stream in self._careful) and not any(
            isinstance(self._table.get(envelope.type), External | None) for envelope in received.envelopes
        )

    async def _at_once(self, connection: Connection, received: Received) -> bool:
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

        batch = Batch(Work(None, self._service, self._clock, open_, accept))
        batch.deliveries = [received_delivery(envelope, -1, False, None) for envelope in received.envelopes]
        try:
            await self._handle_all(connection, batch, {}, _leave)
            if len(batch.handled) != len(batch.deliveries):
                raise Contention("the turn has too much to publish")
            await batch.work.finish(alone)
            if connection.is_in_transaction():
                await commit(connection)
        except BaseException as error:
            self._careful.add(received.stream)
            await self._undo(connection, batch)
            if not isinstance(error, Exception) or connection.is_closed():
                raise
            return False
        self._after_commit(batch)
        return True

    async def _run(
        self,
        connection: Connection,
        take: Callable[[int], Awaitable[list[Delivery]]],
        finish: Callable[[Work, Delivery], None],
        leave: Callable[[Work, Delivery], None],
        failures: dict[str, Failure] | None = None,
    ) -> Batch:
        """Attempt the turn until an attempt commits; each failure is remembered and its key set aside in the next."""
        failures = {} if failures is None else failures
        limit = self._options.batch
        while True:
            if self._cautious:
                limit = 1
            batch = Batch(Work(connection, self._service, self._clock))
            await begin(connection)
            try:
                batch.deliveries = await take(limit)
                await self._handle_all(connection, batch, failures, leave)
                for delivery in batch.handled:
                    finish(batch.work, delivery)
                await batch.work.flush()
                await commit(connection)
            except Failed as failed:
                await self._undo(connection, batch)
                failures[failed.failure.delivery.envelope.key] = failed.failure
                if len(failures) > 5:
                    limit = max(1, limit // 2)
                continue
            except (Contention, Fenced) as error:
                await self._undo(connection, batch)
                if not batch.deliveries:
                    raise
                if isinstance(error, Contention) and len(batch.deliveries) == 1:
                    self._blame(batch.deliveries[0], error, failures)
                limit = max(1, len(batch.deliveries) // 2)
                continue
            except BaseException as error:
                await self._undo(connection, batch)
                if not self._nobody_to_blame(error, connection, batch, failures):
                    raise
                continue
            self._cautious = max(0, self._cautious - 1)
            self._after_commit(batch)
            return batch

    def _nobody_to_blame(
        self, error: BaseException, connection: Connection, batch: Batch, failures: dict[str, Failure]
    ) -> bool:
        """An error at the end of a turn has no culprit: look for it one message at a time. True: try again."""
        if not isinstance(error, Exception) or connection.is_closed() or not batch.handled:
            return False
        if len(batch.deliveries) == 1:
            self._blame(batch.deliveries[0], error, failures)
        else:
            self._cautious = len(batch.deliveries)
        return True

    def _blame(self, delivery: Delivery, error: Exception, failures: dict[str, Failure]) -> None:
        failures[delivery.envelope.key] = judge(delivery, error, self._options, self._patient(delivery))

    async def _undo(self, connection: Connection, batch: Batch) -> None:
        batch.work.end()
        self._calls.give_back(batch.places)
        await roll_back(connection)

    async def _handle_all(
        self,
        connection: Connection,
        batch: Batch,
        failures: dict[str, Failure],
        leave: Callable[[Work, Delivery], None],
    ) -> None:
        """Handle what was taken, in order; leave what follows a message set aside, or too much to publish."""
        await self._prepare(batch)
        for delivery in batch.deliveries:
            key = delivery.envelope.key
            failure = failures.get(key)
            if key in batch.aside or batch.work.plenty:
                leave(batch.work, delivery)
            elif failure is not None and failure.delivery.envelope.id == delivery.envelope.id:
                # The place in the inbox is of this attempt: the other one was rolled back.
                await self._park(connection, batch, replace(failure, delivery=delivery))
            else:
                await self._handle(connection, batch, delivery)

    async def _prepare(self, batch: Batch) -> None:
        """Let engines load what all their deliveries of this turn need, in one statement."""
        groups: dict[int, tuple[Raw, list[Delivery]]] = {}
        for delivery in batch.deliveries:
            registration = self._table.get(delivery.envelope.type)
            if isinstance(registration, Engine):
                groups.setdefault(id(registration.raw), (registration.raw, []))[1].append(delivery)
        for raw, of_it in groups.values():
            await raw.prepare(of_it, batch.work)

    async def _handle(self, connection: Connection, batch: Batch, delivery: Delivery) -> None:
        self._require_faith(delivery)
        context = delivery.context()
        with use(context), self._observation.handling(delivery, context):
            try:
                await self._in_time(connection, batch, delivery)
            except Contention:
                raise
            except Exception as error:
                if isinstance(error, TransactionAborted) and batch.handled:
                    raise  # one of those before it hid the failure of its statement
                if connection.is_closed():
                    self._lost = (
                        delivery.envelope.id,
                        self._lost[1] + 1 if self._lost[0] == delivery.envelope.id else 1,
                    )
                    raise DatabaseUnavailable(f"the connection was lost: {error}") from error
                raise Failed(judge(delivery, error, self._options, self._patient(delivery))) from error

    async def _in_time(self, connection: Connection, batch: Batch, delivery: Delivery) -> None:
        """A handler that hangs would keep its batch, and in the end its connection is cut by PostgreSQL."""
        limit = asyncio.timeout(self._options.handler_timeout.total_seconds())
        try:
            async with limit:
                await self._dispatch(connection, batch, delivery)
        except TimeoutError:
            if limit.expired():
                raise TooSlow(f"it took longer than {self._options.handler_timeout.total_seconds():g} s") from None
            raise
        except asyncio.CancelledError as error:
            raise leaked(error) from error
        except SystemExit as error:
            raise RuntimeError(f"it asked to end the process: {error}") from error

    def _require_faith(self, delivery: Delivery) -> None:
        """A lost connection is nobody's fault, unless it is lost in the handling of one message again and again."""
        if self._lost == (delivery.envelope.id, MOST_CONNECTIONS):
            self._lost = (None, 0)
            error = DatabaseUnavailable(f"{MOST_CONNECTIONS} connections were lost while it was handled")
            raise Failed(judge(delivery, error, self._options, self._patient(delivery)))

    async def _dispatch(self, connection: Connection, batch: Batch, delivery: Delivery) -> None:
        work = batch.work
        if delivery.expired:
            work.defer(_EXPIRED, delivery.position, delivery.envelope.id, delivery.envelope.key)
            batch.handled.append(delivery)
            return
        _require_readable(delivery)
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
        if not self._calls.reserve():
            soon = self._calls.turn_away()
            await self._hold(connection, batch, delivery, "waiting", soon, delivery.attempts, None, None)
            return False
        batch.places += 1
        message = parse(registration.model, delivery)
        intent = await registration.effect.intend(message, batch.work)
        if isinstance(intent, Reply):
            if is_command(registration):
                self._answers.give(batch.work, delivery, intent)
            return True
        call = Call(delivery, message, intent, new_id(), registration)
        await self._hold(connection, batch, delivery, "working", call.lease, delivery.attempts, call.token, None)
        batch.calls.append(call)
        return False

    def _patient(self, delivery: Delivery) -> bool:
        """Tell whether this message must never be given up: the moves of sagas are not, or one could be stranded."""
        return isinstance(self._table.get(delivery.envelope.type), Engine)

    def _registration(self, delivery: Delivery) -> Registration:
        envelope = delivery.envelope
        registration = self._table.get(envelope.type)
        if registration is None:
            name = envelope.type.rpartition(".")[0]
            known = sorted(t for t in self._table if t.rpartition(".")[0] == name)
            raise Dead(
                f"unknown version: {envelope.type}; {self._service} handles {', '.join(known)}"
                if known
                else f"unknown type: {self._service} has no handler for {envelope.type}"
            )
        if not accepts(registration, envelope, self._service):
            raise Dead(f"unreadable: {envelope.type} came as a message of the kind {envelope.kind}")
        return registration

    async def _park(self, connection: Connection, batch: Batch, failure: Failure) -> None:
        state = "dead" if failure.dead else "waiting"
        after, attempts = failure.after, failure.attempts
        await self._hold(connection, batch, failure.delivery, state, after, attempts, None, failure.error)
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

    def _after_commit(self, batch: Batch) -> None:
        batch.work.end()
        self._committed(batch.work)
        for failure in batch.failures:
            self._observation.parked(failure.delivery, failure.error, failure.dead, failure.attempts)
        self._calls.give_back(batch.places)
        batch.begun = [self._calls.start(call) for call in batch.calls]


def _require_readable(delivery: Delivery) -> None:
    envelope = delivery.envelope
    if UNREADABLE in envelope.headers:
        raise Dead(f"unreadable: {envelope.headers[UNREADABLE]}")
    if not is_service(envelope.headers.get(REPLY_TO, envelope.stream)):
        raise Dead(f"unreadable: {REPLY_TO} is not the name of a service")


def _finish(work: Work, delivery: Delivery) -> None:
    """Take a message off the queue."""
    work.collect("finish", delivery.lane, delivery.position)


def _finish_held(work: Work, delivery: Delivery) -> None:
    """Take a message from behind its hold."""
    work.collect("finish_held", delivery.envelope.key, delivery.position)


def _finished(work: Work, delivery: Delivery) -> None:
    """Do nothing: the message never was in the queue."""


def _leave(work: Work, delivery: Delivery) -> None:
    """Do nothing: the message stays where it is."""


def _queue(work: Work, delivery: Delivery) -> None:
    """Put a message that has not been in the queue there."""
    work.collect("queue", delivery.envelope.key, delivery.position)


async def _fetch(connection: Connection, sql: str, *args: Any) -> list[Delivery]:
    with translated():
        return [delivery_of(row) for row in await connection.fetch(sql, *args)]
