"""A whole shop of processes: services, each replica behind proxies, their databases, and everybody who is outside."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from covey.clock import SystemClock
from covey.local.program import unanswered
from covey.testing.tokens import KEY, token
from shop.books import SERVICES, Sources
from shop.client import ShopClient
from shop.seed import known_to_order
from tests.harness.floor import Floor
from tests.harness.replica import Replica

ROOT = Path(__file__).parents[2]
PIECES = 10_000_000
PATIENCE = "PT0.6S"
"""How long one call to the provider, or to the carrier, may take, and to hand over a mail."""


@dataclass(frozen=True)
class Shop:
    """A shop that is up. `product` is what it sells, `scarce` a product of which nothing is there."""

    name: str
    replicas: dict[str, list[Replica]]
    sources: Sources
    client: ShopClient
    product: UUID
    scarce: UUID

    def replica(self, service: str) -> Replica:
        """Return the first replica of a service."""
        return self.replicas[service][0]


@asynccontextmanager
async def open_shop(floor: Floor, name: str, replicas: int = 1) -> AsyncIterator[Shop]:
    """Have a shop of its own: a name of the system that no other uses, new databases, new books of those outside."""
    databases = {service: await floor.database(ROOT / "services" / service / "migrations") for service in SERVICES}
    smtp_port = floor.port()
    provider, carrier, mail = await asyncio.gather(
        _start(floor, name, "sandbox_provider"),
        _start(floor, name, "sandbox_carrier"),
        _start(floor, name, "mail_sink", {"SMTP_PORT": str(smtp_port)}),
    )
    outside = {
        "payment": {"PROVIDER_URL": provider, "PROVIDER_TIMEOUT": PATIENCE},
        "shipping": {"CARRIER_URL": carrier, "CARRIER_TIMEOUT": PATIENCE},
        "notification": {"SMTP_URL": f"smtp://127.0.0.1:{smtp_port}", "SMTP_TIMEOUT": PATIENCE},
    }
    sources = Sources(databases=databases, provider=provider, carrier=carrier, mail=mail)
    told = {service: {"DATABASE_URL": databases[service], **outside.get(service, {})} for service in SERVICES}
    members = {
        service: [await _replica(floor, name, service, n, told[service]) for n in range(1, replicas + 1)]
        for service in SERVICES
    }
    everyone = [replica for of_service in members.values() for replica in of_service]
    try:
        await asyncio.gather(*(replica.start() for replica in everyone))
        urls = {service: of_service[0].url for service, of_service in members.items()}
        async with ShopClient.open(urls, token) as client:
            product, scarce = await client.sell("mug", 1_250), await client.sell("teapot", 4_900)
            await client.deliver(product, PIECES)
            await known_to_order(databases["order"], {product, scarce})
            yield Shop(name, members, sources, client, product, scarce)
    finally:
        await asyncio.gather(*(replica.close() for replica in everyone))


async def _start(floor: Floor, name: str, package: str, told: Mapping[str, str] | None = None) -> str:
    """Start somebody outside with a new book, and return the address. They live as long as the floor does."""
    port = floor.port()
    data = floor.folder.path / f"{name}.{package}"
    data.mkdir()
    environment = {"PORT": str(port), "COVEY_DATA": str(data), **(told or {})}
    await floor.nursery.start(package, environment, floor.folder.path / "logs" / f"{name}-{package}.log")
    clock = SystemClock()
    until = clock.monotonic() + 20
    while problem := await unanswered(port, "/health"):
        if clock.monotonic() > until:
            raise RuntimeError(f"the {package} does not start: {problem}")
        await asyncio.sleep(0.02)
    return f"http://127.0.0.1:{port}"


async def _replica(floor: Floor, name: str, service: str, number: int, told: Mapping[str, str]) -> Replica:
    told = {
        "COVEY_SYSTEM": name,
        "COVEY_REPLICA": str(number),
        "HOST": "127.0.0.1",
        "PORT": str(floor.port()),
        "GRPC_PORT": "0",
        **floor.broker(),
        "DEVELOPMENT_KEY": KEY,
        "LOG_LEVEL": "INFO",
        **told,
    }
    log = floor.folder.path / "logs" / f"{name}-{service}-{number}.log"
    return await Replica.open(service, floor.nursery, told, log)
