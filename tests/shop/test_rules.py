"""The auditor's rules: books that are right pass, and each thing that can be wrong is found."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from covey.ids import new_id
from shop.books import Books, Hold, Money, Order, Reservation, Stock
from shop.rules import RULES, findings

CONFIRMED, REJECTED, CANCELLED = new_id(), new_id(), new_id()
MUG, TEAPOT = new_id(), new_id()
EVENTS = {"confirmed": "order.confirmed.v1", "rejected": "order.rejected.v1", "cancelled": "order.cancelled.v1"}


def violations(one: Books) -> list[str]:
    return [violation for found in findings(one).values() for violation in found]


def books() -> Books:
    """A confirmed order, a rejected one whose authorization was given up, and one that was cancelled early."""
    saga = {CONFIRMED: "completed", REJECTED: "compensated", CANCELLED: "compensated"}
    status = {CONFIRMED: "confirmed", REJECTED: "rejected", CANCELLED: "cancelled"}
    charged = Money(authorized=3_000, captured=3_000, captures=1)
    voided = Money(authorized=3_000, voided=3_000)
    return Books(
        orders={
            id: Order(
                id=id,
                status=status[id],
                reason=None,
                total=3_000,
                currency="EUR",
                lines={MUG: 2, TEAPOT: 1},
                saga=saga[id],
                events=Counter({"order.placed.v1": 1, EVENTS[status[id]]: 1}),
            )
            for id in status
        },
        payments={CONFIRMED: charged, REJECTED: voided},
        provider={str(CONFIRMED): charged, str(REJECTED): voided},
        reservations={
            CONFIRMED: Reservation(status="sold", lines={MUG: 2, TEAPOT: 1}),
            REJECTED: Reservation(status="released", lines={MUG: 2, TEAPOT: 1}),
            CANCELLED: Reservation(status="released", lines={}),
        },
        stocks={
            MUG: Stock(received=10, free=8, reserved=0, sold=2),
            TEAPOT: Stock(received=5, free=4, reserved=0, sold=1),
        },
        waiting={"order outbox_pending": 0},
        holds=[],
        undelivered={},
    )


def test_books_that_are_right_have_no_violations() -> None:
    assert violations(replace(books(), accepted=frozenset([CONFIRMED, REJECTED, CANCELLED]))) == []


def charged(money: Money) -> Books:
    """The books with this money of the confirmed order, in payment's eyes and in the provider's."""
    one = books()
    one.payments[CONFIRMED] = one.provider[str(CONFIRMED)] = money
    return one


def given_up(money: Money) -> Books:
    """The books with this money of the rejected order, in payment's eyes and in the provider's."""
    one = books()
    one.payments[REJECTED] = one.provider[str(REJECTED)] = money
    return one


def ordered(**changes: object) -> Books:
    """The books with another confirmed order."""
    one = books()
    one.orders[CONFIRMED] = replace(one.orders[CONFIRMED], **changes)  # type: ignore[arg-type]  # the fields of an order
    return one


def stocked(stock: Stock) -> Books:
    """The books with another stock of mugs."""
    one = books()
    one.stocks[MUG] = stock
    return one


def reserved(order_id: object, reservation: Reservation) -> Books:
    """The books with another reservation."""
    one = books()
    one.reservations[order_id] = reservation  # type: ignore[index]  # an order's id
    return one


def at_the_provider(money: Money, reference: str = str(CONFIRMED)) -> Books:
    """The books where the provider knows something else than payment."""
    one = books()
    one.provider[reference] = money
    return one


TWICE = Money(authorized=3_000, captured=6_000, captures=2)

PLANTED: dict[str, tuple[Books, str]] = {
    "a double capture that payment does not know of": (
        at_the_provider(TWICE),
        "payment says 3000 captured, the provider 6000",
    ),
    "a double capture that payment knows of": (charged(TWICE), "the provider captured 6000 in 2 captures"),
    "the total in two halves": (
        charged(Money(authorized=3_000, captured=3_000, captures=2)),
        "the provider captured 3000 in 2 captures",
    ),
    "another amount than the total": (
        charged(Money(authorized=3_000, captured=2_000, voided=1_000, captures=1)),
        "the provider captured 2000 in 1 captures",
    ),
    "a confirmed order that is not charged": (charged(Money(authorized=3_000, voided=3_000)), "captured 0 in 0"),
    "a capture that was not refunded": (
        given_up(Money(authorized=3_000, captured=3_000, captures=1)),
        "3000 EUR were captured and not refunded",
    ),
    "a capture that was refunded in part": (
        given_up(Money(authorized=3_000, captured=3_000, refunded=1_000, captures=1)),
        "2000 EUR were captured and not refunded",
    ),
    "an authorization that was not given up": (given_up(Money(authorized=3_000)), "3000 EUR are still put aside"),
    "a second authorization of a confirmed order": (
        charged(Money(authorized=6_000, captured=3_000, captures=1)),
        "3000 EUR are still put aside",
    ),
    "money at the provider that nobody knows": (
        at_the_provider(Money(authorized=1), "another"),
        "the provider has money under another",
    ),
    "a refund that the provider has not made": (
        at_the_provider(Money(authorized=3_000, captured=3_000, refunded=5, captures=1)),
        "payment says 0 refunded, the provider 5",
    ),
    "a piece that is gone": (
        stocked(Stock(received=10, free=7, reserved=0, sold=2)),
        "10 received, but 9 are free, reserved or sold",
    ),
    "a piece that is reserved for nobody": (
        stocked(Stock(received=10, free=7, reserved=1, sold=2)),
        "1 are reserved, but orders hold 0",
    ),
    "a piece that was sold to nobody": (
        stocked(Stock(received=10, free=7, reserved=0, sold=3)),
        "3 are sold, but orders have bought 2",
    ),
    "more sold than there is": (stocked(Stock(received=1, free=-1, reserved=0, sold=2)), "-1 pieces are free"),
    "stock that is held for a rejected order": (
        reserved(REJECTED, Reservation(status="held", lines={})),
        "is rejected, but its stock is held",
    ),
    "a confirmed order without its stock": (
        reserved(CONFIRMED, Reservation(status="released", lines={})),
        "is confirmed, but its reservation is released",
    ),
    "a confirmed order that got something else": (
        reserved(CONFIRMED, Reservation(status="sold", lines={MUG: 3})),
        "other pieces were sold",
    ),
    "a reservation for an order that does not exist": (
        reserved(new_id(), Reservation(status="refused", lines={})),
        "which does not exist",
    ),
    "an order that is still pending": (ordered(status="pending", saga="running"), "is still pending"),
    "a confirmed order whose saga was compensated": (ordered(saga="compensated"), "but its saga is compensated"),
    "an order without a saga": (ordered(saga=None), "but its saga is missing"),
    "a double confirmation": (
        ordered(events=Counter({"order.confirmed.v1": 2})),
        "order.confirmed.v1 was published 2 times",
    ),
    "a confirmation that was never published": (
        ordered(events=Counter()),
        "order.confirmed.v1 was published 0 times",
    ),
    "an order that was both confirmed and rejected": (
        ordered(events=Counter({"order.confirmed.v1": 1, "order.rejected.v1": 1})),
        "order.rejected.v1 was published 1 times",
    ),
    "a message that waits": (replace(books(), waiting={"order inbox_held": 2}), "2 messages wait in order inbox_held"),
    "a dead letter": (
        replace(books(), holds=[Hold(service="payment", key="k", state="dead", error="Conflict: no")]),
        "payment has a dead letter of key k: Conflict: no",
    ),
    "an event that never arrived": (replace(books(), undelivered={"order.confirmed.v1": 1}), "have not arrived"),
}


@pytest.mark.parametrize(("planted", "expected"), PLANTED.values(), ids=PLANTED.keys())
def test_it_is_found(planted: Books, expected: str) -> None:
    found = violations(planted)

    assert any(expected in violation for violation in found), found


def test_an_order_that_was_accepted_and_is_not_there_is_found() -> None:
    lost = new_id()

    assert violations(replace(books(), accepted=frozenset([CONFIRMED, lost]))) == [
        f"order {lost} was accepted and is lost"
    ]


def test_money_of_an_order_that_does_not_exist_is_found() -> None:
    one = books()
    del one.orders[REJECTED]

    assert any("payment has money of order" in violation for violation in violations(one))


def test_every_rule_is_broken_by_something_planted_here() -> None:
    broken = {rule for planted, _ in PLANTED.values() for rule, found in findings(planted).items() if found}

    assert broken == set(RULES)
