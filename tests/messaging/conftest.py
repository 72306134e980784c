"""A feed to read, databases of the shop, and queues of a service."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from covey.database.pool import Database
from covey.local.engines.embedded import Engines
from covey.messaging.brokers.memory import MemoryBroker
from covey.messaging.queue import Queue
from covey.messaging.queue_options import QueueOptions
from covey.messaging.queues import Queues
from covey.telemetry.metrics import Metrics
from covey.valkey.client import Valkey
from covey.work.unit_of_work import Transactions
from tests.messaging.feed import Feed, with_effects
from tests.messaging.queues import QUICK, Doings, Job, OpenPlace, Place


@pytest.fixture
def feed(memory_broker: MemoryBroker) -> Feed:
    """What the shop reads, on the memory broker of the test."""
    return Feed(memory_broker)


@pytest.fixture
def shop_url(make_database: Callable[[Path | None], str]) -> str:
    """A database of the shop: covey's tables and `effect`."""
    return with_effects(make_database(None))


@pytest.fixture
async def open_place(covey_engines: Engines, database: Database, system_name: str) -> AsyncIterator[OpenPlace]:
    """A function that makes the queue `things` of a service, of which there may be several replicas."""
    async with AsyncExitStack() as stack:

        async def open_(options: QueueOptions = QUICK, url: str = covey_engines.valkey_url) -> Place:
            valkey = await stack.enter_async_context(Valkey.open(url))
            queue, doings = Queue("things", Job, options), Doings()
            queue.handler(doings.handle)
            transactions = Transactions(database, "shop")
            queues = Queues([queue], valkey, system_name, transactions, Metrics())
            return Place(queue, doings, transactions, queues)

        yield open_


@pytest.fixture
async def place(open_place: OpenPlace) -> Place:
    opened: Place = await open_place()
    return opened
