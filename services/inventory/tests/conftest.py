"""A real database of the inventory service for each test, and the service on top of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from inventory_service.main import service

from covey.database.pool import Database
from covey.local.engines.embedded import Engines
from covey.messaging.brokers.memory import MemoryBroker
from covey.service import Running
from covey.settings import ServiceSettings
from covey.testing.cable import Cable
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
    return Transactions(database, "inventory")


@pytest.fixture
async def cable(covey_engines: Engines) -> AsyncIterator[Cable]:
    """The line to Valkey."""
    async with Cable.to(covey_engines.valkey_url) as laid:
        yield laid


@pytest.fixture
async def running(
    database_url: str, memory_broker: MemoryBroker, cable: Cable, system_name: str
) -> AsyncIterator[Running]:
    """The service, with what it keeps in Valkey."""
    settings = ServiceSettings(
        database_url=database_url,
        nats_url="nats://unused",
        valkey_url=cable.url,
        system=system_name,
        development_key=KEY,
    )
    async with service.running(settings, memory_broker) as started:
        yield started


@pytest.fixture
async def http(running: Running) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of the running service."""
    staff = bearer("staff:test", "staff")
    async with serving(running.app) as url, aiohttp.ClientSession(f"{url}/api/v1/", headers=staff) as client:
        yield client


class Shelf:
    """The products of the running service, as the staff makes and changes them."""

    mug: Mapping[str, Any] = {"name": "Mug", "price": {"amount": 1_250, "currency": "EUR"}}

    def __init__(self, http: aiohttp.ClientSession) -> None:
        self._http = http

    async def made(self) -> str:
        """Make a mug; return its id."""
        async with self._http.post("products", json=self.mug) as response:
            return str((await response.json())["id"])

    async def renamed(self, product_id: str, name: str, version: int) -> None:
        """Give the mug another name; `version` is the one that was seen."""
        changed, headers = {**self.mug, "name": name}, {"If-Match": f'"{version}"'}
        async with self._http.put(f"products/{product_id}", json=changed, headers=headers) as response:
            assert response.status == 200


@pytest.fixture
def shelf(http: aiohttp.ClientSession) -> Shelf:
    """What is on the shelf of the running service."""
    return Shelf(http)
