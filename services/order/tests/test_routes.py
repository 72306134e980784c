"""Orders over HTTP, with good input and bad. Nobody else is there, so that accepted orders stay pending."""

from __future__ import annotations

import io
from typing import Any

import aiohttp
import pytest
from order_service import storage
from order_service.domain import Money, Product, ProductId

from covey.ids import new_id
from covey.testing.eventually import eventually
from covey.work.unit_of_work import Transactions

MUG = Product(ProductId(new_id()), "Mug", Money(1_250, "EUR"), 1)
TEAPOT = Product(ProductId(new_id()), "Teapot", Money(4_900, "EUR"), 1)
DOLLARS = Product(ProductId(new_id()), "Dollar mug", Money(1_300, "USD"), 1)


@pytest.fixture(autouse=True)
async def catalogue(transactions: Transactions) -> None:
    """What order knows of inventory's products."""
    async with transactions.begin() as work:
        for product in (MUG, TEAPOT, DOLLARS):
            storage.keep_product(work, product)


def order(**changes: Any) -> dict[str, Any]:
    lines = [{"product_id": str(MUG.id), "quantity": 2}, {"product_id": str(TEAPOT.id), "quantity": 1}]
    return {"user_id": str(new_id()), "lines": lines, "payment_token": "tok_ok"} | changes


def line(**changes: Any) -> dict[str, Any]:
    return order(lines=[{"product_id": str(MUG.id), "quantity": 1} | changes])


async def post(http: aiohttp.ClientSession, path: str, body: Any = None) -> tuple[int, Any]:
    async with http.post(path, json=body) as response:
        return response.status, await response.json(content_type=None)


async def get(http: aiohttp.ClientSession, path: str) -> tuple[int, Any]:
    async with http.get(path) as response:
        return response.status, await response.json(content_type=None)


async def count(transactions: Transactions, table: str) -> int:
    async with transactions.begin() as work:
        return int(await work.fetchval(f"SELECT count(*) FROM {table}"))


async def test_an_order_is_accepted_as_pending_and_says_where_it_is(http: aiohttp.ClientSession) -> None:
    body = order()

    async with http.post("/api/v1/orders", json=body) as response:
        placed = await response.json()
        assert (response.status, response.headers["Location"]) == (201, f"/api/v1/orders/{placed['id']}")

    assert (placed["status"], placed["total"]) == ("pending", {"amount": 7_400, "currency": "EUR"})
    assert (placed["user_id"], [one["quantity"] for one in placed["lines"]]) == (body["user_id"], [2, 1])
    assert await get(http, f"/api/v1/orders/{placed['id']}") == (200, placed)


async def test_order_saga_and_event_are_there_when_the_answer_is(
    http: aiohttp.ClientSession, transactions: Transactions
) -> None:
    _, placed = await post(http, "/api/v1/orders", order())

    async with transactions.begin() as work:
        sagas = await work.fetchval("SELECT count(*) FROM covey.saga WHERE status = 'running'")
        rows = await work.fetch("SELECT type FROM covey.outbox ORDER BY type")
    assert (sagas, [row["type"] for row in rows]) == (1, ["inventory.reserve-stock.v1", "order.placed.v1"])
    assert placed["status"] == "pending"


async def test_the_means_of_payment_are_never_shown(http: aiohttp.ClientSession) -> None:
    _, placed = await post(http, "/api/v1/orders", order(payment_token="tok_secret_of_a_customer"))

    shown = [await get(http, f"/api/v1/orders/{placed['id']}{part}") for part in ("", "/history")]

    assert "tok_secret_of_a_customer" not in f"{placed}{shown}"


async def test_the_history_begins_with_the_order_and_the_first_step(http: aiohttp.ClientSession) -> None:
    _, placed = await post(http, "/api/v1/orders", order())

    _, history = await get(http, f"/api/v1/orders/{placed['id']}/history")

    assert history["order_id"] == placed["id"]
    assert [entry["what"] for entry in history["entries"]] == [
        "order placed",
        "place-order started",
        "ReserveStock asked",
    ]


async def test_a_pending_order_can_be_cancelled_and_undoes_what_was_begun(
    http: aiohttp.ClientSession, transactions: Transactions
) -> None:
    _, placed = await post(http, "/api/v1/orders", order())
    path = f"/api/v1/orders/{placed['id']}"

    status, cancelling = await post(http, f"{path}/cancel", {"reason": "changed my mind"})
    again, _ = await post(http, f"{path}/cancel")

    assert (status, cancelling["status"], cancelling["cancelling"], again) == (202, "pending", True, 202)
    async with transactions.begin() as work:
        rows = await work.fetch("SELECT type FROM covey.outbox WHERE kind = 'command' ORDER BY position")
    assert [row["type"] for row in rows] == ["inventory.reserve-stock.v1", "inventory.release-stock.v1"]
    _, history = await get(http, f"{path}/history")
    assert "cancellation asked for" in [entry["what"] for entry in history["entries"]]


async def test_what_is_not_there_is_a_404(http: aiohttp.ClientSession) -> None:
    path = f"/api/v1/orders/{new_id()}"

    assert (await get(http, path))[0] == 404
    assert (await get(http, f"{path}/history"))[0] == 404
    assert (await post(http, f"{path}/cancel"))[0] == 404
    assert (await get(http, "/api/v1/orders/1"))[0] == 422


async def test_an_unknown_product_is_a_422_that_points_at_the_line(
    http: aiohttp.ClientSession, transactions: Transactions
) -> None:
    lines = [{"product_id": str(MUG.id), "quantity": 1}, {"product_id": str(new_id()), "quantity": 1}]

    status, problem = await post(http, "/api/v1/orders", order(lines=lines))

    assert (status, [error["pointer"] for error in problem["errors"]]) == (422, ["#/lines/1/product_id"])
    assert await count(transactions, "orders") == 0
    assert await count(transactions, "covey.outbox") == 0


async def test_products_in_two_currencies_are_a_422(http: aiohttp.ClientSession) -> None:
    lines = [{"product_id": str(one.id), "quantity": 1} for one in (MUG, DOLLARS)]

    status, problem = await post(http, "/api/v1/orders", order(lines=lines))

    assert (status, "EUR and USD" in problem["detail"]) == (422, True)


BAD_BODIES: dict[str, Any] = {
    "nothing": {},
    "a list": [],
    "null": None,
    "no lines": order(lines=[]),
    "too many lines": order(lines=[{"product_id": str(new_id()), "quantity": 1} for _ in range(51)]),
    "the same product twice": order(lines=[{"product_id": str(MUG.id), "quantity": 1}] * 2),
    "an unknown field": order(total=1),
    "an unknown field in a line": line(price=1),
    "a user that is no id": order(user_id="me"),
    "a product that is no id": line(product_id=1),
    "a zero quantity": line(quantity=0),
    "a negative quantity": line(quantity=-1),
    "a fractional quantity": line(quantity=1.5),
    "a whole quantity written as a fraction": line(quantity=1.0),
    "a quantity that is text": line(quantity="1"),
    "a quantity that is true": line(quantity=True),
    "a quantity that is null": line(quantity=None),
    "an immense quantity": line(quantity=10**30),
    "more than anybody buys": line(quantity=1_001),
    "a token with a line break": order(payment_token="tok_ok\n"),
    "an endless token": order(payment_token="x" * 65),
    "a token that is a number": order(payment_token=1),
}


@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES.keys())
async def test_an_order_that_makes_no_sense_is_a_422_and_leaves_nothing(
    http: aiohttp.ClientSession, transactions: Transactions, body: Any
) -> None:
    async with http.post("/api/v1/orders", json=body) as response:
        problem = await response.json(content_type=None)
        assert (response.status, response.content_type) == (422, "application/problem+json")

    assert problem["errors"]
    assert await count(transactions, "orders") == 0
    assert await count(transactions, "covey.outbox") == 0


RAW: dict[str, tuple[bytes, int]] = {
    "no JSON at all": (b"order!", 400),
    "half an object": (b'{"user_id": "', 400),
    "not UTF-8": (b'{"user_id": "\xff\xfe"}', 400),
    "10 MB": (b'{"user_id": "' + b"x" * 10_000_000 + b'"}', 413),
    "10,000 levels of nesting": (b"[" * 10_000 + b"]" * 10_000, 400),
}


@pytest.mark.parametrize(("body", "status"), RAW.values(), ids=RAW.keys())
async def test_a_body_that_cannot_be_read_is_refused_with_a_problem(
    http: aiohttp.ClientSession, body: bytes, status: int
) -> None:
    headers = {"Content-Type": "application/json"}

    async with http.post("/api/v1/orders", data=io.BytesIO(body), headers=headers) as response:
        problem = await response.json(content_type=None)

    assert (response.status, problem["status"], response.content_type) == (status, status, "application/problem+json")


async def test_the_same_submission_twice_is_one_order_and_one_answer(
    http: aiohttp.ClientSession, transactions: Transactions
) -> None:
    headers = {"Idempotency-Key": str(new_id())}
    body = order()

    answers = []
    for _ in range(2):
        async with http.post("/api/v1/orders", json=body, headers=headers) as response:
            answers.append((response.status, response.headers["Location"], await response.read()))

    assert answers[0] == answers[1]
    assert answers[0][0] == 201
    assert await count(transactions, "orders") == 1
    assert await count(transactions, "covey.saga") == 1


async def test_a_key_that_comes_back_with_another_order_is_refused(
    http: aiohttp.ClientSession, transactions: Transactions
) -> None:
    headers = {"Idempotency-Key": str(new_id())}
    async with http.post("/api/v1/orders", json=order(), headers=headers) as response:
        assert response.status == 201

    async with http.post("/api/v1/orders", json=line(quantity=7), headers=headers) as response:
        assert response.status == 422

    assert await count(transactions, "orders") == 1


async def test_what_is_refused_leaves_the_service_ready(http: aiohttp.ClientSession) -> None:
    await post(http, "/api/v1/orders", line(quantity=-1))

    async def ready() -> bool:
        async with http.get("/ready") as response:
            return response.status == 200

    await eventually(ready)
