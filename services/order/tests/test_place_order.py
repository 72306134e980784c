"""The saga that fulfils an order, told what happens and asked what it does, with nothing running."""

from __future__ import annotations

from typing import Any

from order_service.domain import Money, Order, OrderId, Product, ProductId, UserId, Wanted, place
from order_service.messages import (
    AuthorizePayment,
    CapturePayment,
    OrderConfirmed,
    OrderRejected,
    ReleaseStock,
    ReserveStock,
    SendConfirmation,
    ShipOrder,
    VoidAuthorization,
)
from order_service.saga.place_order import PlaceOrder, PlaceOrderV1, place_order, place_order_v1

from covey.ids import new_id
from covey.saga.saga import Saga
from covey.testing.saga import FakeWork, SagaRun, given

MUG = Product(ProductId(new_id()), "Mug", Money(1_250, "EUR"), 1)
WANTED = (Wanted(MUG.id, 2),)
ORDER = place(OrderId(new_id()), UserId(new_id()), WANTED, {MUG.id: MUG})
V1 = PlaceOrderV1(order_id=ORDER.id, lines=WANTED, amount=ORDER.total, token="tok_ok")
DATA = PlaceOrder(**V1.model_dump(), user_id=ORDER.user_id, total=ORDER.total)


def rows(order: Order) -> list[dict[str, Any]]:
    """A pending order as its table has it."""
    head = {
        "id": order.id,
        "user_id": order.user_id,
        "saga_id": new_id(),
        "status": "pending",
        "cancelling": None,
        "total_amount": order.total.amount,
        "total_currency": order.total.currency,
        "placed_at": None,
        "cancelling_at": None,
        "settled_at": None,
    }
    return [
        head | {"product_id": line.product_id, "quantity": line.quantity, "unit_price": line.unit_price.amount}
        for line in order.lines
    ]


def run_of(saga: Saga[Any], data: Any) -> SagaRun[Any]:
    return given(saga, data, work=FakeWork("order", answers=lambda sql, args: rows(ORDER)))


async def captured() -> SagaRun[Any]:
    """A run whose money is taken: it has just asked for the goods to be shipped."""
    run = run_of(place_order, DATA)
    await run.starts()
    run.expect(ReserveStock)
    await run.when_done()
    run.expect(AuthorizePayment)
    await run.when_done(payment_id=str(new_id()))
    run.expect(CapturePayment)
    await run.when_done()
    return run


async def test_an_order_is_paid_for_confirmed_shipped_and_the_customer_is_told() -> None:
    run = await captured()

    assert run.published == [OrderConfirmed(order_id=ORDER.id, user_id=ORDER.user_id, total=ORDER.total)]
    shipping = run.expect(ShipOrder)
    assert (shipping.order_id, shipping.user_id, shipping.lines) == (ORDER.id, ORDER.user_id, WANTED)
    await run.when_done(shipment_id=str(new_id()), tracking_number="SC1")
    confirmation = run.expect(SendConfirmation)
    assert (confirmation.order_id, confirmation.user_id, confirmation.total) == (ORDER.id, ORDER.user_id, ORDER.total)
    await run.when_done()

    run.expect_completed()
    assert len(run.published) == 1


async def test_a_carrier_that_is_down_makes_the_order_wait_and_not_fail() -> None:
    run = await captured()
    first = run.last

    for _ in range(3):
        await run.when_silent()
        assert isinstance(run.last.command, ShipOrder)
        assert run.last.command_id == first.command_id
        assert not run.last.expires
    assert not await run.when_cancelled("too late")
    await run.when_done()

    assert isinstance(run.last.command, SendConfirmation)


async def test_a_carrier_that_declines_is_asked_again_later_under_another_key() -> None:
    run = await captured()
    first = run.last
    run.expect(ShipOrder)

    await run.when_refused("nothing is carried there")
    await run.when_paused()

    run.expect(ShipOrder)
    assert run.last.command_id != first.command_id


async def test_a_customer_who_cannot_be_told_undoes_nothing() -> None:
    run = await captured()
    run.expect(ShipOrder)
    await run.when_done()
    run.expect(SendConfirmation)

    await run.when_refused("the mailbox is full")
    await run.when_paused()

    run.expect(SendConfirmation)


async def test_a_declined_capture_undoes_what_was_done_and_ships_nothing() -> None:
    run = run_of(place_order, DATA)
    await run.starts()
    await run.when_done()
    await run.when_done()
    await run.when_refused("declined")

    assert isinstance(run.last.command, VoidAuthorization)
    await run.when_done()
    assert isinstance(run.last.command, ReleaseStock)
    await run.when_done()

    assert run.published == [OrderRejected(order_id=ORDER.id, user_id=ORDER.user_id, reason="declined")]
    assert not any(isinstance(sent.command, ShipOrder) for sent in run.work.commands)


async def test_an_order_of_the_first_version_ends_as_it_began() -> None:
    run = run_of(place_order_v1, V1)
    await run.starts()
    run.expect(ReserveStock)
    await run.when_done()
    run.expect(AuthorizePayment)
    await run.when_done()
    run.expect(CapturePayment)
    await run.when_done()

    run.expect_completed()
    assert [type(event) for event in run.published] == [OrderConfirmed]
    assert (place_order_v1.version, place_order.version) == (1, 2)
