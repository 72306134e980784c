"""Shipments over HTTP, and a command from the broker to the carrier's book."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest
from shipping_service import storage
from shipping_service.domain import Line, OrderId, ProductId, Shipment, ShipmentId, UserId, booked
from shipping_service.messages import ShipOrder

from covey.ids import new_id
from covey.testing.eventually import eventually
from covey.testing.tokens import bearer
from covey.work.unit_of_work import Transactions

LINES = (Line(ProductId(new_id()), 2),)


async def a_shipment(transactions: Transactions, tracking_number: str | None = "SC1") -> Shipment:
    shipment = Shipment(ShipmentId(new_id()), OrderId(new_id()), UserId(new_id()), LINES)
    async with transactions.begin() as work:
        storage.add_shipment(work, shipment)
    if tracking_number is None:
        return shipment
    async with transactions.begin() as work:
        await storage.keep_shipment(work, booked(shipment, tracking_number))
    return booked(shipment, tracking_number)


async def get(http: aiohttp.ClientSession, path: str) -> tuple[int, Any]:
    async with http.get(f"/api/v1{path}") as response:
        return response.status, await response.json(content_type=None)


async def track(http: aiohttp.ClientSession, shipment_id: ShipmentId, status: str) -> tuple[int, Any]:
    async with http.post(f"/api/v1/shipments/{shipment_id}/tracking", json={"status": status}) as response:
        return response.status, await response.json(content_type=None)


async def events(transactions: Transactions) -> int:
    async with transactions.begin() as work:
        query = "SELECT count(*) FROM covey.outbox WHERE type = 'shipping.shipment-changed.v1'"
        return int(await work.fetchval(query))


async def test_a_shipment_is_found_by_its_id_and_by_its_order(
    http: aiohttp.ClientSession, transactions: Transactions
) -> None:
    shipment = await a_shipment(transactions)

    status, found = await get(http, f"/shipments/{shipment.id}")

    assert (status, found["status"], found["tracking_number"], found["returns"]) == (200, "booked", "SC1", [])
    assert (await get(http, f"/shipments?order_id={shipment.order_id}"))[1] == {"shipments": [found]}
    assert (await get(http, f"/shipments?order_id={new_id()}"))[1] == {"shipments": []}


@pytest.mark.parametrize(
    ("path", "expected"),
    [("/shipments/{id}", 404), ("/shipments/7", 422), ("/shipments", 422), ("/shipments?order_id=x", 422)],
)
async def test_what_is_not_there_or_makes_no_sense_is_a_problem(
    http: aiohttp.ClientSession, path: str, expected: int
) -> None:
    status, problem = await get(http, path.format(id=new_id()))

    assert (status, problem["status"]) == (expected, expected)


async def test_the_carrier_moves_a_shipment_forward_and_each_move_is_told_once(
    http: aiohttp.ClientSession, transactions: Transactions
) -> None:
    shipment = await a_shipment(transactions)

    told = [await track(http, shipment.id, status) for status in ("in_transit", "in_transit", "delivered")]

    assert [(code, body["status"]) for code, body in told] == [
        (200, "in_transit"),
        (200, "in_transit"),
        (200, "delivered"),
    ]
    assert await events(transactions) == 2


async def test_a_shipment_does_not_go_back_and_does_not_move_before_it_is_booked(
    http: aiohttp.ClientSession, transactions: Transactions
) -> None:
    arrived, waiting = await a_shipment(transactions), await a_shipment(transactions, None)
    await track(http, arrived.id, "delivered")

    assert (await track(http, arrived.id, "in_transit"))[0] == 409
    assert (await track(http, waiting.id, "in_transit"))[0] == 409
    assert await events(transactions) == 1


async def booked_at(office: aiohttp.ClientSession, order_id: OrderId) -> str:
    """Have the carrier accept a parcel and return its number."""
    body = {"reference": "r", "order": str(order_id), "kind": "shipment", "pieces": 2}
    async with office.post("/bookings", json=body, headers={"Idempotency-Key": "k"}) as response:
        return str((await response.json())["tracking"])


async def test_where_a_shipment_is_the_carrier_is_asked(
    http: aiohttp.ClientSession, transactions: Transactions, office: aiohttp.ClientSession
) -> None:
    shipment = await a_shipment(transactions, await booked_at(office, OrderId(new_id())))

    status, told = await get(http, f"/shipments/{shipment.id}/tracking")

    assert (status, told["status"], told["tracking_number"]) == (200, "accepted", shipment.tracking_number)


async def test_of_what_the_carrier_does_not_have_there_is_nothing_to_tell(
    http: aiohttp.ClientSession, transactions: Transactions
) -> None:
    waiting, strange = await a_shipment(transactions, None), await a_shipment(transactions, "another/../carrier's")

    for shipment_id in (waiting.id, strange.id, new_id()):
        assert (await get(http, f"/shipments/{shipment_id}/tracking"))[0] == 404


async def test_where_somebody_elses_shipment_is_is_not_told(
    http: aiohttp.ClientSession, transactions: Transactions
) -> None:
    shipment = await a_shipment(transactions)
    mine, others = bearer(f"user:{shipment.user_id}"), bearer(f"user:{new_id()}")

    for headers, expected in ((mine, 404), (others, 403)):  # the carrier has nothing of it
        async with http.get(f"/api/v1/shipments/{shipment.id}/tracking", headers=headers) as response:
            assert response.status == expected


@pytest.mark.parametrize(("mode", "expected"), [("down", 502), ("silent", 504)])
async def test_a_carrier_that_does_not_answer_is_not_our_fault_and_soon_left_alone(
    http: aiohttp.ClientSession,
    transactions: Transactions,
    office: aiohttp.ClientSession,
    mode: str,
    expected: int,
) -> None:
    shipment = await a_shipment(transactions, await booked_at(office, OrderId(new_id())))
    async with office.put("/admin/mode", json={"mode": mode, "operation": "track"}):
        pass

    answers = await asyncio.gather(*(get(http, f"/shipments/{shipment.id}/tracking") for _ in range(30)))
    async with http.get(f"/api/v1/shipments/{shipment.id}/tracking") as response:
        after = response.status, response.headers.get("Retry-After")

    assert {status for status, _ in answers} <= {expected, 503}
    assert expected in {status for status, _ in answers}
    assert after[0] == 503 and after[1]


async def test_news_that_make_no_sense_are_refused(http: aiohttp.ClientSession, transactions: Transactions) -> None:
    shipment = await a_shipment(transactions)

    assert (await track(http, shipment.id, "booked"))[0] == 422
    assert (await track(http, ShipmentId(new_id()), "delivered"))[0] == 404


async def test_a_command_reaches_the_carrier_once_also_while_the_carrier_is_down(
    http: aiohttp.ClientSession, transactions: Transactions, office: aiohttp.ClientSession
) -> None:
    order_id = OrderId(new_id())
    async with office.put("/admin/mode", json={"mode": "down", "calls": 2}):
        pass

    async with transactions.begin() as work:
        work.publish(ShipOrder(saga_id=new_id(), order_id=order_id, user_id=UserId(new_id()), lines=LINES))

    async def shipped() -> bool:
        found = (await get(http, f"/shipments?order_id={order_id}"))[1]["shipments"]
        return bool(found and found[0]["status"] == "booked")

    await eventually(shipped)
    async with office.get("/book") as response:
        assert [entry["pieces"] for entry in (await response.json())["entries"]] == [2]
