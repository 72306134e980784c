"""Recording what came of calls to the outside: answers that come at about the same time in one transaction.

Calls end one by one, but many within moments. An answer is recorded at once if none is being recorded; what comes
meanwhile waits, and shares the next transaction. Nobody waits for others to come. If anything goes wrong in a shared
transaction it is rolled back, and each answer is recorded alone: so a message is judged by what it does alone, and what
it does to others is one transaction of theirs that takes longer. An answer in whose lane somebody works is recorded
alone too, which waits for the lane.

Crash points. After the answer, before the result commits: the call is repeated with the same key, which the outside
recognizes. A commit of which nobody knows: each is tried again alone, and finds that its key is no longer held by it. A
process that was stopped and wakes up late finds the same, and writes nothing (fencing). A database that is gone when
the answer comes has it as soon as it is back.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from covey.context import use
from covey.errors import Contention, DatabaseUnavailable, PoolExhausted
from covey.messaging.answers import Answers
from covey.messaging.call import GRACE, Call
from covey.messaging.containment import contained
from covey.messaging.ending import end
from covey.messaging.failure import Failure
from covey.messaging.options import LANES, MessagingOptions
from covey.messaging.router import as_reply, is_command
from covey.work.unit_of_work import Transactions, Work

ALONE = 3
"""So many are recorded alone at once: each has a connection of the pool, while it waits for its lane."""

TOGETHER = 64
"""So many answers share a transaction at most."""

TOGETHER_SECONDS = GRACE.total_seconds() / 4
"""So long a shared transaction may take; the rest of the grace is for recording each alone."""

AGAIN_SECONDS = 0.1

_RESUME = "SELECT * FROM covey.resume($1, $2, $3, $4)"

T = TypeVar("T")


@dataclass(eq=False, slots=True)
class _Waiting:
    """An answer that waits to be recorded. `more` will say whether more of its key waits; None: record it alone."""

    call: Call
    result: Any
    more: asyncio.Future[bool | None]


class Recording:
    """Records for the calls of one process."""

    def __init__(self, transactions: Transactions, options: MessagingOptions) -> None:
        self._transactions = transactions
        self._options = options
        self._answers = Answers(transactions.service, transactions.clock)
        self._alone = asyncio.Semaphore(ALONE)
        self._waiting: list[_Waiting] = []
        self._together: asyncio.Task[None] | None = None

    async def answer(self, call: Call, result: Any, until: float) -> bool:
        """Record an answer if the key is still the call's; tell whether more of the key waits. `until` is monotonic."""
        waiting = _Waiting(call, result, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._together is None:
            # It belongs to none of them: their contexts are used where their own code runs.
            self._together = asyncio.create_task(
                self._record_together(), name="recording", context=contextvars.Context()
            )
        more = await waiting.more
        if more is None:
            recorded = await self._written(until, lambda: self._record([waiting], alone=True))
            more = recorded[waiting]
        return more

    async def failure(self, call: Call, failure: Failure, until: float) -> bool:
        """Let the key wait, or hold it for good, if it is still the call's; tell whether it was."""
        return await self._written(until, lambda: self._park(call, failure))

    async def abandon(self) -> None:
        """Stop recording; what waits is not recorded."""
        if self._together is not None:
            await end([self._together])

    async def _record_together(self) -> None:
        taken: list[_Waiting] = []
        try:
            while self._waiting:
                taken, self._waiting = self._waiting[:TOGETHER], self._waiting[TOGETHER:]
                recorded: dict[_Waiting, bool] = {}
                try:
                    async with asyncio.timeout(TOGETHER_SECONDS):
                        recorded = await self._record(taken, alone=False)
                except Exception:
                    pass  # whoever it was the fault of meets it again alone, and is told
                _tell(taken, recorded)
        finally:
            self._together = None
            _tell([*taken, *self._waiting], {})
            self._waiting = []

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
                await self._alone.acquire()
        except TimeoutError:
            raise PoolExhausted("no place to record what came of a call became free in time") from None
        try:
            yield
        finally:
            self._alone.release()

    async def _record(self, waiting: list[_Waiting], *, alone: bool) -> dict[_Waiting, bool]:
        """Record answers in one transaction, those whose keys are still their calls'.

        Tells of which more waits; of one that has to be recorded alone it tells nothing.
        """
        recorded: dict[_Waiting, bool] = {}
        async with self._transactions.begin() as work:
            found = await _resumed(work, [one.call for one in waiting], wait=alone)
            for one, (ours, more) in zip(waiting, found, strict=True):
                if ours and not work.plenty:
                    await self._settle(one, work)
                    recorded[one] = more
                elif ours is False:
                    recorded[one] = False
        return recorded

    async def _settle(self, waiting: _Waiting, work: Work) -> None:
        call, delivery = waiting.call, waiting.call.delivery
        with use(delivery.context()):
            settling = call.registration.effect.settle(call.message, waiting.result, work)
            reply = await contained(settling, self._options.handler_timeout, "settling")
            if is_command(call.registration):
                self._answers.give(work, delivery, as_reply(reply, delivery.envelope.type))
        work.collect("finish_held", delivery.envelope.key, delivery.position)

    async def _park(self, call: Call, failure: Failure) -> bool:
        delivery, state = call.delivery, "dead" if failure.dead else "waiting"
        async with self._transactions.begin() as work:
            [(ours, _)] = await _resumed(work, [call], wait=True)
            if ours:
                hold = (state, failure.after, failure.attempts, None, None, failure.error)
                work.collect("park", delivery.envelope.key, delivery.position, *hold)
        return bool(ours)


async def _resumed(work: Work, calls: list[Call], *, wait: bool) -> list[tuple[bool | None, bool]]:
    """Lock the lanes; tell of each call whether its key is still its own, and whether more waits behind it.

    None for one in whose lane somebody works. `wait` waits for the lane, of one call.
    """
    keys, tokens = [call.delivery.envelope.key for call in calls], [call.token for call in calls]
    found: list[tuple[bool | None, bool]] = [(None, False)] * len(calls)
    for number, ours, more in await work.fetch(_RESUME, LANES, keys, tokens, wait):
        found[number - 1] = (ours, more)
    return found


def _tell(waiting: list[_Waiting], recorded: dict[_Waiting, bool]) -> None:
    """Tell those who wait what has become of their answers."""
    for one in waiting:
        if not one.more.done():
            one.more.set_result(recorded.get(one))
