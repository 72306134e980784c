"""Whose orders are shown, changed and listed: one's own."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest
from order_service.domain import Money, Product, ProductId
from order_service.storage import keep_product

from covey.ids import new_id
from covey.testing.tokens import bearer
from covey.work.unit_of_work import Transactions

ANNA, BEN = str(new_id()), str(new_id())


async def ask(
    http: aiohttp.ClientSession, method: str, path: str, who: str, body: Any = None
) -> tuple[int, dict[str, Any]]:
    headers = bearer(f"user:{who}")
    async with http.request(method, f"/api/v1/orders{path}", json=body, headers=headers) as response:
        return response.status, await response.json()


@pytest.fixture
async def mug(transactions: Transactions) -> str:
    product = Product(ProductId(new_id()), "mug", Money(1_250, "EUR"), 1)
    async with transactions.begin() as work:
        keep_product(work, product)
    return str(product.id)


def order_of(user_id: str, product: str) -> dict[str, Any]:
    return {"user_id": user_id, "lines": [{"product_id": product, "quantity": 1}], "payment_token": "tok_ok"}


async def test_an_order_is_its_owners(http: aiohttp.ClientSession, mug: str) -> None:
    status, order = await ask(http, "POST", "", ANNA, order_of(ANNA, mug))
    path = f"/{order['id']}"

    assert status == 201
    for method, of_it in (("GET", ""), ("GET", "/history"), ("POST", "/cancel"), ("POST", "/returns")):
        assert (await ask(http, method, path + of_it, BEN))[0] == 403
    assert (await ask(http, "GET", path, ANNA))[0] == 200
    async with http.get(f"/api/v1/orders{path}") as response:
        assert response.status == 200, "the staff may see it"


async def test_nobody_orders_for_somebody_else(http: aiohttp.ClientSession, mug: str) -> None:
    status, problem = await ask(http, "POST", "", BEN, order_of(ANNA, mug))

    assert (status, problem["type"]) == (403, "/problems/forbidden")
    assert (await ask(http, "GET", "", ANNA))[1] == {"orders": [], "next": None}


async def test_orders_are_listed_page_by_page_the_newest_first_and_only_ones_own(
    http: aiohttp.ClientSession, mug: str
) -> None:
    mine = [(await ask(http, "POST", "", ANNA, order_of(ANNA, mug)))[1] for _ in range(5)]
    await ask(http, "POST", "", BEN, order_of(BEN, mug))

    seen, cursor = [], ""
    while cursor is not None:
        _, page = await ask(http, "GET", f"?limit=2{cursor and f'&cursor={cursor}'}", ANNA)
        seen += page["orders"]
        cursor = page["next"]

    assert seen == mine[::-1]
    assert [order["id"] for order in (await ask(http, "GET", "?sort=placed", ANNA))[1]["orders"]] == [
        order["id"] for order in mine
    ]
    assert (await ask(http, "GET", "?status=confirmed", ANNA))[1]["orders"] == []
    assert (await ask(http, "GET", f"?user_id={ANNA}", BEN))[0] == 403


async def test_the_staff_say_whose_orders_they_mean(http: aiohttp.ClientSession, mug: str) -> None:
    await ask(http, "POST", "", ANNA, order_of(ANNA, mug))

    async with http.get("/api/v1/orders") as response:
        assert response.status == 422
    async with http.get(f"/api/v1/orders?user_id={ANNA}") as response:
        assert len((await response.json())["orders"]) == 1
