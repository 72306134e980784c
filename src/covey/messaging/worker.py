"""Workers: take turns for as long as there is work, in every replica.

Replicas share the work with no assignment: whoever finds a lane free takes it for a turn. A dead worker's locks
go with its connection; one that was stopped in a turn is cut off by `idle_in_transaction_session_timeout`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import structlog

from covey.database.pool import Database
from covey.errors import CoveyError
from covey.messaging.options import MessagingOptions
from covey.messaging.turn import Turns

IN_VAIN_SECONDS = 0.01
"""How soon a worker looks again when it could not have what it has seen; each further time after twice as long."""

log = structlog.get_logger("covey.messaging")


class Worker:
    """One connection that takes turns. It says `plenty` when one turn was not enough for what waits."""

    def __init__(self, database: Database, turns: Turns, options: MessagingOptions, plenty: Callable[[], None]) -> None:
        self._database = database
        self._turns = turns
        self._options = options
        self._plenty = plenty
        self._wake = asyncio.Event()
        self._waiting = False
        self._stopping = False
        self._failures = 0

    def wake(self) -> None:
        """Say that there may be work. Only saves waiting: a worker looks by itself too."""
        self._wake.set()

    @property
    def waiting(self) -> bool:
        """Tell whether it has nothing to do, and has not been woken yet."""
        return self._waiting and not self._wake.is_set()

    def stop(self) -> None:
        """Begin no further turn; `run` returns after the present one."""
        self._stopping = True
        self._wake.set()

    async def run(self) -> None:
        """Take turns until stopped. A lost connection is replaced; what it had begun was rolled back."""
        while not self._stopping:
            try:
                await self._take_turns()
            except CoveyError as error:
                self._failures += 1
                log.warning("worker_waits", error=f"{type(error).__name__}: {error}")
                await asyncio.sleep(min(5.0, 0.05 * 2 ** min(self._failures, 7)) * random.uniform(0.5, 1.0))

    async def _take_turns(self) -> None:
        async with self._database.connected(application_name="covey worker") as connection:
            vain = worked = 0
            while not self._stopping:
                self._wake.clear()
                ready, due = await self._turns.look(connection)
                if worked and ready:
                    self._plenty()
                worked = await self._turns.run(connection) if ready else 0
                worked += await self._turns.run_due(connection) if due else 0
                self._failures = 0
                vain = 0 if worked or not (ready or due) else vain + 1
                if not worked:
                    await self._wait(vain)

    async def _wait(self, vain: int) -> None:
        """Wait until woken, or a while: a short one while there is work that others stand before, in its lane.

        Never exactly as long: who looks in step with the retries of a message would always be the one to get it.
        """
        longest = self._options.poll.total_seconds() * random.uniform(0.5, 1.0)
        try:
            self._waiting = True
            async with asyncio.timeout(min(longest, IN_VAIN_SECONDS * 2 ** min(vain - 1, 10)) if vain else longest):
                await self._wake.wait()
        except TimeoutError:
            return
        finally:
            self._waiting = False
