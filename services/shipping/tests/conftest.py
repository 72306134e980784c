"""A sandbox carrier, a real database of the shipping service, and the service on top of both, for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import aiohttp
import pytest
from sandbox_carrier.api import Delays, application
from shipping_service.main import ShippingSettings, service

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
async def sandbox(tmp_path: Path) -> AsyncIterator[str]:
    """The URL of a sandbox carrier with an empty book, whose misbehaviour is short."""
    carrier = application(tmp_path / "book", Delays(slow=0.2, late=0.5, silence=1.0))
    async with serving(carrier, lifespan=True) as url:
        yield url


@pytest.fixture
async def office(sandbox: str) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of the sandbox carrier: to see its book, and to tell it how to behave."""
    async with aiohttp.ClientSession(sandbox) as session:
        yield session


@pytest.fixture
def transactions(database: Database) -> Transactions:
    """Where work on the test's database begins."""
    return Transactions(database, "shipping")


@pytest.fixture
async def http(database_url: str, memory_broker: MemoryBroker, sandbox: str) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of the running service."""
    settings = ShippingSettings(
        database_url=database_url,
        nats_url="nats://unused",
        development_key=KEY,
        carrier_url=sandbox,
        carrier_timeout=timedelta(seconds=0.5),
    )
    async with (
        service.running(settings, memory_broker) as running,
        serving(running.app) as url,
        aiohttp.ClientSession(url, headers=bearer("staff:test", "staff")) as client,
    ):
        yield client
