"""An order with its customer, whom the user service knows; without, when that is away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import trustme
from order_service.domain import Money, Product, ProductId
from order_service.generated.user.v1 import user_pb2 as pb
from order_service.generated.user.v1.user_pb2_grpc import UserServiceServicer
from order_service.main import OrderSettings, service
from order_service.storage import keep_product

from covey.errors import NotFound
from covey.grpc.options import GrpcOptions
from covey.grpc.server import GrpcServer
from covey.ids import new_id
from covey.local.ports import free_port
from covey.messaging.brokers.memory import MemoryBroker
from covey.security.tls import LOCAL, Encryption, Identity
from covey.telemetry.health import Readiness
from covey.telemetry.telemetry import Telemetry
from covey.testing.eventually import eventually
from covey.testing.serving import serving
from covey.testing.tokens import KEY, bearer, token
from covey.work.unit_of_work import Transactions


class FakeUsers(UserServiceServicer):
    """A user service that knows one name, or nobody, or says nothing."""

    def __init__(self, name: str | None = "Ada", *, silent: bool = False) -> None:
        self._name = name
        self._silent = silent
        self.asked = 0
        self.callers: set[str] = set()

    async def GetUser(self, request: pb.GetUserRequest, context: Any) -> pb.GetUserResponse:
        self.asked += 1
        self.callers.add(dict(context.invocation_metadata())["authorization"])
        if self._silent:
            await asyncio.sleep(60)
        if self._name is None:
            raise NotFound(f"there is no user {request.user_id}")
        return pb.GetUserResponse(user=pb.User(id=request.user_id, name=self._name))


@asynccontextmanager
async def known_by(users: FakeUsers, encryption: Encryption = LOCAL) -> AsyncIterator[str]:
    """Serve what stands in for the user service; yields its address."""
    readiness = Readiness()
    readiness.started()
    server = GrpcServer([users], Telemetry.in_memory(), readiness, None, GrpcOptions(), encryption=encryption)
    port = await server.start("127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(timedelta(0))


@asynccontextmanager
async def orders(database_url: str, user_grpc: str | None, **tls: Path) -> AsyncIterator[aiohttp.ClientSession]:
    """Run the order service; yields a client of it."""
    settings = OrderSettings(
        database_url=database_url, nats_url="nats://unused", user_grpc=user_grpc, development_key=KEY, **tls
    )
    async with (
        service.running(settings, MemoryBroker()) as running,
        serving(running.app) as url,
        aiohttp.ClientSession(url, headers=bearer("staff:test", "staff")) as http,
    ):
        yield http


async def placed(http: aiohttp.ClientSession, transactions: Transactions) -> dict[str, Any]:
    """Place an order."""
    product = Product(ProductId(new_id()), "mug", Money(1_250, "EUR"), 1)
    async with transactions.begin() as work:
        keep_product(work, product)
    body = {
        "user_id": str(new_id()),
        "lines": [{"product_id": str(product.id), "quantity": 1}],
        "payment_token": "tok",
    }
    async with http.post("/api/v1/orders", json=body) as response:
        assert response.status == 201, await response.text()
        order: dict[str, Any] = await response.json()
        return order


async def shown(http: aiohttp.ClientSession, order: dict[str, Any], query: str = "") -> Any:
    async with http.get(f"/api/v1/orders/{order['id']}{query}") as response:
        assert response.status == 200
        return await response.json()


async def test_an_order_is_shown_with_its_customer_when_it_is_asked_for(
    database_url: str, transactions: Transactions
) -> None:
    users = FakeUsers()
    async with known_by(users) as address, orders(database_url, address) as http:
        order = await placed(http, transactions)

        plain, expanded = await shown(http, order), await shown(http, order, "?expand=customer")

    assert plain == order
    assert expanded == {**order, "customer": {"id": order["user_id"], "name": "Ada"}}
    assert users.callers == {f"Bearer {token('service:order', 'service')}"}


async def test_the_name_is_asked_for_where_only_who_is_certified_is_answered(
    database_url: str, transactions: Transactions, tmp_path: Path
) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    tls = {f"tls_{name}": tmp_path / f"{name}.pem" for name in ("certificate", "key", "authorities")}
    certificate.cert_chain_pems[0].write_to_path(tls["tls_certificate"])
    certificate.private_key_pem.write_to_path(tls["tls_key"])
    authority.cert_pem.write_to_path(tls["tls_authorities"])
    encryption = Encryption(identity=Identity.read(*tls.values()))
    async with known_by(FakeUsers(), encryption) as address, orders(database_url, address, **tls) as http:
        order = await placed(http, transactions)

        expanded = await shown(http, order, "?expand=customer")

    assert expanded["customer"]["name"] == "Ada"


@pytest.mark.parametrize("why", ["not configured", "nobody listens", "it says nothing", "it does not know them"])
async def test_an_order_is_placed_and_shown_when_nobody_can_tell_the_name(
    database_url: str, transactions: Transactions, why: str
) -> None:
    users = FakeUsers(None) if why == "it does not know them" else FakeUsers(silent=True)
    async with known_by(users) as address:
        given = {"not configured": None, "nobody listens": f"127.0.0.1:{free_port()}"}.get(why, address)
        async with orders(database_url, given) as http:
            order = await placed(http, transactions)
            began = time.monotonic()
            expanded = await shown(http, order, "?expand=customer")

    assert expanded == {**order, "customer": {"id": order["user_id"], "name": None}}
    assert time.monotonic() - began < 2, "it waits for nobody for long"


async def test_no_connection_of_the_database_is_held_while_user_is_asked(
    database_url: str, transactions: Transactions
) -> None:
    users = FakeUsers(silent=True)
    async with known_by(users) as address, orders(database_url, address) as http:
        order = await placed(http, transactions)
        asked = [asyncio.create_task(shown(http, order, "?expand=customer")) for _ in range(5)]
        await eventually(lambda: users.asked >= 5)
        async with transactions.begin() as work:
            held = await work.fetchval(
                """
                SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                    AND state = 'idle in transaction' AND query LIKE '%FROM order_return%'
                """
            )
        await asyncio.gather(*asked)

    assert held == 0


async def test_something_else_cannot_be_expanded(database_url: str, transactions: Transactions) -> None:
    async with orders(database_url, None) as http:
        order = await placed(http, transactions)
        async with http.get(f"/api/v1/orders/{order['id']}?expand=everything") as response:
            assert response.status == 422


async def test_an_order_that_is_not_there_asks_nobody(database_url: str) -> None:
    async with (
        orders(database_url, f"127.0.0.1:{free_port()}") as http,
        http.get(f"/api/v1/orders/{new_id()}?expand=customer") as response,
    ):
        assert response.status == 404
