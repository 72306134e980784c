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
    Return,
    ReturnCompleted,
    ReturnId,
    ReturnRefused,
    ReturnState,
    State,
    UserId,
    Wanted,
    ask_to_cancel,
    complete_return,
    confirm,
    give_up,
    place,
    refuse_return,
    take_back,
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


CONFIRMED = Confirmed()
BOUGHT = [Wanted(MUG.id, 3), Wanted(TEAPOT.id, 1)]


def bought(state: State = CONFIRMED) -> Order:
    placed = place(OrderId(new_id()), UserId(new_id()), BOUGHT, CATALOGUE)
    return Order(placed.id, placed.user_id, placed.lines, placed.total, state)


def returned(order: Order, *wanted: Wanted, before: tuple[Return, ...] = ()) -> Return:
    return take_back(order, before, ReturnId(new_id()), wanted or None, "too small")


def test_a_part_is_returned_for_what_was_paid_for_it() -> None:
    one = returned(bought(), Wanted(MUG.id, 2))

    assert (one.lines, one.amount) == ((Wanted(MUG.id, 2),), Money(2_500, "EUR"))


def test_a_return_without_lines_is_of_all_that_is_left() -> None:
    order = bought()
    first = returned(order, Wanted(MUG.id, 1), Wanted(TEAPOT.id, 1))

    rest = returned(order, before=(first,))

    assert (rest.lines, rest.amount) == ((Wanted(MUG.id, 2),), Money(2_500, "EUR"))
    assert first.amount.amount + rest.amount.amount == order.total.amount
    with pytest.raises(Conflict, match="everything is returned"):
        returned(order, before=(first, rest))


@pytest.mark.parametrize("state", [Pending(), Rejected("out of stock"), Cancelled("changed my mind")])
def test_only_a_confirmed_order_is_returned(state: State) -> None:
    with pytest.raises(Conflict, match="only a confirmed one"):
        returned(bought(state))


def test_no_more_is_returned_than_was_ordered_and_is_not_on_its_way_back() -> None:
    order = bought()
    first = returned(order, Wanted(MUG.id, 2))

    with pytest.raises(Conflict, match="4 cannot be returned"):
        returned(order, Wanted(MUG.id, 4))
    for before in (first, complete_return(first)):
        with pytest.raises(Conflict, match="2 cannot be returned, 1 of product"):
            returned(order, Wanted(TEAPOT.id, 1), Wanted(MUG.id, 2), before=(before,))


def test_a_return_is_not_asked_for_again_for_ever() -> None:
    order = bought()
    refused = [refuse_return(returned(order), "nothing was shipped") for _ in range(20)]

    assert returned(order, before=tuple(refused[1:]))
    with pytest.raises(Conflict, match="20 returns were refused"):
        returned(order, before=tuple(refused))


def test_a_return_that_was_refused_claims_nothing() -> None:
    order = bought()
    first = refuse_return(returned(order), "nothing was shipped")

    assert returned(order, before=(first,)).lines == tuple(BOUGHT)


def test_what_was_not_ordered_is_refused_and_every_such_line_is_named() -> None:
    with pytest.raises(Invalid) as caught:
        returned(bought(), Wanted(MUG.id, 1), Wanted(DOLLARS.id, 1))

    assert [error["pointer"] for error in caught.value.errors] == ["#/lines/1/product_id"]


def test_a_return_ends_once_and_stays_so() -> None:
    one = returned(bought())
    done, refused = complete_return(one), refuse_return(one, "nothing was shipped")

    states: list[ReturnState] = [done.state, refused.state]
    assert states == [ReturnCompleted(), ReturnRefused("nothing was shipped")]
    assert (complete_return(done), refuse_return(refused, "late")) == (done, refused)
    with pytest.raises(Conflict):
        complete_return(refused)
    with pytest.raises(Conflict):
        refuse_return(done, "late")
