"""Orders over HTTP, with good input and bad. Nobody else is there, so that accepted orders stay pending."""

from __future__ import annotations

import asyncio
import io
from typing import Any
from uuid import UUID

import aiohttp
import pytest
from order_service import storage
from order_service.domain import Confirmed, Money, OrderId, Product, ProductId, ReturnId, ShipmentId
from order_service.handlers import keep_shipment
from order_service.messages import ShipmentChanged
from order_service.saga.return_order import ReturnOrder, turn_return_down

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


async def test_a_whole_quantity_may_be_written_as_a_fraction(http: aiohttp.ClientSession) -> None:
    """JSON does not tell 2.0 from 2, and the schema says integer; some clients have no other numbers."""
    status, placed = await post(http, "/api/v1/orders", line(quantity=2.0))

    assert (status, placed["lines"][0]["quantity"]) == (201, 2)


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


async def confirmed(http: aiohttp.ClientSession, transactions: Transactions) -> str:
    """The path of an order of two mugs and a teapot that is confirmed."""
    _, placed = await post(http, "/api/v1/orders", order())
    async with transactions.begin() as work:
        storage.settle(work, OrderId(UUID(placed["id"])), Confirmed())
    return f"/api/v1/orders/{placed['id']}"


def id_in(path: str) -> OrderId:
    return OrderId(UUID(path.rpartition("/")[2]))


def mugs(quantity: Any) -> dict[str, Any]:
    return {"lines": [{"product_id": str(MUG.id), "quantity": quantity}], "reason": "too small"}


async def test_a_return_is_accepted_with_its_saga_and_is_shown_with_its_order(
    http: aiohttp.ClientSession, transactions: Transactions
) -> None:
    path = await confirmed(http, transactions)

    async with http.post(f"{path}/returns", json=mugs(1)) as response:
        requested = await response.json()
        assert (response.status, response.headers["Location"]) == (202, f"{path}/returns/{requested['id']}")

    assert (requested["status"], requested["amount"]) == ("requested", {"amount": 1_250, "currency": "EUR"})
    assert await get(http, f"{path}/returns/{requested['id']}") == (200, requested)
    assert (await get(http, path))[1]["returns"] == [requested]
    async with transactions.begin() as work:
        query = "SELECT type FROM covey.outbox WHERE kind = 'command' ORDER BY position DESC LIMIT 1"
        assert await work.fetchval(query) == "shipping.receive-return.v1"
        query = "SELECT name, status FROM covey.saga WHERE id = $1"
        assert tuple(await work.fetchrow(query, UUID(requested["id"]))) == ("return-order", "running")


async def test_the_history_has_every_step_of_the_returns_too(
    http: aiohttp.ClientSession, transactions: Transactions
) -> None:
    path = await confirmed(http, transactions)
    await post(http, f"{path}/returns")

    _, history = await get(http, f"{path}/history")

    assert [entry["what"] for entry in history["entries"]][-3:] == [
        "return requested",
        "return-order started",
        "ReceiveReturn asked",
    ]


async def test_a_return_without_lines_is_of_all_that_is_left(
    http: aiohttp.ClientSession, transactions: Transactions
) -> None:
    path = await confirmed(http, transactions)
    await post(http, f"{path}/returns", mugs(1))

    status, rest = await post(http, f"{path}/returns")
    again, _ = await post(http, f"{path}/returns")

    assert (status, rest["amount"]["amount"], again) == (202, 1_250 + 4_900, 409)


async def test_of_returns_of_the_same_pieces_at_the_same_time_only_as_many_are_accepted_as_there_are_pieces(
    http: aiohttp.ClientSession, transactions: Transactions
) -> None:
    path = await confirmed(http, transactions)

    answers = await asyncio.gather(*(post(http, f"{path}/returns", mugs(1)) for _ in range(5)))

    assert sorted(status for status, _ in answers) == [202, 202, 409, 409, 409]
    async with transactions.begin() as work:
        assert await work.fetchval("SELECT count(*) FROM covey.saga WHERE name = 'return-order'") == 2


async def test_pieces_of_a_return_that_was_refused_can_be_returned_again(
    http: aiohttp.ClientSession, transactions: Transactions
) -> None:
    path = await confirmed(http, transactions)
    _, first = await post(http, f"{path}/returns")
    data = ReturnOrder(order_id=id_in(path), return_id=ReturnId(UUID(first["id"])), lines=(), amount=Money(0, "EUR"))
    async with transactions.begin() as work:
        await turn_return_down(data, "nothing was shipped for this order", work)

    assert (await post(http, f"{path}/returns"))[0] == 202

    told = [(one["status"], one["refusal"]) for one in (await get(http, path))[1]["returns"]]
    assert told == [("refused", "nothing was shipped for this order"), ("requested", None)]


BAD_RETURNS: dict[str, tuple[Any, int]] = {
    "more than was ordered": (mugs(3), 409),
    "nothing of it": (mugs(0), 422),
    "a fraction": (mugs(1.5), 422),
    "no lines": ({"lines": []}, 422),
    "the same product twice": ({"lines": mugs(1)["lines"] * 2}, 422),
    "what was not ordered": ({"lines": [{"product_id": str(DOLLARS.id), "quantity": 1}]}, 422),
    "a price": ({"amount": 1}, 422),
    "no reason": ({"reason": ""}, 422),
}


@pytest.mark.parametrize(("body", "expected"), BAD_RETURNS.values(), ids=BAD_RETURNS.keys())
async def test_a_return_that_makes_no_sense_is_refused_and_leaves_nothing(
    http: aiohttp.ClientSession, transactions: Transactions, body: Any, expected: int
) -> None:
    path = await confirmed(http, transactions)

    status, problem = await post(http, f"{path}/returns", body)

    assert (status, problem["status"]) == (expected, expected)
    assert await count(transactions, "order_return") == 0


async def test_an_order_that_is_not_confirmed_is_not_returned(http: aiohttp.ClientSession) -> None:
    _, placed = await post(http, "/api/v1/orders", order())

    assert (await post(http, f"/api/v1/orders/{placed['id']}/returns"))[0] == 409


async def test_an_order_that_is_shipped_shows_its_shipment(
    http: aiohttp.ClientSession, transactions: Transactions
) -> None:
    path = await confirmed(http, transactions)
    assert (await get(http, path))[1]["shipment"] is None
    shipment_id = ShipmentId(new_id())
    event = ShipmentChanged(
        order_id=id_in(path), shipment_id=shipment_id, status="booked", tracking_number="SC1", version=1
    )
    async with transactions.begin() as work:
        await keep_shipment(event, work)

    _, shown = await get(http, path)

    assert shown["status"] == "confirmed"
    assert shown["shipment"] | {"shipped_at": None} == {
        "id": str(shipment_id),
        "status": "booked",
        "tracking_number": "SC1",
        "shipped_at": None,
    }


async def test_what_is_not_there_is_a_404(http: aiohttp.ClientSession) -> None:
    path = f"/api/v1/orders/{new_id()}"

    assert (await get(http, path))[0] == 404
    assert (await get(http, f"{path}/history"))[0] == 404
    assert (await post(http, f"{path}/cancel"))[0] == 404
    assert (await post(http, f"{path}/returns"))[0] == 404
    assert (await get(http, f"{path}/returns/{new_id()}"))[0] == 404
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
