"""A real database of the user service for each test, and the service on top of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

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
from covey.testing.tokens import KEY, bearer, token
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
    settings = ServiceSettings(database_url=database_url, nats_url="nats://unused", development_key=KEY)
    async with service.running(settings, memory_broker) as running:
        yield running


@pytest.fixture
async def http(running: Running) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of the running service, the staff's."""
    staff = bearer("staff:test", "staff")
    async with serving(running.app) as url, aiohttp.ClientSession(url, headers=staff) as client:
        yield client


class Saying(grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[type-arg]  # generic in its stubs alone
    """Says with every call who makes it."""

    def __init__(self, subject: str, *roles: str) -> None:
        self._identity = ("authorization", f"Bearer {token(subject, *roles)}")

    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        metadata = grpc.aio.Metadata(*(details.metadata or ()), self._identity)
        return await continuation(details._replace(metadata=metadata), request)


@pytest.fixture
async def address(running: Running) -> AsyncIterator[str]:
    """Where the running service is called by gRPC."""
    async with serving_grpc(running.grpc) as address:
        yield address


@pytest.fixture
async def users(address: str) -> AsyncIterator[UserServiceStub]:
    """A gRPC client of the running service, the staff's."""
    who = [Saying("staff:test", "staff")]
    async with grpc.aio.insecure_channel(address, interceptors=who) as channel:
        yield UserServiceStub(channel)


@pytest.fixture
async def order_service(address: str) -> AsyncIterator[UserServiceStub]:
    """A gRPC client of the running service, another service's."""
    who = [Saying("service:order", "service")]
    async with grpc.aio.insecure_channel(address, interceptors=who) as channel:
        yield UserServiceStub(channel)


@pytest.fixture
async def nobody(address: str) -> AsyncIterator[UserServiceStub]:
    """A gRPC client of the running service that does not say whose it is."""
    async with grpc.aio.insecure_channel(address) as channel:
        yield UserServiceStub(channel)
