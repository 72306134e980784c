"""The auditor's rules: books that are right pass, and each thing that can be wrong is found."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from covey.ids import new_id
from shop.books import (
    Books,
    Carried,
    Confirmation,
    Hold,
    Invoice,
    Letter,
    Money,
    Order,
    Refund,
    Reservation,
    Return,
    Stock,
    User,
)
from shop.rules import RULES, findings

CONFIRMED, REJECTED, CANCELLED = new_id(), new_id(), new_id()
MUG, TEAPOT = new_id(), new_id()
BACK, UNWANTED = new_id(), new_id()
ADA, MAIL = new_id(), new_id()
WANTS_MAIL = User(version=1, address="ada@example.org", wants_order_mail=True)
WANTS_NONE = User(version=1, address="ada@example.org", wants_order_mail=False)
SENT = Confirmation(id=MAIL, status="sent", reason=None, attempts=1)
ARRIVED = Letter(sent_as=str(MAIL), to="ada@example.org")
EVENTS = {"confirmed": "order.confirmed.v1", "rejected": "order.rejected.v1", "cancelled": "order.cancelled.v1"}


def violations(one: Books) -> list[str]:
    return [violation for found in findings(one).values() for violation in found]


def books() -> Books:
    """A confirmed order, a rejected one whose authorization was given up, and one that was cancelled early.

    All are Ada's, who was told of the first. Of that a mug came back, and another did not: its return was refused after
    the goods were received.
    """
    saga = {CONFIRMED: "completed", REJECTED: "compensated", CANCELLED: "compensated"}
    status = {CONFIRMED: "confirmed", REJECTED: "rejected", CANCELLED: "cancelled"}
    charged = Money(authorized=3_000, captured=3_000, refunded=1_000, captures=1)
    voided = Money(authorized=3_000, voided=3_000)
    return Books(
        orders={
            id: Order(
                id=id,
                user_id=ADA,
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
            CONFIRMED: Reservation(status="sold", lines={MUG: 2, TEAPOT: 1}, restocked={MUG: 1}),
            REJECTED: Reservation(status="released", lines={MUG: 2, TEAPOT: 1}),
            CANCELLED: Reservation(status="released", lines={}),
        },
        stocks={
            MUG: Stock(received=10, free=9, reserved=0, sold=1),
            TEAPOT: Stock(received=5, free=4, reserved=0, sold=1),
        },
        shipments={CONFIRMED: "delivered"},
        carrier={str(CONFIRMED): Carried(shipments=1, shipped=3, returned=1)},
        returns={
            BACK: Return(order_id=CONFIRMED, lines={MUG: 1}, status="completed", amount=1_000, saga="completed"),
            UNWANTED: Return(order_id=CONFIRMED, lines={MUG: 1}, status="refused", amount=1_000, saga="compensated"),
        },
        goods={
            BACK: Return(order_id=CONFIRMED, lines={MUG: 1}, status="received"),
            UNWANTED: Return(order_id=CONFIRMED, lines={MUG: 1}, status="cancelled"),
        },
        refunds={
            BACK: Refund(order_id=CONFIRMED, amount=1_000, status="done"),
            UNWANTED: Refund(order_id=CONFIRMED, amount=1_000, status="declined"),
        },
        restocks={BACK: Return(order_id=CONFIRMED, lines={MUG: 1})},
        invoices={CONFIRMED: Invoice(amount=3_000, credited=1_000)},
        users={ADA: WANTS_MAIL},
        recipients={ADA: WANTS_MAIL},
        confirmations={CONFIRMED: [SENT]},
        letters={str(CONFIRMED): [ARRIVED]},
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


def carried(parcels: Carried, order_id: object = CONFIRMED) -> Books:
    """The books with other parcels at the carrier."""
    one = books()
    one.carrier[str(order_id)] = parcels
    return one


def returned(**changes: object) -> Books:
    """The books where the return that was completed is something else to the order service."""
    one = books()
    one.returns[BACK] = replace(one.returns[BACK], **changes)  # type: ignore[arg-type]  # the fields of a return
    return one


def without(**missing: object) -> Books:
    """The books in which each of these lacks an entry."""
    one = books()
    for name, key in missing.items():
        del getattr(one, name)[key]
    return one


def noted(name: str, key: object, entry: object) -> Books:
    """The books with another entry."""
    one = books()
    getattr(one, name)[key] = entry
    return one


def told(letters: list[Letter], order_id: object = CONFIRMED, **changes: object) -> Books:
    """The books where these mails about an order have arrived, and notification has sent something else."""
    one = books()
    one.letters[str(order_id)] = letters
    one.confirmations[CONFIRMED] = [replace(SENT, **changes)]  # type: ignore[arg-type]  # the fields of a mail
    return one


def knowing(user: User | None, recipient: User | None = None) -> Books:
    """The books with another Ada; notification knows her as she is, if not told otherwise."""
    known = recipient or user
    return replace(books(), users={ADA: user} if user else {}, recipients={ADA: known} if known else {})


def at_the_provider(money: Money, reference: str = str(CONFIRMED)) -> Books:
    """The books where the provider knows something else than payment."""
    one = books()
    one.provider[reference] = money
    return one


TWICE = Money(authorized=3_000, captured=6_000, refunded=1_000, captures=2)

PLANTED: dict[str, tuple[Books, str]] = {
    "a double capture that payment does not know of": (
        at_the_provider(TWICE),
        "payment says 3000 captured, the provider 6000",
    ),
    "a double capture that payment knows of": (charged(TWICE), "the provider captured 6000 in 2 captures"),
    "the total in two halves": (
        charged(Money(authorized=3_000, captured=3_000, refunded=1_000, captures=2)),
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
        "payment says 1000 refunded, the provider 5",
    ),
    "a piece that is gone": (
        stocked(Stock(received=10, free=8, reserved=0, sold=1)),
        "10 received, but 9 are free, reserved or sold",
    ),
    "a piece that is reserved for nobody": (
        stocked(Stock(received=10, free=8, reserved=1, sold=1)),
        "1 are reserved, but orders hold 0",
    ),
    "a piece that was sold to nobody": (
        stocked(Stock(received=10, free=8, reserved=0, sold=2)),
        "2 are sold, but orders have bought and kept 1",
    ),
    "more sold than there is": (stocked(Stock(received=0, free=-1, reserved=0, sold=1)), "-1 pieces are free"),
    "more refunded than captured": (
        charged(Money(authorized=3_000, captured=3_000, refunded=3_001, captures=1)),
        "the provider captured 3000 and refunded 3001",
    ),
    "a refund that its payment does not know of": (
        noted("refunds", new_id(), Refund(order_id=CONFIRMED, amount=500, status="done")),
        "payment says 1000 refunded, its refunds 1500",
    ),
    "a refund that is still asked for": (
        noted("refunds", new_id(), Refund(order_id=CONFIRMED, amount=500, status="asked")),
        "500 are still being refunded",
    ),
    "a capture without an invoice": (without(invoices=CONFIRMED), "3000 were captured, 0 is invoiced"),
    "an invoice over something else": (
        noted("invoices", CONFIRMED, Invoice(amount=2_000, credited=1_000)),
        "3000 were captured, 2000 is invoiced",
    ),
    "a refund without a credit note": (
        noted("invoices", CONFIRMED, Invoice(amount=3_000, credited=0)),
        "1000 were refunded, 0 is credited",
    ),
    "a double shipment": (carried(Carried(shipments=2, shipped=6, returned=1)), "the carrier has 2 shipments of it"),
    "a confirmed order that was not shipped": (carried(Carried()), "the carrier has 0 shipments of it"),
    "a shipment of a rejected order": (carried(Carried(shipments=1, shipped=3), REJECTED), "has 1 shipments of it"),
    "a shipment of which something is missing": (
        carried(Carried(shipments=1, shipped=2, returned=1)),
        "is of 3 pieces, and the carrier has 2",
    ),
    "parcels of an order that does not exist": (carried(Carried(shipments=1, shipped=1), "x"), "of order x, which"),
    "a shipment that shipping still books": (
        noted("shipments", CONFIRMED, "booking"),
        "shipping says that its shipment is booking",
    ),
    "a shipment that shipping knows nothing of": (without(shipments=CONFIRMED), "its shipment is nothing"),
    "a return that is under way": (
        returned(status="requested", saga="running"),
        "is still under way; its saga is runn",
    ),
    "a completed return whose saga was compensated": (returned(saga="compensated"), "but its saga is compensated"),
    "a return of which the goods are missing": (without(goods=BACK), "is completed, but its goods are missing"),
    "a restock without a refund": (without(refunds=BACK), "but 0 were refunded for it"),
    "a refund of another amount": (returned(amount=1_500), "over 1500 is completed, but 1000 were refunded"),
    "a refund without a restock": (without(restocks=BACK), "but 0 pieces were restocked for it"),
    "a refused return that was refunded": (
        noted("refunds", UNWANTED, Refund(order_id=CONFIRMED, amount=1_000, status="done")),
        "is refused, but 1000 were refunded for it",
    ),
    "a refused return whose goods were kept": (
        noted("goods", UNWANTED, Return(order_id=CONFIRMED, lines={MUG: 1}, status="received")),
        "is refused, but its goods are received",
    ),
    "a refused return that was restocked": (
        noted("restocks", UNWANTED, Return(order_id=CONFIRMED, lines={MUG: 1})),
        "is refused, but 1 pieces were restocked for it",
    ),
    "goods of a return that does not exist": (
        noted("goods", new_id(), Return(order_id=CONFIRMED, lines={}, status="received")),
        "shipping has goods of return",
    ),
    "a restock for a return that does not exist": (
        noted("restocks", new_id(), Return(order_id=CONFIRMED, lines={})),
        "inventory has restocked pieces of return",
    ),
    "more returned than was ordered": (returned(lines={MUG: 3}), "more is returned than was ordered"),
    "a return that the carrier has not brought back": (
        carried(Carried(shipments=1, shipped=3)),
        "shipping has received 1 pieces, the carrier says 0",
    ),
    "pieces that were restocked twice": (
        reserved(CONFIRMED, Reservation(status="sold", lines={MUG: 2, TEAPOT: 1}, restocked={MUG: 2})),
        "1 pieces were restocked, and its reservation says 2",
    ),
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
    "a mail that is missing": (without(confirmations=CONFIRMED), "is confirmed, and notification has 0 mails about it"),
    "a mail that is sent and has not arrived": (told([]), "its mail is sent, and the mail server has none"),
    "a mail that still waits": (told([], status="waiting", attempts=0), "is confirmed, and its mail is waiting"),
    "a mail that is still being sent": (told([ARRIVED], status="sending"), "is confirmed, and its mail is sending"),
    "a mail that was skipped though it is wanted": (
        told([], status="skipped", reason="no address is known", attempts=0),
        "wants mail and got none: no address is known",
    ),
    "two mails about one order": (
        told([ARRIVED, replace(ARRIVED, sent_as="another")], attempts=2),
        "the mail server has 2 different mails about it",
    ),
    "two records of mails about one order": (
        noted("confirmations", CONFIRMED, [SENT, replace(SENT, id=new_id())]),
        "notification has 2 mails about it",
    ),
    "a mail that is not the one that was sent": (
        told([replace(ARRIVED, sent_as="another")]),
        "the mail server has another mail than the one",
    ),
    "more copies than attempts": (told([ARRIVED, ARRIVED]), "was handed over 1 times, and has arrived 2 times"),
    "a mail about a rejected order": (told([ARRIVED], REJECTED), "is rejected, and there is mail about it"),
    "a record of a mail about a cancelled order": (
        noted("confirmations", CANCELLED, [replace(SENT, status="skipped", reason="why")]),
        "is cancelled, and there is mail about it",
    ),
    "a mail about an order that does not exist": (told([ARRIVED], "x"), "there is mail about order x, which does not"),
    "a mail to who wants none": (knowing(WANTS_NONE), "who wants none"),
    "a mail to somebody else": (
        told([replace(ARRIVED, to="bob@example.org")]),
        "a mail was sent to somebody else than user",
    ),
    "a mail to who has no account": (knowing(None), "1 mails were sent to somebody who has no account"),
    "a user whom notification does not know": (without(recipients=ADA), "and notification does not know them"),
    "a user whom only notification knows": (noted("recipients", new_id(), WANTS_MAIL), "who does not exist"),
    "a change that notification has missed": (
        knowing(replace(WANTS_MAIL, version=2), WANTS_MAIL),
        "is at version 2, and notification knows version 1",
    ),
    "a user whom notification knows otherwise": (
        knowing(WANTS_MAIL, replace(WANTS_MAIL, address="bob@example.org")),
        "with another address or other wishes",
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


@pytest.mark.parametrize(
    "right",
    [
        pytest.param(told([ARRIVED, ARRIVED], attempts=3), id="copies of one mail"),
        pytest.param(told([], status="refused", reason="550"), id="a mail that the server refused"),
        pytest.param(
            told([ARRIVED], status="refused", reason="550", attempts=2),
            id="taken without an answer, refused the next time",
        ),
        pytest.param(knowing(replace(WANTS_NONE, version=2)), id="who has changed their mind since"),
        pytest.param(
            knowing(User(version=2, address=None, wants_order_mail=False)), id="who has closed the account since"
        ),
    ],
)
def test_about_mail_this_is_right(right: Books) -> None:
    assert violations(right) == []


def test_who_wants_no_mail_and_got_none_is_right() -> None:
    one = told([], status="skipped", reason="wants none", attempts=0)
    one.users[ADA] = one.recipients[ADA] = WANTS_NONE

    assert violations(one) == []


def test_no_violation_tells_an_address() -> None:
    for planted, _ in PLANTED.values():
        assert not any("@" in violation for violation in violations(planted))


def test_an_order_from_before_there_was_shipping_has_no_shipment_and_needs_none() -> None:
    one = ordered(shipped=False)
    one.confirmations.clear(), one.letters.clear()
    del one.shipments[CONFIRMED], one.carrier[str(CONFIRMED)]
    one.returns.clear(), one.goods.clear(), one.restocks.clear()
    one.reservations[CONFIRMED] = Reservation(status="sold", lines={MUG: 2, TEAPOT: 1})
    one.stocks[MUG] = Stock(received=10, free=8, reserved=0, sold=2)

    assert violations(one) == []
