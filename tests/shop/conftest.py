"""The whole shop in this process: services, each on a database of its own, and those outside: sandboxes and sink."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import aiohttp
import inventory_service.main
import mail_sink.api
import notification_service.main
import order_service.main
import payment_service.main
import pytest
import sandbox_carrier.api
import sandbox_provider.api
import shipping_service.main
import user_service.main
from notification_service.main import NotificationSettings
from order_service.main import OrderSettings
from payment_service.main import PaymentSettings
from shipping_service.main import ShippingSettings

from covey.messaging.brokers.memory import MemoryBroker, MemoryLogs
from covey.settings import ServiceSettings
from covey.testing.serving import serving
from covey.testing.tokens import KEY, token
from shop.books import SERVICES, Sources
from shop.client import ShopClient, order_of
from shop.seed import known_to_notification, known_to_order

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True)
class Shop:
    """A running shop: its books, and a client of its services."""

    sources: Sources
    client: ShopClient
    urls: dict[str, str]

    async def product(self, pieces: int) -> UUID:
        """Sell a new product from now on, at 12.50, and wait until order knows it."""
        product_id = await self.client.sell("Mug", 1_250)
        await self.client.deliver(product_id, pieces)
        await known_to_order(self.sources.databases["order"], {product_id})
        return product_id

    async def tell_carrier(self, **order: object) -> None:
        """Tell the carrier how to behave."""
        await _tell(self.sources.carrier, order)

    async def tell_provider(self, **order: object) -> None:
        """Tell the provider how to behave."""
        await _tell(self.sources.provider, order)

    async def customer(self, mailbox: str = "ada", *, wants_mail: bool = True) -> UUID:
        """Have a user who notification knows."""
        user_id = await self.client.register(mailbox, wants_mail=wants_mail)
        await known_to_notification(self.sources.databases["notification"], {user_id})
        return user_id

    async def place(self, lines: dict[UUID, int], token: str = "tok_ok", user_id: UUID | None = None) -> UUID:
        """Place an order, somebody new's without a user, and return its id."""
        return (await self.client.place(order_of(lines, token, user_id or await self.customer()))).id


@pytest.fixture
async def sources(make_database: Callable[[Path | None], str], tmp_path: Path) -> AsyncIterator[Sources]:
    """The books of a shop in which nothing has happened yet: a database for each service, and those outside."""
    databases = {service: make_database(ROOT / "services" / service / "migrations") for service in SERVICES}
    delays = {"slow": 0.3, "late": 1.0, "silence": 3.0}
    money = sandbox_provider.api.application(tmp_path / "provider", sandbox_provider.api.Delays(**delays))
    parcels = sandbox_carrier.api.application(tmp_path / "carrier", sandbox_carrier.api.Delays(**delays))
    letters = mail_sink.api.application(tmp_path / "mail", slow_seconds=delays["slow"])
    async with (
        serving(money, lifespan=True) as provider,
        serving(parcels, lifespan=True) as carrier,
        serving(letters, lifespan=True) as mail,
    ):
        yield Sources(databases=databases, provider=provider, carrier=carrier, mail=mail)


@pytest.fixture
async def smtp_url(sources: Sources) -> str:
    """Where mail goes."""
    async with aiohttp.ClientSession(sources.mail) as http, http.get("/health") as response:
        return f"smtp://127.0.0.1:{(await response.json())['smtp_port']}"


@pytest.fixture
async def shop(sources: Sources, smtp_url: str) -> AsyncIterator[Shop]:
    """A shop without products, users and orders."""
    databases = sources.databases
    logs = MemoryLogs()
    async with AsyncExitStack() as stack:
        apps = {
            "order": order_service.main.service.running(
                OrderSettings(database_url=databases["order"], nats_url="nats://unused", development_key=KEY),
                MemoryBroker(logs),
            ),
            "inventory": inventory_service.main.service.running(_settings(databases["inventory"]), MemoryBroker(logs)),
            "payment": payment_service.main.service.running(
                PaymentSettings(
                    database_url=databases["payment"],
                    nats_url="nats://unused",
                    development_key=KEY,
                    provider_url=sources.provider,
                    provider_timeout=timedelta(seconds=0.5),
                ),
                MemoryBroker(logs),
            ),
            "shipping": shipping_service.main.service.running(
                ShippingSettings(
                    database_url=databases["shipping"],
                    nats_url="nats://unused",
                    development_key=KEY,
                    carrier_url=sources.carrier,
                    carrier_timeout=timedelta(seconds=0.5),
                ),
                MemoryBroker(logs),
            ),
            "user": user_service.main.service.running(_settings(databases["user"]), MemoryBroker(logs)),
            "notification": notification_service.main.service.running(
                NotificationSettings(
                    database_url=databases["notification"],
                    nats_url="nats://unused",
                    development_key=KEY,
                    smtp_url=smtp_url,
                    smtp_timeout=timedelta(seconds=0.5),
                    address_patience=timedelta(seconds=0.5),
                ),
                MemoryBroker(logs),
            ),
        }
        urls = {}
        for service, app in apps.items():
            running = await stack.enter_async_context(app)
            urls[service] = await stack.enter_async_context(serving(running.app))
        client = await stack.enter_async_context(ShopClient.open(urls, token))
        yield Shop(sources=sources, client=client, urls=urls)


async def _tell(url: str, order: dict[str, object]) -> None:
    async with aiohttp.ClientSession(url) as http, http.put("/admin/mode", json=order) as response:
        assert response.status == 204


def _settings(database_url: str) -> ServiceSettings:
    return ServiceSettings(database_url=database_url, nats_url="nats://unused", development_key=KEY)
