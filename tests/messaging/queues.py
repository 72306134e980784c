"""A queue of a service for tests: what its handler does and has done, and how its jobs are done inside a block."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from pydantic import BaseModel

from covey.clock import Grace
from covey.messaging.queue import Queue
from covey.messaging.queue_options import QueueOptions
from covey.messaging.queue_store import QueueStore, Taken
from covey.messaging.queues import Queues
from covey.work.unit_of_work import Transactions, Work

MS = timedelta(milliseconds=1)
QUICK = QueueOptions(backoff=5 * MS, backoff_cap=20 * MS, lease=timedelta(seconds=2), poll=50 * MS, max_attempts=3)


class Job(BaseModel):
    """What is to be done."""

    n: int


@dataclass
class Doings:
    """What the handler of a queue has done, and how it behaves: it does what `then` does, if anything."""

    done: list[int] = field(default_factory=list)
    attempts: list[int] = field(default_factory=list)
    at_once: int = 0
    most: int = 0
    then: Callable[[Job], Any] | None = None

    async def handle(self, job: Job, work: Work) -> None:
        self.attempts.append(job.n)
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        try:
            if self.then is not None and asyncio.iscoroutine(doing := self.then(job)):
                await doing
        finally:
            self.at_once -= 1
        self.done.append(job.n)


@dataclass(frozen=True)
class Place:
    """A service's side of a queue: its transactions, and what it does."""

    queue: Queue[Job]
    doings: Doings
    transactions: Transactions
    queues: Queues

    async def add(self, n: int, **how: Any) -> bool:
        """Add a job."""
        async with self.transactions.begin() as work:
            return await self.queue.add(work, Job(n=n), **how)

    async def ask(self, what: Callable[[Work], Any]) -> Any:
        """Ask the queue something."""
        async with self.transactions.begin() as work:
            return await what(work)

    async def is_empty(self) -> bool:
        """Tell whether no job is there."""
        lengths = await self.ask(self.queue.lengths)
        return (lengths.ready, lengths.later, lengths.dead) == (0, 0, 0)


OpenPlace = Callable[..., Any]


@asynccontextmanager
async def running(*places: Place, drain: timedelta = timedelta(seconds=5)) -> AsyncIterator[None]:
    """Have jobs done inside the block."""
    async with AsyncExitStack() as stack:
        for place in places:
            await stack.enter_async_context(place.queues.running(Grace(drain)))
        yield


def fail(job: Job) -> None:
    """Do no job."""
    raise ValueError("no luck")


async def work_of(place: Place) -> Work:
    """Return a work through which a queue can be asked for its store."""
    async with place.transactions.begin() as work:
        return work


async def taken_of(store: QueueStore, worker: str) -> list[Taken]:
    """Return what a worker is given that has room for one job."""
    return (await store.take(worker, 1)).taken


async def are_dead(place: Place, ids: set[str]) -> bool:
    """Tell whether these jobs are dead, and no others."""
    return {dead.id for dead in await place.ask(place.queue.dead)} == ids
