"""Calls to the outside, between the transaction of their intent and that of their result.

Crash points. Before the intent commits: nothing was asked. After it: the key is held under this process's number;
when the process is gone another gives the key back at once, and the call is repeated with the same key. After
the answer, before the result commits: the same, and the outside recognizes the key. A process that was stopped
and wakes up late finds that its token is no longer the hold's, and writes nothing (fencing). A database that is gone
when the answer comes has it as soon as it is back.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar
from uuid import UUID

import structlog

from covey.clock import Clock
from covey.context import use
from covey.database.errors import translated
from covey.database.pool import Connection, Database
from covey.errors import Contention, CoveyError, DatabaseUnavailable, DependencyUnavailable, PoolExhausted
from covey.message import Message
from covey.messaging.answers import Answers
from covey.messaging.containment import contained
from covey.messaging.delivery import Delivery
from covey.messaging.ending import end
from covey.messaging.failure import Failure, judge, leaked
from covey.messaging.observation import Observation
from covey.messaging.options import LANES, MessagingOptions
from covey.messaging.router import External, as_reply, is_command
from covey.work.unit_of_work import Work, begin, commit, roll_back

GRACE = timedelta(seconds=5)
"""So long, beyond the time of the call, a key is held for who is to settle it."""

SETTLING = 4
"""So many calls may record their answers at once: each has a connection of the pool, while it waits for its lane."""

LONGEST_QUEUE_SECONDS = 5.0
AGAIN_SECONDS = 0.1

_RESUME = "SELECT * FROM covey.resume($1, $2, $3)"
_PARK = "SELECT covey.park($1, $2, $3, $4, $5, NULL, NULL, $6)"

T = TypeVar("T")

log = structlog.get_logger("covey.messaging")


@dataclass(frozen=True, slots=True)
class Call:
    """An effect outside that is to be called now that its intent is committed."""

    delivery: Delivery
    message: Message
    intent: Any
    token: UUID
    registration: External[Any]

    @property
    def lease(self) -> timedelta:
        """Return for how long its key is held, from the intent on."""
        return self.registration.timeout + GRACE


class Calls:
    """The calls under way in this process, at most `options.calls` at a time (a bulkhead).

    None begins while this process is not seen to be `alive`, because another would take it for abandoned at once.
    """

    def __init__(
        self,
        database: Database,
        service: str,
        clock: Clock,
        options: MessagingOptions,
        observation: Observation,
        committed: Callable[[Work], None],
        wake: Callable[[], None],
        alive: Callable[[], bool],
    ) -> None:
        self._database = database
        self._service = service
        self._clock = clock
        self._options = options
        self._observation = observation
        self._committed = committed
        self._wake = wake
        self._answers = Answers(service, clock)
        self._alive = alive
        self._tasks: set[asyncio.Task[None]] = set()
        self._reserved = 0
        self._settling = asyncio.Semaphore(SETTLING)
        self._mean_seconds = 0.0
        self._queue_ends = 0.0

    def reserve(self) -> bool:
        """Set a place for a call aside; False when there is none. Every place is given back in the end."""
        if len(self._tasks) + self._reserved >= self._options.calls or not self._alive():
            return False
        self._reserved += 1
        return True

    def give_back(self, places: int) -> None:
        """Give places back, to be taken by calls that start or by others."""
        self._reserved -= places

    def turn_away(self) -> timedelta:
        """Return when a message without a place should come again: when its turn would come if all waited in a queue.

        Coming at once, a few thousand of them would keep the database busy with nothing else.
        """
        now = time.monotonic()
        pace = self._mean_seconds / self._options.calls
        self._queue_ends = min(max(now, self._queue_ends) + pace, now + LONGEST_QUEUE_SECONDS)
        return max(self._options.backoff, timedelta(seconds=self._queue_ends - now))

    def start(self, call: Call) -> asyncio.Task[None]:
        """Begin a call whose intent is committed."""
        task = asyncio.create_task(self._run(call), name=f"call {call.delivery.envelope.type}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def drain(self) -> None:
        """Wait for the calls under way."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def abandon(self) -> None:
        """Stop waiting for the calls under way; another process will repeat them with the same keys."""
        await end(self._tasks)

    async def _run(self, call: Call) -> None:
        context, until = call.delivery.context(), time.monotonic() + call.lease.total_seconds()
        with use(context):
            try:
                with self._observation.calling(call.delivery, context):
                    result = await self._ask(call)
                more = await self._written(until, lambda: self._commit(call, result))
                if more or self._queue_ends > time.monotonic():
                    self._wake()
            except asyncio.CancelledError as error:
                await self._set_aside(call, until, leaked(error))
            except SystemExit as error:
                await self._set_aside(call, until, RuntimeError(f"it asked to end the process: {error}"))
            except Exception as error:
                await self._set_aside(call, until, error)

    async def _written(self, until: float, write: Callable[[], Awaitable[T]]) -> T:
        """Write until the database has taken it, or the lease is over: what it has not got costs the whole lease.

        Writing twice is harmless: whoever has written holds the key no longer.
        """
        while True:
            try:
                async with self._place(until):
                    return await write()
            except (DatabaseUnavailable, PoolExhausted, Contention):
                if time.monotonic() >= until:
                    raise
            await asyncio.sleep(AGAIN_SECONDS * random.uniform(0.5, 1.5))

    @asynccontextmanager
    async def _place(self, until: float) -> AsyncIterator[None]:
        """Wait for a place to write, not beyond the lease."""
        try:
            async with asyncio.timeout(max(0.0, until - time.monotonic())):
                await self._settling.acquire()
        except TimeoutError:
            raise PoolExhausted("no place to record what came of a call became free in time") from None
        try:
            yield
        finally:
            self._settling.release()

    async def _ask(self, call: Call) -> Any:
        key = str(call.delivery.command_id or call.delivery.envelope.id)
        seconds = call.registration.timeout.total_seconds()
        begun = time.monotonic()
        try:
            async with asyncio.timeout(seconds):
                return await call.registration.effect.call(call.message, call.intent, key)
        except TimeoutError as error:
            raise DependencyUnavailable(f"no answer within {seconds:g} s") from error
        finally:
            spent = time.monotonic() - begun
            self._mean_seconds += (spent - self._mean_seconds) / (8 if self._mean_seconds else 1)

    async def _commit(self, call: Call, result: Any) -> bool:
        """Record the answer in one transaction, if the key is still ours; tell whether more of the key waits."""
        delivery = call.delivery
        async with self._database.acquire() as connection:
            await begin(connection)
            work = Work(connection, self._service, self._clock)
            try:
                ours, more = await self._resumed(connection, call)
                if not ours:
                    await roll_back(connection)
                    return False
                settling = call.registration.effect.settle(call.message, result, work)
                reply = await contained(settling, self._options.handler_timeout, "settling")
                if is_command(call.registration):
                    self._answers.give(work, delivery, as_reply(reply, delivery.envelope.type))
                work.collect("finish_held", delivery.envelope.key, delivery.position)
                await work.flush()
                await commit(connection)
            except BaseException:
                await roll_back(connection)
                raise
            finally:
                work.end()
        self._committed(work)
        return more

    async def _set_aside(self, call: Call, until: float, reason: Exception) -> None:
        """Let the key wait before the next attempt. When even that fails its lease runs out, which does the same."""
        failure = judge(call.delivery, reason, self._options)
        try:
            ours = await self._written(until, lambda: self._park(call, failure))
        except CoveyError as error:
            log.warning("call_not_set_aside", message_type=call.delivery.envelope.type, error=str(error))
            return
        if ours:
            self._observation.parked(call.delivery, failure.error, failure.dead, failure.attempts)

    async def _park(self, call: Call, failure: Failure) -> bool:
        delivery, state = call.delivery, "dead" if failure.dead else "waiting"
        async with self._database.acquire() as connection:
            await begin(connection)
            try:
                ours, _ = await self._resumed(connection, call)
                if ours:
                    args = (state, failure.after, failure.attempts, failure.error)
                    with translated():
                        await connection.execute(_PARK, delivery.envelope.key, delivery.position, *args)
                await commit(connection)
            except BaseException:
                await roll_back(connection)
                raise
        return ours

    async def _resumed(self, connection: Connection, call: Call) -> tuple[bool, bool]:
        """Lock the lane; tell whether the key is still ours, and whether more waits behind it."""
        with translated():
            row = await connection.fetchrow(_RESUME, LANES, call.delivery.envelope.key, call.token)
        return row[0], row[1]
