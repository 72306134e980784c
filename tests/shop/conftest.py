"""The whole shop in this process: three services, each on a database of its own, and the sandbox provider."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp
import asyncpg
import inventory_service.main
import order_service.main
import payment_service.main
import pytest
from payment_service.main import PaymentSettings
from sandbox_provider.api import Delays, application

from covey.ids import new_id
from covey.messaging.brokers.memory import MemoryBroker, MemoryLogs
from covey.settings import ServiceSettings
from covey.testing.eventually import eventually
from covey.testing.serving import serving
from shop.books import SERVICES, Sources

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True)
class Shop:
    """A running shop. `http` has a client for each service, and one for the provider."""

    sources: Sources
    http: dict[str, aiohttp.ClientSession]

    async def product(self, pieces: int, amount: int = 1_250) -> UUID:
        """Sell a new product from now on, and wait until order knows it."""
        price = {"amount": amount, "currency": "EUR"}
        made = await self.post("inventory", "/products", {"name": "Mug", "price": price})
        product_id = UUID(made["id"])
        await self.post("inventory", f"/products/{product_id}/deliveries", {"quantity": pieces})

        async def known() -> bool:
            connection = await asyncpg.connect(self.sources.databases["order"])
            try:
                return bool(await connection.fetchval("SELECT true FROM product WHERE id = $1", product_id))
            finally:
                await connection.close()

        await eventually(known)
        return product_id

    async def place(self, lines: dict[UUID, int], token: str = "tok_ok") -> UUID:
        """Place an order and return its id."""
        return UUID((await self.post("order", "/orders", self.order(lines, token)))["id"])

    async def settled(self, order_id: UUID) -> dict[str, Any]:
        """Wait until an order is no longer pending and return it."""

        async def order() -> dict[str, Any] | None:
            one = await self.get("order", f"/orders/{order_id}")
            return one if one["status"] != "pending" else None

        found = await eventually(order, timedelta(seconds=30))
        assert found is not None
        return found

    async def post(self, service: str, path: str, body: Any = None) -> Any:
        """POST, and return the answer, which must be good."""
        async with self.http[service].post(f"/api/v1{path}", json=body) as response:
            assert response.status < 300, await response.text()
            return await response.json()

    async def get(self, service: str, path: str) -> Any:
        """GET, and return the answer, which must be good."""
        async with self.http[service].get(f"/api/v1{path}") as response:
            assert response.status == 200, await response.text()
            return await response.json()

    def order(self, lines: dict[UUID, int], token: str = "tok_ok") -> dict[str, Any]:
        """An order as it is posted."""
        wanted = [{"product_id": str(product_id), "quantity": quantity} for product_id, quantity in lines.items()]
        return {"user_id": str(new_id()), "lines": wanted, "payment_token": token}


@pytest.fixture
async def sources(make_database: Callable[[Path | None], str], tmp_path: Path) -> AsyncIterator[Sources]:
    """The books of a shop in which nothing has happened yet: a database for each service, and a provider."""
    databases = {service: make_database(ROOT / "services" / service / "migrations") for service in SERVICES}
    book = application(tmp_path / "book", Delays(slow=0.3, late=1.0, silence=3.0))
    async with serving(book, lifespan=True) as provider:
        yield Sources(databases=databases, provider=provider)


@pytest.fixture
async def shop(sources: Sources) -> AsyncIterator[Shop]:
    """A shop without products and orders."""
    databases, provider = sources.databases, sources.provider
    logs = MemoryLogs()
    async with AsyncExitStack() as stack:
        apps = {
            "order": order_service.main.service.running(_settings(databases["order"]), MemoryBroker(logs)),
            "inventory": inventory_service.main.service.running(_settings(databases["inventory"]), MemoryBroker(logs)),
            "payment": payment_service.main.service.running(
                PaymentSettings(
                    database_url=databases["payment"],
                    nats_url="nats://unused",
                    provider_url=provider,
                    provider_timeout=timedelta(seconds=0.5),
                ),
                MemoryBroker(logs),
            ),
        }
        http = {"provider": await stack.enter_async_context(aiohttp.ClientSession(provider))}
        for service, app in apps.items():
            running = await stack.enter_async_context(app)
            url = await stack.enter_async_context(serving(running.app))
            http[service] = await stack.enter_async_context(aiohttp.ClientSession(url))
        yield Shop(sources=sources, http=http)


def _settings(database_url: str) -> ServiceSettings:
    return ServiceSettings(database_url=database_url, nats_url="nats://unused")
