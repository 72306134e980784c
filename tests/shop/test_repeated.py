"""Every POST of the shop, sent again with its `Idempotency-Key`: one effect, one answer, over the wire.

Which there are is read from what the services say of themselves, so that a new one is asked for here.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

import aiohttp
import asyncpg

from covey.ids import new_id
from covey.testing.eventually import eventually
from covey.testing.tokens import bearer
from shop.books import SERVICES
from shop.client import order_of

if TYPE_CHECKING:
    from conftest import Shop

Operation = tuple[str, str]
"""A service, and the template of a path to which it takes POST."""

STAFF = bearer("staff:test", "staff")
SAME = ("Content-Type", "Location", "ETag")
"""Headers that are part of an answer; others are of the exchange, such as X-Correlation-Id."""


@dataclass(frozen=True)
class Request:
    """A request and another one to the same address, both of which would be carried out; `path` has its ids."""

    path: str
    body: Any
    other: Any


@dataclass(frozen=True)
class Reply:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def answer(self) -> tuple[int, list[str | None], bytes]:
        """Return what of it must be the same when it is given again."""
        return self.status, [self.headers.get(name) for name in SAME], self.body

    @property
    def problem(self) -> tuple[int, str]:
        """Return its status and type."""
        return self.status, json.loads(self.body)["type"]


async def test_each_is_carried_out_once_and_answered_the_same_byte_for_byte(shop: Shop) -> None:
    requests = await all_requests(shop)
    assert set(requests) == await operations(shop), "each POST of the documents has a request here, and takes a key"

    wrong = [
        f"{service} {template}: {mistake}"
        for (service, template), request in requests.items()
        for mistake in await mistakes(shop, service, request)
    ]

    assert not wrong, "\n".join(wrong)


async def mistakes(shop: Shop, service: str, request: Request) -> list[str]:
    """Return what is wrong with the answers to a request that comes again: while it is carried out, and after."""
    key = str(new_id())
    async with aiohttp.ClientSession(shop.urls[service], headers=STAFF) as http:
        malformed = await sent(http, request.path, request.body, "two words")
        async with writers_wait(shop.sources.databases[service]) as waiting:
            first = asyncio.create_task(sent(http, request.path, request.body, key))
            await eventually(waiting)
            meanwhile = await sent(http, request.path, request.body, key)
        answer = await first
        again = [await sent(http, request.path, request.body, key) for _ in range(2)]
        another = await sent(http, request.path, request.other, key)
    found = {
        "malformed": malformed.status == 400,
        "in flight": meanwhile.problem == (409, "/problems/idempotency-key-in-use")
        and "Retry-After" in meanwhile.headers,
        "first": answer.status in (200, 201, 202),
        "a 201 says where": answer.status != 201 or "Location" in answer.headers,
        "again": [one.answer for one in again] == [answer.answer] * 2,
        "another": another.problem == (422, "/problems/idempotency-key-reused"),
    }
    told = [malformed, meanwhile, answer, *again, another]
    return [f"{what}: {[(one.status, one.body) for one in told]}" for what, is_right in found.items() if not is_right]


async def sent(http: aiohttp.ClientSession, path: str, body: Any, key: str) -> Reply:
    async with http.post(path, json=body, headers={"Idempotency-Key": key}) as response:
        return Reply(response.status, response.headers.copy(), await response.read())


@asynccontextmanager
async def writers_wait(url: str) -> AsyncIterator[Any]:
    """Keep everybody from writing what a service has, and its outbox, inside the block; keys can be claimed.

    Yields what tells whether somebody waits who has claimed a key.
    """
    connection, watching = await asyncpg.connect(url), await asyncpg.connect(url)
    try:
        async with connection.transaction():
            names = await connection.fetch(
                "SELECT format('%I', tablename) AS name FROM pg_tables WHERE schemaname = 'public'"
            )
            tables = ", ".join(["covey.outbox", *(row["name"] for row in names)])
            await connection.execute(f"LOCK TABLE {tables} IN EXCLUSIVE MODE")

            async def waiting() -> bool:
                return bool(
                    await watching.fetchval(
                        """
                        SELECT EXISTS (
                            SELECT FROM pg_locks held JOIN pg_locks wanted USING (pid)
                            WHERE held.relation = 'covey.idempotency'::regclass AND NOT wanted.granted)
                        """
                    )
                )

            yield waiting
    finally:
        await connection.close()
        await watching.close()


async def operations(shop: Shop) -> set[Operation]:
    """Return every POST that takes an Idempotency-Key. Fails where one does not."""
    found = set()
    async with aiohttp.ClientSession() as http:
        for service in SERVICES:
            async with http.get(f"{shop.urls[service]}/openapi.json") as response:
                paths = (await response.json())["paths"]
            for path, item in paths.items():
                if "post" in item:
                    names = {parameter["name"] for parameter in item["post"].get("parameters", ())}
                    assert "Idempotency-Key" in names, (service, path)
                    found.add((service, path))
    return found


async def all_requests(shop: Shop) -> dict[Operation, Request]:
    """Return a request for each POST, of a shop in which something has happened."""
    mug, ada = await shop.product(1_000), await shop.customer()
    bought = await shop.place({mug: 4}, user_id=ada)
    await shop.client.happened(bought, "place-order completed")
    await shop.tell_provider(mode="down")
    pending = await shop.place({mug: 1}, user_id=ada)
    payment = await only(shop, "payment", "payments", bought)
    shipment = await only(shop, "shipping", "shipments", bought)
    few, fewer = {"limit": 2}, {"limit": 1}
    return {
        ("user", "/api/v1/users"): Request("/api/v1/users", user("one"), user("two")),
        ("user", "/api/v2/users"): Request("/api/v2/users", user_v2("three"), user_v2("four")),
        ("user", "/api/v1/users/announcements"): Request("/api/v1/users/announcements", few, fewer),
        ("user", "/api/v2/users/announcements"): Request("/api/v2/users/announcements", few, fewer),
        ("inventory", "/api/v1/products"): Request("/api/v1/products", product("Cup"), product("Pot")),
        ("inventory", "/api/v1/products/announcements"): Request("/api/v1/products/announcements", few, fewer),
        ("inventory", "/api/v1/products/{product_id}/deliveries"): Request(
            f"/api/v1/products/{mug}/deliveries", {"quantity": 3}, {"quantity": 4}
        ),
        ("order", "/api/v1/orders"): Request(
            "/api/v1/orders", order_of({mug: 1}, user_id=ada), order_of({mug: 2}, user_id=ada)
        ),
        ("order", "/api/v1/orders/{order_id}/returns"): Request(
            f"/api/v1/orders/{bought}/returns", {"lines": one_of(mug)}, {"lines": one_of(mug), "reason": "too small"}
        ),
        ("order", "/api/v1/orders/{order_id}/cancel"): Request(
            f"/api/v1/orders/{pending}/cancel", {"reason": "too late"}, {"reason": "too dear"}
        ),
        ("payment", "/api/v1/payments/{payment_id}/refunds"): Request(
            f"/api/v1/payments/{payment}/refunds", {"amount": 1}, {"amount": 2}
        ),
        ("shipping", "/api/v1/shipments/{shipment_id}/tracking"): Request(
            f"/api/v1/shipments/{shipment}/tracking", {"status": "in_transit"}, {"status": "delivered"}
        ),
    }


async def only(shop: Shop, service: str, what: str, order_id: UUID) -> str:
    """Return the id of the one thing that a service has for an order."""
    (found,) = (await shop.client.get(service, f"/{what}?order_id={order_id}"))[what]
    return str(found["id"])


def user(mailbox: str) -> dict[str, Any]:
    return {"name": "Ada", "email": f"{mailbox}@example.org"}


def user_v2(mailbox: str) -> dict[str, Any]:
    return {"name": {"full": "Ada"}, "contact": {"email": f"{mailbox}@example.org"}}


def product(name: str) -> dict[str, Any]:
    return {"name": name, "price": {"amount": 900, "currency": "EUR"}}


def one_of(product_id: UUID) -> list[dict[str, Any]]:
    return [{"product_id": str(product_id), "quantity": 1}]
