"""An order that was placed before there was shipping ends as it began, beside those that are placed now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from order_service import storage
from order_service.domain import Money, Order, OrderId, Product, ProductId, UserId, Wanted, place
from order_service.saga.place_order import PlaceOrderV1, place_order_v1

from covey.database.pool import Database
from covey.ids import new_id
from covey.work.unit_of_work import Transactions
from shop.auditor import audit

if TYPE_CHECKING:
    from conftest import Shop


async def test_orders_of_both_versions_come_to_their_ends(shop: Shop) -> None:
    mug = ProductId(await shop.product(10))
    async with Database.open(shop.sources.databases["order"]) as database:
        old = await placed_before(Transactions(database, "order"), mug)
    new = await shop.place({mug: 2})

    await shop.client.settled(old.id, within_seconds=20)
    await shop.client.happened(new, "place-order completed")

    found = await audit(shop.sources, [old.id, new])
    assert found.violations == []
    assert {order.status for order in found.books.orders.values()} == {"confirmed"}
    assert found.summary()[-2:] == ["parcels 1 shipments, 2 pieces shipped, 0 returned", "mail    1 sent, 1 arrived"]


async def placed_before(transactions: Transactions, mug: ProductId) -> Order:
    """Place an order as version 1 did."""
    wanted = [Wanted(mug, 1)]
    order = place(OrderId(new_id()), UserId(new_id()), wanted, {mug: Product(mug, "Mug", Money(1_250, "EUR"), 1)})
    data = PlaceOrderV1(order_id=order.id, lines=tuple(wanted), amount=order.total, token="tok_ok")
    async with transactions.begin() as work:
        await storage.add_order(work, order, await place_order_v1.start(work, data))
    return order
