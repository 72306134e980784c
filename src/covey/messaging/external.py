"""Calls to the outside, between the transaction of their intent and that of their result.

Crash points. Before the intent commits: nothing was asked. After it: the key is held under this process's number;
when the process is gone another gives the key back at once, and the call is repeated with the same key. After
the answer, before the result commits: the same, and the outside recognizes the key. A process that was stopped
and wakes up late finds that its token is no longer the hold's, and writes nothing (fencing).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import structlog

from covey.clock import Clock
from covey.context import use
from covey.database.errors import translated
from covey.database.pool import Connection, Database
from covey.errors import CoveyError, DependencyUnavailable
from covey.message import Message
from covey.messaging.answers import Answers
from covey.messaging.delivery import Delivery
from covey.messaging.failure import Failure, judge
from covey.messaging.observation import Observation
from covey.messaging.options import LANES, MessagingOptions
from covey.messaging.router import External, as_reply, is_command
from covey.work.unit_of_work import Work, begin, commit, roll_back

_RESUME = "SELECT covey.resume($1, $2, $3)"
_FINISH_HELD = "SELECT covey.finish_held($1, $2)"
_PARK = "SELECT covey.park($1, $2, $3, $4, $5, NULL, NULL, $6)"

log = structlog.get_logger("covey.messaging")


@dataclass(frozen=True, slots=True)
class Call:
    """An effect outside that is to be called now that its intent is committed."""

    delivery: Delivery
    message: Message
    intent: Any
    token: UUID
    registration: External[Any]


class Calls:
    """The calls under way in this process, at most `options.calls` at a time (a bulkhead)."""

    def __init__(
        self,
        database: Database,
        service: str,
        clock: Clock,
        options: MessagingOptions,
        observation: Observation,
        committed: Callable[[Work], None],
        wake: Callable[[], None],
    ) -> None:
        self._database = database
        self._service = service
        self._clock = clock
        self._options = options
        self._observation = observation
        self._committed = committed
        self._wake = wake
        self._answers = Answers(service, clock)
        self._tasks: set[asyncio.Task[None]] = set()

    def room(self) -> bool:
        """Tell whether another call may begin."""
        return len(self._tasks) < self._options.calls

    def start(self, call: Call) -> None:
        """Begin a call whose intent is committed."""
        task = asyncio.create_task(self._run(call), name=f"call {call.delivery.envelope.type}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def drain(self) -> None:
        """Wait for the calls under way."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def abandon(self) -> None:
        """Stop waiting for the calls under way; another process will repeat them with the same keys."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self, call: Call) -> None:
        context = call.delivery.context()
        with use(context):
            try:
                with self._observation.calling(call.delivery, context):
                    result = await self._ask(call)
                await self._commit(call, result)
            except Exception as error:
                await self._set_aside(call, judge(call.delivery, error, self._options))
            self._wake()

    async def _ask(self, call: Call) -> Any:
        key = str(call.delivery.command_id or call.delivery.envelope.id)
        seconds = call.registration.timeout.total_seconds()
        try:
            async with asyncio.timeout(seconds):
                return await call.registration.effect.call(call.message, call.intent, key)
        except TimeoutError as error:
            raise DependencyUnavailable(f"no answer within {seconds:g} s") from error

    async def _commit(self, call: Call, result: Any) -> None:
        """Record the answer in one transaction, if the key is still ours."""
        delivery = call.delivery
        async with self._database.acquire() as connection:
            await begin(connection)
            try:
                if not await self._ours(connection, call):
                    await roll_back(connection)
                    return
                work = Work(connection, self._service, self._clock)
                reply = await call.registration.effect.settle(call.message, result, work)
                if is_command(call.registration):
                    self._answers.give(work, delivery, as_reply(reply, delivery.envelope.type))
                await work.flush()
                with translated():
                    await connection.execute(_FINISH_HELD, delivery.envelope.key, [delivery.position])
                await commit(connection)
            except BaseException:
                await roll_back(connection)
                raise
        self._committed(work)

    async def _set_aside(self, call: Call, failure: Failure) -> None:
        """Let the key wait before the next attempt. When even that fails its lease runs out, which does the same."""
        delivery = call.delivery
        state, after = ("dead", None) if failure.dead else ("waiting", self._options.delay(failure.attempts))
        try:
            async with self._database.acquire() as connection:
                await begin(connection)
                try:
                    if await self._ours(connection, call):
                        args = (state, after, failure.attempts, failure.error)
                        with translated():
                            await connection.execute(_PARK, delivery.envelope.key, delivery.position, *args)
                    await commit(connection)
                except BaseException:
                    await roll_back(connection)
                    raise
        except CoveyError as error:
            log.warning("call_not_set_aside", message_type=delivery.envelope.type, error=str(error))
            return
        self._observation.parked(delivery, failure.error, failure.dead, failure.attempts)

    async def _ours(self, connection: Connection, call: Call) -> bool:
        with translated():
            return bool(await connection.fetchval(_RESUME, LANES, call.delivery.envelope.key, call.token))
