"""The queues of one service: where their jobs are, and what works them off."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from covey.clock import Grace
from covey.errors import DefinitionError
from covey.messaging.ending import end
from covey.messaging.queue import Queue
from covey.messaging.queue_store import QueueStore
from covey.messaging.queue_worker import QueueWorker
from covey.telemetry.metrics import Metrics
from covey.valkey.client import Valkey
from covey.work.unit_of_work import Transactions


class Queues:
    """Those that a service declares. From when it is made on, its works can add jobs."""

    def __init__(
        self, queues: Sequence[Queue[Any]], valkey: Valkey, system: str, transactions: Transactions, metrics: Metrics
    ) -> None:
        if len({queue.name for queue in queues}) < len(queues):
            raise DefinitionError("two queues of a service have one name: they would take each other's jobs")
        jobs = metrics.histogram("covey_job_seconds", "Time in jobs of a queue, each attempt", ("queue", "outcome"))
        dead = metrics.counter("covey_jobs_dead_total", "Jobs that are not tried any more", ("queue",))
        self._workers = []
        for queue in queues:
            queue.require_handler()
            store = QueueStore(valkey, system, transactions.service, queue.name, queue.options)
            transactions.resources[queue] = store
            self._workers.append(QueueWorker(queue, store, valkey, transactions, jobs, dead))

    @asynccontextmanager
    async def running(self, grace: Grace) -> AsyncIterator[None]:
        """Do jobs while the block runs; then finish what was begun, for at most `grace`, and hand back the rest."""
        tasks = [asyncio.create_task(worker.run(grace), name="queue") for worker in self._workers]
        try:
            yield
            for worker in self._workers:
                worker.stop()
            await asyncio.gather(*tasks)
        finally:
            await end(tasks)
