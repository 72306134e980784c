"""Inventory over HTTP, with good input and bad."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import pytest

from covey.ids import new_id
from covey.work.unit_of_work import Transactions

MUG = {"name": "Mug", "price": {"amount": 1_250, "currency": "EUR"}}


async def post(http: aiohttp.ClientSession, path: str, body: Any) -> tuple[int, Any]:
    async with http.post(f"/api/v1{path}", json=body) as response:
        return response.status, await response.json(content_type=None)


async def get(http: aiohttp.ClientSession, path: str) -> tuple[int, Any]:
    async with http.get(f"/api/v1{path}") as response:
        return response.status, await response.json(content_type=None)


async def put(http: aiohttp.ClientSession, path: str, body: Any, version: int | None = None) -> tuple[int, Any]:
    headers = {} if version is None else {"If-Match": f'"{version}"'}
    async with http.put(f"/api/v1{path}", json=body, headers=headers) as response:
        return response.status, await response.json(content_type=None)


async def test_a_new_product_says_where_it_is_and_has_no_stock(http: aiohttp.ClientSession) -> None:
    async with http.post("/api/v1/products", json=MUG) as response:
        location, product = response.headers["Location"], await response.json()
        assert response.status == 201

    async with http.get(location) as response:
        assert (response.status, await response.json()) == (200, product)
    assert product == {**MUG, "id": product["id"], "version": 1}
    assert (await get(http, f"/products/{product['id']}/stock"))[1]["free"] == 0


async def test_a_delivery_adds_to_the_stock(http: aiohttp.ClientSession) -> None:
    _, product = await post(http, "/products", MUG)

    first = await post(http, f"/products/{product['id']}/deliveries", {"quantity": 10})
    second = await post(http, f"/products/{product['id']}/deliveries", {"quantity": 5})

    assert (first[0], second[0]) == (201, 201)
    assert second[1] == {"product_id": product["id"], "received": 15, "free": 15, "reserved": 0, "sold": 0}


async def test_a_delivery_that_is_booked_again_with_the_same_key_counts_once(http: aiohttp.ClientSession) -> None:
    _, product = await post(http, "/products", MUG)
    path, headers = f"/api/v1/products/{product['id']}/deliveries", {"Idempotency-Key": str(new_id())}

    answers = []
    for _ in range(3):
        async with http.post(path, json={"quantity": 10}, headers=headers) as response:
            answers.append((response.status, await response.json()))

    assert answers == [answers[0]] * 3
    assert (await get(http, f"/products/{product['id']}/stock"))[1]["received"] == 10


async def test_a_change_takes_the_version_that_was_read(http: aiohttp.ClientSession) -> None:
    _, product = await post(http, "/products", MUG)
    path = f"/products/{product['id']}"

    status, changed = await put(http, path, {**MUG, "name": "Big mug"}, 1)
    late, _ = await put(http, path, {**MUG, "name": "Small mug"}, 1)
    blind, _ = await put(http, path, {**MUG, "name": "Small mug"})

    assert (status, changed["version"], changed["name"]) == (200, 2, "Big mug")
    assert (late, blind) == (412, 428)
    assert (await get(http, path))[1]["name"] == "Big mug"


async def test_products_are_listed_page_by_page(http: aiohttp.ClientSession) -> None:
    made = [(await post(http, "/products", MUG))[1]["id"] for _ in range(3)]

    _, first = await get(http, "/products?limit=2")
    _, second = await get(http, f"/products?limit=2&cursor={first['next']}")

    assert [p["id"] for p in first["products"] + second["products"]] == sorted(made)
    assert second["next"] is None


async def test_products_can_be_announced_again_page_by_page_as_they_are_now(
    http: aiohttp.ClientSession, transactions: Transactions
) -> None:
    made = [(await post(http, "/products", MUG))[1]["id"] for _ in range(3)]
    await put(http, f"/products/{made[0]}", {**MUG, "name": "Big mug"}, 1)
    async with transactions.begin() as work:
        before = await work.fetchval("SELECT max(position) FROM covey.outbox")

    _, first = await post(http, "/products/announcements", {"limit": 2})
    _, second = await post(http, "/products/announcements", {"limit": 2, "after": first["next"]})

    async with transactions.begin() as work:
        rows = await work.fetch("SELECT key, body FROM covey.outbox WHERE position > $1 ORDER BY position", before)
    assert (first["announced"], second) == (2, {"announced": 1, "next": None})
    assert [row["key"] for row in rows] == sorted(made)
    assert {row["key"]: json.loads(row["body"])["version"] for row in rows}[made[0]] == 2


@pytest.mark.parametrize("path", ["/products/{id}", "/products/{id}/stock", "/reservations/{id}"])
async def test_what_is_not_there_is_a_404(http: aiohttp.ClientSession, path: str) -> None:
    status, problem = await get(http, path.format(id=new_id()))

    assert (status, problem["status"]) == (404, 404)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {**MUG, "name": ""},
        {**MUG, "name": "   "},
        {**MUG, "name": "x" * 201},
        {**MUG, "name": "a NUL: \0"},
        {**MUG, "colour": "blue"},
        {**MUG, "price": {"amount": -1, "currency": "EUR"}},
        {**MUG, "price": {"amount": 12.5, "currency": "EUR"}},
        {**MUG, "price": {"amount": True, "currency": "EUR"}},
        {**MUG, "price": {"amount": "1250", "currency": "EUR"}},
        {**MUG, "price": {"amount": 10**13, "currency": "EUR"}},
        {**MUG, "price": {"amount": 1, "currency": "euro"}},
        {**MUG, "price": 1_250},
    ],
)
async def test_a_product_that_makes_no_sense_is_a_422(http: aiohttp.ClientSession, body: Any) -> None:
    status, problem = await post(http, "/products", body)

    assert (status, problem["status"]) == (422, 422)
    assert (await get(http, "/products"))[1]["products"] == []


@pytest.mark.parametrize("quantity", [0, -1, 1.5, True, "3", None, 10**30])
async def test_a_delivery_is_a_whole_number_of_pieces(http: aiohttp.ClientSession, quantity: Any) -> None:
    _, product = await post(http, "/products", MUG)

    status, _ = await post(http, f"/products/{product['id']}/deliveries", {"quantity": quantity})

    assert status == 422
    assert (await get(http, f"/products/{product['id']}/stock"))[1]["received"] == 0
