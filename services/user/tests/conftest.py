"""A real database of the user service for each test, and the service on top of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import grpc
import pytest
from user_service.generated.user.v1.user_pb2_grpc import UserServiceStub
from user_service.main import service

from covey.database.pool import Database
from covey.messaging.brokers.memory import MemoryBroker
from covey.service import Running
from covey.settings import ServiceSettings
from covey.testing.serving import serving, serving_grpc
from covey.work.unit_of_work import Transactions


@pytest.fixture(scope="session")
def service_migrations() -> Path:
    """What each test's database holds beside covey's tables."""
    return Path(__file__).parent.parent / "migrations"


@pytest.fixture
def transactions(database: Database) -> Transactions:
    """Where work on the test's database begins."""
    return Transactions(database, "user")


@pytest.fixture
async def running(database_url: str, memory_broker: MemoryBroker) -> AsyncIterator[Running]:
    """The running service."""
    settings = ServiceSettings(database_url=database_url, nats_url="nats://unused")
    async with service.running(settings, memory_broker) as running:
        yield running


@pytest.fixture
async def http(running: Running) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of the running service."""
    async with serving(running.app) as url, aiohttp.ClientSession(url) as client:
        yield client


@pytest.fixture
async def users(running: Running) -> AsyncIterator[UserServiceStub]:
    """A gRPC client of the running service, as anybody may have one."""
    async with serving_grpc(running.grpc) as address, grpc.aio.insecure_channel(address) as channel:
        yield UserServiceStub(channel)
