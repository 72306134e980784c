"""Orders, their returns and the read models of products and shipments in a real database."""

from __future__ import annotations

import pytest
from order_service import storage
from order_service.domain import (
    Cancelled,
    Confirmed,
    Money,
    Order,
    OrderId,
    Pending,
    Product,
    ProductId,
    Rejected,
    Return,
    ReturnId,
    ShipmentId,
    UserId,
    Wanted,
    place,
)
from order_service.handlers import keep_product, keep_shipment
from order_service.messages import ProductChanged, ShipmentChanged

from covey.errors import ConstraintViolated
from covey.ids import new_id
from covey.work.unit_of_work import Transactions, Work

MUG = ProductId(new_id())
SHIPMENT = ShipmentId(new_id())


def changed(version: int, amount: int) -> ProductChanged:
    return ProductChanged(product_id=MUG, name=f"Mug {version}", price=Money(amount, "EUR"), version=version)


def an_order() -> Order:
    teapot = ProductId(new_id())
    catalogue = {
        MUG: Product(MUG, "Mug", Money(1_250, "EUR"), 1),
        teapot: Product(teapot, "Teapot", Money(4_900, "EUR"), 1),
    }
    return place(OrderId(new_id()), UserId(new_id()), [Wanted(teapot, 1), Wanted(MUG, 3)], catalogue)


async def stored(transactions: Transactions, order: Order) -> None:
    async with transactions.begin() as work:
        await storage.add_order(work, order, new_id())


async def found(work: Work, order_id: OrderId) -> storage.Stored:
    one = await storage.order_by_id(work, order_id)
    assert one is not None
    return one


async def test_the_newest_version_of_a_product_wins_however_the_events_arrive(transactions: Transactions) -> None:
    for version in (2, 1, 3, 3, 2):
        async with transactions.begin() as work:
            await keep_product(changed(version, 1_000 + version), work)

    async with transactions.begin() as work:
        products = await storage.products(work, [MUG, ProductId(new_id())])

    assert products == {MUG: Product(MUG, "Mug 3", Money(1_003, "EUR"), 3)}


async def test_several_versions_in_one_transaction_leave_the_newest(transactions: Transactions) -> None:
    async with transactions.begin() as work:
        for version in (1, 3, 2):
            await keep_product(changed(version, version), work)

    async with transactions.begin() as work:
        assert (await storage.products(work, [MUG]))[MUG].version == 3


async def test_an_order_comes_back_as_it_was_placed(transactions: Transactions) -> None:
    order = an_order()
    await stored(transactions, order)

    async with transactions.begin() as work:
        back = await found(work, order.id)
        assert await storage.order_by_id(work, OrderId(new_id())) is None

    assert back.order == order
    assert back.settled_at is None


@pytest.mark.parametrize("state", [Confirmed(), Rejected("out of stock"), Cancelled("changed my mind")])
async def test_a_settled_order_comes_back_with_its_state_and_when_it_got_there(
    transactions: Transactions, state: Confirmed | Rejected | Cancelled
) -> None:
    order = an_order()
    await stored(transactions, order)

    async with transactions.begin() as work:
        storage.settle(work, order.id, state)

    async with transactions.begin() as work:
        back = await found(work, order.id)

    assert back.order.state == state
    assert back.settled_at is not None


async def test_an_order_that_is_being_cancelled_says_since_when(transactions: Transactions) -> None:
    order = an_order()
    await stored(transactions, order)

    async with transactions.begin() as work:
        await storage.keep_cancelling(work, order.id, "changed my mind")
        back = await found(work, order.id)

    assert back.order.state == Pending("changed my mind")
    assert back.cancelling_at is not None


def moved(order_id: OrderId, version: int, status: str) -> ShipmentChanged:
    return ShipmentChanged(
        order_id=order_id, shipment_id=SHIPMENT, status=status, tracking_number="SC1", version=version
    )


async def test_the_newest_state_of_a_shipment_wins_and_it_was_shipped_when_it_was_first_heard_of(
    transactions: Transactions,
) -> None:
    order_id = OrderId(new_id())
    async with transactions.begin() as work:
        await keep_shipment(moved(order_id, 1, "booked"), work)
    async with transactions.begin() as work:
        first = await storage.shipment_of(work, order_id)

    for version, status in ((3, "delivered"), (2, "in_transit"), (3, "delivered")):
        async with transactions.begin() as work:
            await keep_shipment(moved(order_id, version, status), work)

    async with transactions.begin() as work:
        last = await storage.shipment_of(work, order_id)
        assert await storage.shipment_of(work, OrderId(new_id())) is None
    assert first is not None
    assert last is not None
    assert (last[0].status, last[0].version, last[1]) == ("delivered", 3, first[1])


async def test_a_return_comes_back_as_it_was_requested(transactions: Transactions) -> None:
    order = an_order()
    await stored(transactions, order)
    one = Return(ReturnId(new_id()), (Wanted(MUG, 2),), Money(2_500, "EUR"), "too small")

    async with transactions.begin() as work:
        await storage.add_return(work, order.id, one)

    async with transactions.begin() as work:
        (back,) = await storage.returns_of(work, order.id)
        assert await storage.return_to_change(work, one.id) == one
        assert await storage.return_to_change(work, ReturnId(new_id())) is None
    assert (back.one, back.settled_at) == (one, None)


async def test_the_database_itself_refuses_to_take_back_more_than_was_ordered(transactions: Transactions) -> None:
    order = an_order()
    await stored(transactions, order)

    with pytest.raises(ConstraintViolated):
        async with transactions.begin() as work:
            for _ in range(2):
                one = Return(ReturnId(new_id()), (Wanted(MUG, 2),), Money(2_500, "EUR"), "too small")
                await storage.add_return(work, order.id, one)
