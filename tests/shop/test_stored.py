"""What bench/growth.py measures with: copies of real orders, which must be what the services would have left."""

from __future__ import annotations

from uuid import UUID

import pytest

from bench.stored import Stored, form
from covey.database.pool import Database
from covey.local.engines.embedded import Engines
from covey.messaging.retention import RULES, Retention
from covey.saga.journal import SAGAS
from shop.auditor import audit
from tests.shop.conftest import Shop

ORIGINALS = 3
ORDERS = 12


@pytest.fixture
async def stored(shop: Shop, covey_engines: Engines) -> Stored:
    """A few real orders of one customer, and copies of them."""
    product, user_id = await shop.product(1_000), await shop.customer()
    begun = await Stored.begun(covey_engines.postgres_url, shop.sources.databases)
    for _ in range(ORIGINALS):
        await shop.client.happened(await shop.place({product: 2}, user_id=user_id), "place-order completed")
    assert (await audit(shop.sources)).violations == []
    await begun.originals()
    await begun.multiply(ORDERS)
    return begun


@pytest.mark.slow
async def test_a_copy_is_shown_as_the_real_order_by_every_service(shop: Shop, stored: Stored) -> None:
    original, copy = await stored.one_of_each()

    for service, path in (
        ("order", "/orders/{}"),
        ("order", "/orders/{}/history"),
        ("inventory", "/reservations/{}"),
        ("payment", "/payments?order_id={}"),
        ("payment", "/invoices?order_id={}"),
        ("shipping", "/shipments?order_id={}"),
        ("notification", "/notifications?order_id={}"),
    ):
        real, copied = [await shop.client.get(service, path.format(order_id)) for order_id in (original, copy)]
        assert form(copied) == form(real), path
        assert form(real) not in ({}, {"payments": []}, {"notifications": []}), f"{path} shows nothing to compare"


@pytest.mark.slow
async def test_there_are_as_many_orders_as_asked_for_of_different_ages(shop: Shop, stored: Stored) -> None:
    async with Database.open(shop.sources.databases["order"]) as database, database.acquire() as connection:
        counted = await connection.fetchval("SELECT count(*) FROM orders WHERE status = 'confirmed'")
        ages = await connection.fetchval("SELECT count(DISTINCT date_trunc('second', placed_at)) FROM orders")
        unknown = await connection.fetchval(
            "SELECT count(*) FROM orders o LEFT JOIN covey.saga s ON s.id = o.saga_id WHERE s.id IS NULL"
        )

    assert counted == stored.orders == ORDERS
    assert ages >= ORDERS / ORIGINALS
    assert unknown == 0
    assert {UUID(order_id) for order_id in await stored.some(20)} <= {UUID(o) for o in await stored.recent(ORDERS)}


@pytest.mark.slow
async def test_retention_removes_all_that_is_overdue_and_nothing_else(shop: Shop, stored: Stored) -> None:
    before = await _rows(shop)
    await stored.outlive(ORDERS)
    assert await stored.overdue() > 0

    for url in shop.sources.databases.values():
        async with Database.open(url) as database:
            await Retention(database, (*RULES, *SAGAS)).clean()

    assert await stored.overdue() == 0
    assert await _rows(shop) == before


async def _rows(shop: Shop) -> dict[str, int]:
    """Count what retention may remove."""
    rows = {}
    for service, url in shop.sources.databases.items():
        async with Database.open(url) as database, database.acquire() as connection:
            for table in ("inbox", "outbox", "reply", "idempotency", "saga", "saga_log"):
                rows[f"{service} {table}"] = await connection.fetchval(f"SELECT count(*) FROM covey.{table}")
    return rows
