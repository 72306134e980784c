"""The rules of an order."""

from __future__ import annotations

import pytest
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
    State,
    UserId,
    Wanted,
    ask_to_cancel,
    confirm,
    give_up,
    place,
)

from covey.errors import Conflict, Invalid
from covey.ids import new_id

MUG = Product(ProductId(new_id()), "Mug", Money(1_250, "EUR"), 1)
TEAPOT = Product(ProductId(new_id()), "Teapot", Money(4_900, "EUR"), 3)
DOLLARS = Product(ProductId(new_id()), "Dollar mug", Money(1_300, "USD"), 1)
CATALOGUE = {product.id: product for product in (MUG, TEAPOT, DOLLARS)}


def order_in(state: State) -> Order:
    placed = place(OrderId(new_id()), UserId(new_id()), [Wanted(MUG.id, 2)], CATALOGUE)
    return Order(placed.id, placed.user_id, placed.lines, placed.total, state)


def test_an_order_keeps_the_prices_of_the_moment_and_adds_them_up() -> None:
    wanted = [Wanted(MUG.id, 2), Wanted(TEAPOT.id, 1)]

    order = place(OrderId(new_id()), UserId(new_id()), wanted, CATALOGUE)

    assert [(line.product_id, line.quantity, line.unit_price.amount) for line in order.lines] == [
        (MUG.id, 2, 1_250),
        (TEAPOT.id, 1, 4_900),
    ]
    assert order.total == Money(7_400, "EUR")
    assert order.state == Pending()


def test_an_unknown_product_is_refused_and_every_such_line_is_named() -> None:
    wanted = [Wanted(ProductId(new_id()), 1), Wanted(MUG.id, 1), Wanted(ProductId(new_id()), 1)]

    with pytest.raises(Invalid) as caught:
        place(OrderId(new_id()), UserId(new_id()), wanted, CATALOGUE)

    assert [error["pointer"] for error in caught.value.errors] == ["#/lines/0/product_id", "#/lines/2/product_id"]


def test_an_order_is_paid_in_one_currency() -> None:
    wanted = [Wanted(MUG.id, 1), Wanted(DOLLARS.id, 1)]

    with pytest.raises(Invalid, match="EUR and USD"):
        place(OrderId(new_id()), UserId(new_id()), wanted, CATALOGUE)


def test_a_pending_order_is_confirmed_once_and_stays_so() -> None:
    once = confirm(order_in(Pending()))

    assert once.state == Confirmed()
    assert confirm(once) == once


def test_an_order_for_which_cancellation_was_asked_is_confirmed_when_the_money_is_taken_all_the_same() -> None:
    assert confirm(order_in(Pending("changed my mind"))).state == Confirmed()


@pytest.mark.parametrize("state", [Rejected("out of stock"), Cancelled("changed my mind")])
def test_an_order_that_was_given_up_cannot_be_confirmed(state: State) -> None:
    with pytest.raises(Conflict):
        confirm(order_in(state))


def test_an_order_that_cannot_be_fulfilled_is_rejected_with_the_reason() -> None:
    assert give_up(order_in(Pending()), "out of stock").state == Rejected("out of stock")


def test_an_order_that_is_given_up_because_somebody_asked_is_cancelled_with_their_reason() -> None:
    assert give_up(order_in(Pending("changed my mind")), "whatever").state == Cancelled("changed my mind")


def test_giving_up_twice_changes_nothing() -> None:
    rejected = order_in(Rejected("out of stock"))

    assert give_up(rejected, "declined") == rejected


def test_a_confirmed_order_is_not_given_up() -> None:
    with pytest.raises(Conflict):
        give_up(order_in(Confirmed()), "late")


def test_asking_to_cancel_again_keeps_the_first_reason() -> None:
    once = ask_to_cancel(order_in(Pending()), "changed my mind")

    assert once.state == Pending("changed my mind")
    assert ask_to_cancel(once, "too late") == once


@pytest.mark.parametrize("state", [Confirmed(), Rejected("out of stock")])
def test_a_settled_order_cannot_be_cancelled(state: State) -> None:
    with pytest.raises(Conflict):
        ask_to_cancel(order_in(state), "changed my mind")
