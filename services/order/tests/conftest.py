"""A real database of the order service for each test, and the service on top of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from order_service.main import OrderSettings, service

from covey.database.pool import Database
from covey.messaging.brokers.memory import MemoryBroker
from covey.testing.serving import serving
from covey.testing.tokens import KEY, bearer
from covey.work.unit_of_work import Transactions


@pytest.fixture(scope="session")
def service_migrations() -> Path:
    """What each test's database holds beside covey's tables."""
    return Path(__file__).parent.parent / "migrations"


@pytest.fixture
def transactions(database: Database) -> Transactions:
    """Where work on the test's database begins."""
    return Transactions(database, "order")


@pytest.fixture
async def http(database_url: str, memory_broker: MemoryBroker) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of the running service."""
    settings = OrderSettings(database_url=database_url, nats_url="nats://unused", development_key=KEY)
    async with (
        service.running(settings, memory_broker) as running,
        serving(running.app) as url,
        aiohttp.ClientSession(url, headers=bearer("staff:test", "staff")) as client,
    ):
        yield client
