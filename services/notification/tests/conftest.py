"""A mail sink, a real database of the notification service, and the service on top of both, for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from mail_sink.api import application
from notification_service.main import NotificationSettings, service

from covey.database.pool import Database
from covey.messaging.brokers.memory import MemoryBroker
from covey.testing.serving import serving
from covey.testing.tokens import KEY, bearer
from covey.work.unit_of_work import Transactions


@dataclass(frozen=True)
class Sink:
    """A mail sink that is up: where mail goes, and a client of its HTTP interface."""

    url: str
    http: aiohttp.ClientSession

    async def mails(self, **query: str) -> list[dict[str, Any]]:
        """Return what it has taken."""
        async with self.http.get("/mails", params=query) as response:
            mails: list[dict[str, Any]] = (await response.json())["mails"]
            return mails

    async def order(self, mode: str, calls: int | None = None) -> None:
        """Have it misbehave for so many calls, or until further notice."""
        async with self.http.put("/admin/mode", json={"mode": mode, "calls": calls}) as response:
            assert response.status == 204


@pytest.fixture(scope="session")
def service_migrations() -> Path:
    """What each test's database holds beside covey's tables."""
    return Path(__file__).parent.parent / "migrations"


@pytest.fixture
async def sink(tmp_path: Path) -> AsyncIterator[Sink]:
    """A mail sink with an empty book, whose misbehaviour is short."""
    async with (
        serving(application(tmp_path / "book", slow_seconds=0.2), lifespan=True) as url,
        aiohttp.ClientSession(url) as http,
    ):
        async with http.get("/health") as response:
            port = (await response.json())["smtp_port"]
        yield Sink(f"smtp://127.0.0.1:{port}", http)


@pytest.fixture
def transactions(database: Database) -> Transactions:
    """Where work on the test's database begins."""
    return Transactions(database, "notification")


@pytest.fixture
def settings(database_url: str, sink: Sink) -> NotificationSettings:
    """What the service is told: to wait a little for an address, and for the mail server."""
    return NotificationSettings(
        database_url=database_url,
        nats_url="nats://unused",
        development_key=KEY,
        smtp_url=sink.url,
        smtp_timeout=timedelta(seconds=1),
        address_patience=timedelta(seconds=1),
    )


@pytest.fixture
async def http(settings: NotificationSettings, memory_broker: MemoryBroker) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of the running service."""
    async with (
        service.running(settings, memory_broker) as running,
        serving(running.app) as url,
        aiohttp.ClientSession(url, headers=bearer("staff:test", "staff")) as client,
    ):
        yield client
