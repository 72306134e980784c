"""The ends of the saga: an order is confirmed or given up, and the world is told once. And how it is stopped."""

from __future__ import annotations

import pytest
from order_service import storage
from order_service.domain import (
    Cancelled,
    Confirmed,
    Money,
    Order,
    OrderId,
    Product,
    ProductId,
    Rejected,
    State,
    UserId,
    Wanted,
    place,
)
from order_service.saga.place_order import (
    PlaceOrder,
    PlaceOrderV1,
    confirm_order,
    give_order_up,
    place_order,
    place_order_v1,
    stop,
)

from covey.errors import Conflict, NotFound
from covey.ids import new_id
from covey.work.unit_of_work import Transactions, Work

V1 = set(PlaceOrderV1.model_fields)
MUG = Product(ProductId(new_id()), "Mug", Money(1_250, "EUR"), 1)


@pytest.fixture
async def order(transactions: Transactions) -> Order:
    placed = place(OrderId(new_id()), UserId(new_id()), [Wanted(MUG.id, 2)], {MUG.id: MUG})
    async with transactions.begin() as work:
        await storage.add_order(work, placed, new_id())
    return placed


def data(order: Order) -> PlaceOrder:
    wanted = tuple(Wanted(line.product_id, line.quantity) for line in order.lines)
    return PlaceOrder(
        order_id=order.id, user_id=order.user_id, lines=wanted, amount=order.total, total=order.total, token="tok_ok"
    )


async def published(work: Work) -> list[str]:
    return [row["type"] for row in await work.fetch("SELECT type FROM covey.outbox ORDER BY position")]


async def state(work: Work, order: Order) -> State:
    stored = await storage.order_by_id(work, order.id)
    assert stored is not None
    return stored.order.state


async def test_a_confirmed_order_is_announced_once_however_often_it_is_confirmed(
    transactions: Transactions, order: Order
) -> None:
    for _ in range(3):
        async with transactions.begin() as work:
            await confirm_order(data(order), work)

    async with transactions.begin() as work:
        assert await state(work, order) == Confirmed()
        assert await published(work) == ["order.confirmed.v1"]


async def test_an_order_that_is_given_up_is_rejected_with_the_reason_and_announced_once(
    transactions: Transactions, order: Order
) -> None:
    for reason in ("out of stock", "something else"):
        async with transactions.begin() as work:
            await give_order_up(data(order), reason, work)

    async with transactions.begin() as work:
        assert await state(work, order) == Rejected("out of stock")
        assert await published(work) == ["order.rejected.v1"]


async def test_an_order_whose_cancellation_was_asked_for_is_cancelled(transactions: Transactions, order: Order) -> None:
    async with transactions.begin() as work:
        await storage.keep_cancelling(work, order.id, "changed my mind")

    async with transactions.begin() as work:
        await give_order_up(data(order), "changed my mind", work)

    async with transactions.begin() as work:
        assert await state(work, order) == Cancelled("changed my mind")
        assert await published(work) == ["order.cancelled.v1"]


async def test_an_order_is_never_both_confirmed_and_given_up(transactions: Transactions, order: Order) -> None:
    async with transactions.begin() as work:
        await confirm_order(data(order), work)

    with pytest.raises(Conflict):
        async with transactions.begin() as work:
            await give_order_up(data(order), "late", work)


@pytest.mark.parametrize("version", [1, 2])
async def test_an_order_of_either_version_can_be_cancelled_before_the_pivot(
    transactions: Transactions, order: Order, version: int
) -> None:
    async with transactions.begin() as work:
        if version == 1:
            saga_id = await place_order_v1.start(work, PlaceOrderV1(**data(order).model_dump(include=V1)))
        else:
            saga_id = await place_order.start(work, data(order))

    async with transactions.begin() as work:
        assert await stop(work, saga_id, "changed my mind")

    async with transactions.begin() as work:
        assert await work.fetchval("SELECT version FROM covey.saga") == version
        assert await published(work) == ["inventory.reserve-stock.v1", "inventory.release-stock.v1"]


async def test_a_saga_that_is_not_there_cannot_be_stopped(transactions: Transactions) -> None:
    async with transactions.begin() as work:
        with pytest.raises(NotFound):
            await stop(work, new_id(), "why")
