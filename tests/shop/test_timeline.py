"""The timeline of an order, from the books of a running shop."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg

from covey.ids import new_id
from shop.timeline import timeline

if TYPE_CHECKING:
    from conftest import Shop


async def test_one_key_leads_through_every_service(shop: Shop) -> None:
    mug = await shop.product(10)
    order_id = await shop.place({mug: 2})
    await shop.client.happened(order_id, "place-order completed")
    return_id = await shop.client.return_goods(order_id, {mug: 1})
    await shop.client.returned(order_id, return_id)

    moments = await timeline(shop.sources, order_id)

    told = [(moment.service, moment.kind, moment.text) for moment in moments]
    expected = [
        ("order", "row", "order pending, 25.00 EUR"),
        ("order", "outbox", "inventory.reserve-stock.v1"),
        ("inventory", "inbox", "inventory.reserve-stock.v1"),
        ("inventory", "outbox", "order.reply.v1: done"),
        ("order", "saga", "ReserveStock done"),
        ("payment", "inbox", "payment.authorize.v1"),
        ("payment", "row", "intent to authorize"),
        ("provider", "provider", "authorize 25.00"),
        ("payment", "row", "authorize approved"),
        ("order", "saga", "AuthorizePayment done"),
        ("provider", "provider", "capture 25.00"),
        ("order", "saga", "CapturePayment done"),
        ("order", "row", "order confirmed"),
        ("shipping", "row", "intent to ship"),
        ("carrier", "carrier", "book shipment of 2"),
        ("shipping", "row", "shipment booked"),
        ("order", "saga", "ShipOrder done"),
        ("notification", "inbox", "notification.send-confirmation.v1"),
        ("notification", "row", "mail asked for"),
        ("mail-sink", "mail", "took “Your order is confirmed”"),
        ("notification", "row", "mail sent"),
        ("order", "saga", "SendConfirmation done"),
        ("order", "row", "return requested, 12.50 EUR"),
        ("carrier", "carrier", "book return of 1"),
        ("shipping", "row", "goods received"),
        ("payment", "row", "intent to refund 12.50"),
        ("provider", "provider", "refund 12.50"),
        ("inventory", "row", "1 piece free again"),
        ("order", "saga", "return-order completed"),
        ("order", "row", "return completed"),
    ]
    places = [told.index(moment) for moment in expected]
    assert places == sorted(places)
    assert all(earlier.at <= later.at for earlier, later in pairwise(moments))


async def test_with_the_logs_it_begins_with_the_request(shop: Shop, tmp_path: Path) -> None:
    mug = await shop.product(10)
    order_id = await shop.place({mug: 1})
    connection = await asyncpg.connect(shop.sources.databases["order"])
    headers = await connection.fetchval("SELECT headers FROM covey.outbox WHERE key = $1", str(order_id))
    await connection.close()
    request = {
        "timestamp": datetime(2026, 1, 1, tzinfo=UTC).isoformat(),
        "level": "info",
        "event": "request",
        "service": "order",
        "correlation_id": json.loads(headers)["correlation-id"],
        "method": "POST",
        "path": "/api/v1/orders",
        "status": 201,
        "duration_ms": 12.3,
    }
    (tmp_path / "order.log").write_text(f"no JSON\n{json.dumps(request)}\n")

    moments = await timeline(shop.sources, order_id, tmp_path)

    assert (moments[0].kind, moments[0].text) == ("http", "POST /api/v1/orders → 201, 12 ms")


async def test_an_order_that_does_not_exist_has_none(shop: Shop) -> None:
    assert await timeline(shop.sources, new_id()) == []
