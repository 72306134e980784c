"""Calls to the outside, between the transaction of their intent and that of their result.

Crash points. Before the intent commits: nothing was asked. After it: the key is held under this process's number;
when the process is gone another gives the key back at once, and the call is repeated with the same key. A commit of
which nobody knows, because the database went away in it: the process lives, so it gives the key back itself. After
the answer: see covey.messaging.recording.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any

import structlog

from covey.context import use
from covey.errors import CoveyError, DependencyUnavailable
from covey.messaging.call import Call
from covey.messaging.ending import end
from covey.messaging.failure import Failure, judge, leaked
from covey.messaging.observation import Observation
from covey.messaging.options import MessagingOptions
from covey.messaging.recording import Recording

LONGEST_QUEUE_SECONDS = 5.0

log = structlog.get_logger("covey.messaging")


class Calls:
    """The calls under way in this process, at most `options.calls` at a time (a bulkhead).

    None begins while this process is not seen to be `alive`, because another would take it for abandoned at once.
    """

    def __init__(
        self,
        recording: Recording,
        options: MessagingOptions,
        observation: Observation,
        wake: Callable[[], None],
        alive: Callable[[], bool],
    ) -> None:
        self._recording = recording
        self._options = options
        self._observation = observation
        self._wake = wake
        self._alive = alive
        self._tasks: set[asyncio.Task[None]] = set()
        self._reserved = 0
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
        return self._keep(self._run(call), f"call {call.delivery.envelope.type}")

    def forgo(self, call: Call) -> None:
        """Give the key of a call that does not begin back, as soon as the database can say whether it is held."""
        self._keep(self._give_key_back(call), f"no call {call.delivery.envelope.type}")

    async def drain(self) -> None:
        """Wait for the calls under way."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def abandon(self) -> None:
        """Stop waiting for the calls under way; another process will repeat them with the same keys."""
        await end(self._tasks)
        await self._recording.abandon()

    def _keep(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _give_key_back(self, call: Call) -> None:
        until = time.monotonic() + call.lease.total_seconds()
        delivery = call.delivery
        failure = Failure(delivery, "nobody knows whether its intent was committed", timedelta(0), delivery.attempts)
        try:
            if await self._recording.failure(call, failure, until):
                self._wake()
        except CoveyError as error:  # its lease runs out, which does the same
            log.warning("key_not_given_back", message_type=delivery.envelope.type, error=str(error))

    async def _run(self, call: Call) -> None:
        context, until = call.delivery.context(), time.monotonic() + call.lease.total_seconds()
        with use(context):
            try:
                with self._observation.calling(call.delivery, context):
                    result = await self._ask(call)
                more = await self._recording.answer(call, result, until)
                if more or self._queue_ends > time.monotonic():
                    self._wake()
            except asyncio.CancelledError as error:
                await self._set_aside(call, until, leaked(error))
            except SystemExit as error:
                await self._set_aside(call, until, RuntimeError(f"it asked to end the process: {error}"))
            except Exception as error:
                await self._set_aside(call, until, error)

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

    async def _set_aside(self, call: Call, until: float, reason: Exception) -> None:
        """Let the key wait before the next attempt. When even that fails its lease runs out, which does the same."""
        failure = judge(call.delivery, reason, self._options)
        try:
            ours = await self._recording.failure(call, failure, until)
        except CoveyError as error:
            log.warning("call_not_set_aside", message_type=call.delivery.envelope.type, error=str(error))
            return
        if ours:
            self._observation.parked(call.delivery, failure.error, failure.dead, failure.attempts)
