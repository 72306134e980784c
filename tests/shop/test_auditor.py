"""The auditor against the real books of a shop, before and after somebody has tampered with them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from uuid import UUID

import asyncpg
import pytest

from covey.ids import new_id
from shop.auditor import audit

if TYPE_CHECKING:
    from conftest import Shop


@pytest.fixture
async def orders(shop: Shop) -> dict[str, UUID]:
    """Orders of several outcomes, by what came of them."""
    mug = await shop.product(10)
    placed = {
        "confirmed": await shop.place({mug: 2}),
        "rejected": await shop.place({mug: 1}, "tok_capture_declined"),
        "out of stock": await shop.place({mug: 100}),
    }
    await asyncio.gather(*(shop.settled(order_id) for order_id in placed.values()))
    return placed


async def tamper(shop: Shop, service: str, sql: str, *args: object) -> None:
    connection = await asyncpg.connect(shop.sources.databases[service])
    try:
        assert not (await connection.execute(sql, *args)).endswith(" 0"), "nothing was changed"
    finally:
        await connection.close()


async def charge(shop: Shop, path: str, order_id: UUID, amount: int) -> None:
    """Have the provider move money without the shop knowing."""
    body = {"reference": str(order_id), "amount": amount, "currency": "EUR"}
    async with shop.http["provider"].post(path, json=body, headers={"Idempotency-Key": str(new_id())}) as response:
        assert response.status == 201


async def found(shop: Shop, accepted: list[UUID]) -> list[str]:
    return (await audit(shop.sources, accepted, within_seconds=1)).violations


async def test_a_shop_that_nobody_tampered_with_is_in_order(shop: Shop, orders: dict[str, UUID]) -> None:
    result = await audit(shop.sources, list(orders.values()))

    assert result.violations == []
    assert result.summary() == [
        "orders  3: 1 confirmed, 2 rejected",
        "money   3750 authorized, 2500 captured, 1250 voided, 0 refunded",
        "stock   10 received, 8 free, 0 reserved, 2 sold",
    ]


async def test_a_double_capture_is_found(shop: Shop, orders: dict[str, UUID]) -> None:
    await charge(shop, "/captures", orders["confirmed"], 2_500)

    (disagreement, twice) = await found(shop, list(orders.values()))

    assert disagreement == f"order {orders['confirmed']}: payment says 2500 captured, the provider 5000"
    assert twice.endswith("but the provider captured 5000 in 2 captures")


async def test_a_leak_of_stock_is_found(shop: Shop, orders: dict[str, UUID]) -> None:
    await tamper(shop, "inventory", "UPDATE stock SET free = free - 1, reserved = reserved + 1")

    (leak,) = await found(shop, list(orders.values()))

    assert leak.endswith("1 are reserved, but orders hold 0")


async def test_a_capture_that_was_not_refunded_is_found(shop: Shop, orders: dict[str, UUID]) -> None:
    order_id = orders["out of stock"]
    for path in ("/authorizations", "/captures"):
        await charge(shop, path, order_id, 125_000)
    await tamper(
        shop,
        "payment",
        """
        INSERT INTO payment (id, order_id, amount, currency, status, authorized, captured, voided, refunded)
        VALUES ($1, $2, 125000, 'EUR', 'captured', 125000, 125000, 0, 0)
        """,
        new_id(),
        order_id,
    )

    (kept,) = await found(shop, list(orders.values()))

    assert kept == f"order {order_id} is rejected, but 125000 EUR were captured and not refunded"


async def test_a_lost_order_is_found(shop: Shop, orders: dict[str, UUID]) -> None:
    lost = orders["out of stock"]
    await tamper(shop, "order", "DELETE FROM order_line WHERE order_id = $1", lost)
    await tamper(shop, "order", "DELETE FROM orders WHERE id = $1", lost)

    violations = await found(shop, list(orders.values()))

    assert f"order {lost} was accepted and is lost" in violations


async def test_a_double_confirmation_is_found(shop: Shop, orders: dict[str, UUID]) -> None:
    await tamper(
        shop,
        "order",
        """
        INSERT INTO covey.outbox (id, stream, kind, type, key, time, headers, body)
        SELECT $1, stream, kind, type, key, time, headers, body FROM covey.outbox WHERE type = 'order.confirmed.v1'
        """,
        new_id(),
    )

    violations = await found(shop, list(orders.values()))

    twice = f"order {orders['confirmed']} is confirmed, and order.confirmed.v1 was published 2 times"
    assert twice in violations


async def test_an_order_that_does_not_settle_in_time_is_found(shop: Shop, orders: dict[str, UUID]) -> None:
    stuck = orders["out of stock"]
    await tamper(
        shop, "order", "UPDATE orders SET status = 'pending', settled_at = NULL, reason = NULL WHERE id = $1", stuck
    )

    violations = await found(shop, list(orders.values()))

    assert f"order {stuck} is still pending; its saga is compensated" in violations
