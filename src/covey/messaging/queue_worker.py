"""Works a queue off in one process: a bounded number of jobs at once, each acknowledged after its work.

Crash points. Before a job's transaction has committed: it was not done, and is done again when its lease is over. After
that, before it is acknowledged: it is done again, which is what at least once means. A worker that stands still for
longer than its lease loses its jobs to others; when it goes on, both have done them, and what it has to say about a job
that failed is not heard any more. A mistake of covey's own in the middle of it all is logged, and the worker goes on:
nobody else does the jobs of a process whose worker has ended.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, TypeVar

import structlog

from covey.clock import Grace
from covey.context import use
from covey.errors import CoveyError, Unreadable
from covey.ids import new_id
from covey.messaging.ending import end
from covey.messaging.queue import Queue, context_of
from covey.messaging.queue_store import Look, QueueStore, Taken
from covey.telemetry.metrics import Counter, Histogram
from covey.telemetry.redaction import redact_text, text_of
from covey.valkey.client import Valkey
from covey.work.unit_of_work import Transactions

T = TypeVar("T")

log = structlog.get_logger("covey.messaging")


class QueueWorker:
    """One per process and queue; replicas share the jobs with no assignment."""

    def __init__(
        self,
        queue: Queue[Any],
        store: QueueStore,
        valkey: Valkey,
        transactions: Transactions,
        jobs: Histogram,
        dead: Counter,
    ) -> None:
        self._queue = queue
        self._options = queue.options
        self._store = store
        self._valkey = valkey
        self._transactions = transactions
        self._jobs = jobs
        self._dead = dead
        self._name = str(new_id())
        self._doing: dict[asyncio.Task[None], Taken] = {}
        self._stopping = asyncio.Event()
        self._failures = 0  # since it last took

    async def run(self, grace: Grace) -> None:
        """Do jobs until stopped, then finish those that were begun, for at most `grace`, and hand back the rest."""
        keeping = asyncio.create_task(self._keep(), name=f"leases of {self._queue.name}")
        try:
            await self._do_all()
            if self._doing:
                await asyncio.wait(self._doing, timeout=grace.seconds_left())
        finally:
            self.stop()
            await end(self._doing)
            await end([keeping])

    def stop(self) -> None:
        """Take no job any more."""
        self._stopping.set()

    async def _do_all(self) -> None:
        while not self._stopping.is_set():
            try:
                await self._take_and_do()
            except CoveyError as error:
                level = logging.DEBUG if self._failures else logging.WARNING
                log.log(level, "queue_waits", queue=self._queue.name, error=str(error))
            except Exception as error:
                self._report(error)
            pause = min(2.0, 0.05 * 2 ** min(self._failures, 6)) * random.uniform(0.5, 1.0)
            self._failures += 1
            await self._until_stopped(asyncio.sleep(pause))

    async def _take_and_do(self) -> None:
        """Take and do, until stopped or Valkey is lost."""
        async with self._valkey.connected(self._options.poll + timedelta(seconds=2)) as connection:
            while not self._stopping.is_set():
                room = self._options.at_once - len(self._doing)
                if room <= 0:
                    await self._until_stopped(asyncio.wait(list(self._doing), return_when=asyncio.FIRST_COMPLETED))
                    continue
                look = await self._store.take(self._name, room, [taken.entry for taken in self._doing.values()])
                self._failures = 0
                for dead in look.buried:
                    self._dead.add((self._queue.name,))
                    log.error("job_dead", queue=self._queue.name, job=dead, error="its workers have died, or lost it")
                for taken in look.taken:
                    task = asyncio.create_task(self._do(taken), name=f"job of {self._queue.name}")
                    self._doing[task] = taken
                    task.add_done_callback(self._ended)
                if look.alone and self._doing:
                    await self._until_stopped(asyncio.wait(list(self._doing)))
                elif not look.taken:
                    await self._until_stopped(self._store.more(connection, look.last, self._patience(look)))

    def _patience(self, look: Look) -> timedelta:
        return self._options.poll if look.due is None else min(self._options.poll, look.due)

    async def _until_stopped(self, wait: Awaitable[Any]) -> None:
        """Wait for something, at most until stopped. Raises what it raises."""
        waiting = asyncio.ensure_future(wait)
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait([waiting, stopping], return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                waiting.result()
        finally:
            await end([waiting, stopping])

    async def _do(self, taken: Taken) -> None:
        begun = time.monotonic()
        try:
            await self._attempt(taken)
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and self._stopping.is_set():
                await self._say(self._store.hand_back, self._name, taken)
                raise
            self._jobs.observe(time.monotonic() - begun, (self._queue.name, "failed"))
            await self._failed(taken, error)
        else:
            self._jobs.observe(time.monotonic() - begun, (self._queue.name, "done"))
            await self._say(self._store.done, taken)

    async def _attempt(self, taken: Taken) -> None:
        """Do the job in a transaction, and return when that has committed."""
        with use(context_of(taken.text)):
            async with asyncio.timeout(self._options.timeout.total_seconds()), self._transactions.begin() as work:
                await self._queue.handle(taken.text, work)

    def _ended(self, task: asyncio.Task[None]) -> None:
        taken = self._doing.pop(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("job_outcome_unsaid", queue=self._queue.name, job=taken.id, error=str(error))

    async def _failed(self, taken: Taken, error: BaseException) -> None:
        why = redact_text(f"{type(error).__name__}: {text_of(error)}")[:1_000]
        last = taken.attempt >= self._options.max_attempts or isinstance(error, Unreadable)
        said = {"queue": self._queue.name, "job": taken.id, "attempt": taken.attempt, "error": why}
        if not last:
            log.warning("job_failed", **said)
            await self._say(self._store.later, self._name, taken, self._options.delay(taken.attempt), why)
        elif await self._say(self._store.bury, self._name, taken, why):
            self._dead.add((self._queue.name,))
            log.error("job_dead", **said)
        else:
            log.warning("job_failed", **said)  # another has it, and says what comes of it; or nobody knows

    async def _say(self, say: Callable[..., Awaitable[T]], *what: Any) -> T | None:
        """Say what became of a job, again while Valkey is away; once its lease is over another has it, and says it.

        Returns what was answered, None when nothing was.
        """
        until = time.monotonic() + self._options.lease.total_seconds()
        while True:
            try:
                return await say(*what)
            except CoveyError as error:
                if time.monotonic() > until:
                    log.warning("job_outcome_unsaid", queue=self._queue.name, error=str(error))
                    return None
                await asyncio.sleep(0.1)

    async def _keep(self) -> None:
        """Say again and again that the jobs that are being done here still are."""
        while True:
            await asyncio.sleep(self._options.lease.total_seconds() / 3)
            try:
                await self._store.keep(self._name, [taken.entry for taken in self._doing.values()])
            except CoveyError as error:
                log.debug("leases_unsaid", queue=self._queue.name, error=str(error))
            except Exception as error:
                self._report(error)

    def _report(self, error: Exception) -> None:
        log.error("queue_failed", queue=self._queue.name, exc_info=error)
