"""The rules of a payment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from payment_service.domain import (
    Ask,
    AskRefund,
    Decision,
    Known,
    Money,
    No,
    Operation,
    OrderId,
    Payment,
    PaymentId,
    Refund,
    RefundId,
    RefundStatus,
    Status,
    authorized,
    captured,
    declined,
    refund_declined,
    refundable,
    refunded,
    to_authorize,
    to_capture,
    to_refund,
    to_void,
    voided,
)

from covey.errors import Conflict
from covey.ids import new_id

ORDER, PAYMENT = OrderId(new_id()), PaymentId(new_id())
PRICE = Money(4_900, "EUR")


TAKEN = (Status.CAPTURED, Status.REFUNDING, Status.REFUNDED)


def payment(status: Status) -> Payment:
    return Payment(PAYMENT, ORDER, PRICE, status)


def taken(refunded: int = 0, refunding: int = 0, status: Status = Status.CAPTURED) -> Payment:
    return Payment(PAYMENT, ORDER, PRICE, status, 4_900, 4_900, refunded=refunded, refunding=refunding)


def refund(found: Payment | None, amount: int = 0, currency: str = "EUR") -> AskRefund | Known | No:
    return to_refund(found, None, RefundId(new_id()), Money(amount, currency))


def authorize(found: Payment | None) -> Decision:
    return to_authorize(found, PAYMENT, ORDER, PRICE)


def void(found: Payment | None) -> Decision:
    return to_void(found, PAYMENT, ORDER)


# What each request means in each state: a, ask the provider; k, known to be done; n, refused; !, a contradiction.
TABLE = {
    #                    authorize  capture  void  refund of nothing, which never is too much
    Status.AUTHORIZING: ("a", "n", "a", "n"),
    Status.AUTHORIZED: ("k", "a", "a", "n"),
    Status.DECLINED: ("n", "n", "k", "n"),
    Status.CAPTURING: ("k", "a", "!", "n"),
    Status.CAPTURED: ("k", "k", "!", "a"),
    Status.VOIDING: ("n", "n", "a", "n"),
    Status.VOIDED: ("n", "n", "k", "n"),
    Status.REFUNDING: ("k", "k", "!", "a"),
    Status.REFUNDED: ("k", "k", "!", "a"),
}
REQUESTS: tuple[Callable[[Payment | None], Decision | AskRefund], ...] = (authorize, to_capture, void, refund)


@pytest.mark.parametrize("status", list(Status))
def test_every_request_has_a_meaning_in_every_state(status: Status) -> None:
    found = payment(status)

    assert tuple(outcome(request, found) for request in REQUESTS) == TABLE[status]


def outcome(request: Callable[[Payment | None], Decision | AskRefund], found: Payment) -> str:
    try:
        decision = request(found)
    except Conflict:
        return "!"
    return {Ask: "a", AskRefund: "a", Known: "k", No: "n"}[type(decision)]


def test_a_payment_that_is_asked_about_is_in_the_state_of_its_intent() -> None:
    assert authorize(None) == Ask(payment(Status.AUTHORIZING))
    assert to_capture(payment(Status.AUTHORIZED)) == Ask(payment(Status.CAPTURING))
    assert void(payment(Status.AUTHORIZING)) == Ask(payment(Status.VOIDING))
    assert to_refund(taken(), None, RefundId(ORDER), Money(1_000, "EUR")) == AskRefund(
        taken(refunding=1_000, status=Status.REFUNDING), Refund(RefundId(ORDER), 1_000)
    )


def test_a_void_that_comes_first_leaves_a_tombstone_that_refuses_the_authorization() -> None:
    decision = void(None)

    assert isinstance(decision, Known)
    assert decision.payment.status is Status.VOIDED
    assert isinstance(authorize(decision.payment), No)


def test_the_reason_of_a_decline_is_kept_for_who_asks_again() -> None:
    refused = declined(payment(Status.AUTHORIZING), Operation.AUTHORIZE, "card declined")

    assert authorize(refused) == No("card declined")


def test_the_answers_of_the_provider_are_added_to_the_payment() -> None:
    held = authorized(payment(Status.AUTHORIZING), 4_900)
    paid = captured(replace(held, status=Status.CAPTURING), 4_900)

    assert (paid.status, paid.authorized, paid.captured) == (Status.CAPTURED, 4_900, 4_900)


def test_money_is_returned_in_parts_until_nothing_is_left() -> None:
    found, states = taken(), []
    for amount in (900, 4_000):
        asked = refund(found, amount)
        assert isinstance(asked, AskRefund)
        found, done = refunded(asked.payment, asked.refund, amount)
        states.append((found.status, found.refunded, found.refunding, found.left, done.status))

    assert states == [
        (Status.CAPTURED, 900, 0, 4_000, RefundStatus.DONE),
        (Status.REFUNDED, 4_900, 0, 0, RefundStatus.DONE),
    ]


def test_what_is_being_returned_cannot_be_returned_to_somebody_else() -> None:
    first = refund(taken(refunded=900), 3_000)
    assert isinstance(first, AskRefund)

    assert refund(first.payment, 1_001) == No("1001 cannot be refunded: 1000 of what was captured are left")
    assert isinstance(refund(first.payment, 1_000), AskRefund)


def test_a_refund_that_is_declined_leaves_its_amount_to_others_and_stays_declined() -> None:
    asked = refund(taken(), 4_900)
    assert isinstance(asked, AskRefund)

    after, declined_refund = refund_declined(asked.payment, asked.refund, "account closed")

    assert (after.status, after.left) == (Status.CAPTURED, 4_900)
    assert to_refund(after, declined_refund, declined_refund.id, PRICE) == No("account closed")


def test_a_refund_that_is_asked_for_again_is_the_same() -> None:
    asked = refund(taken(), 4_900)
    assert isinstance(asked, AskRefund)
    after, done = refunded(asked.payment, asked.refund, 4_900)

    assert to_refund(asked.payment, asked.refund, asked.refund.id, PRICE) == asked
    assert to_refund(after, done, done.id, PRICE) == Known(after)
    with pytest.raises(Conflict):
        refunded(after, done, 4_900)
    with pytest.raises(Conflict):
        refund_declined(after, done, "late")


def test_nothing_is_returned_in_another_currency() -> None:
    assert isinstance(refund(taken(), 100, "USD"), No)


def test_what_can_be_asked_for_is_all_that_is_left_or_a_part_of_it() -> None:
    found = taken(refunded=900, refunding=1_000)

    assert (refundable(found, None), refundable(found, 3_000), refundable(taken(refunded=4_900), None)) == (
        3_000,
        3_000,
        0,
    )
    with pytest.raises(Conflict, match="3000 of what was captured are left"):
        refundable(found, 3_001)


@pytest.mark.parametrize("status", [status for status in Status if status not in TAKEN])
def test_what_was_not_taken_is_not_returned(status: Status) -> None:
    assert isinstance(refund(payment(status), 0), No)
    with pytest.raises(Conflict):
        refundable(payment(status), None)


@pytest.mark.parametrize("status", [s for s in Status if s is not Status.AUTHORIZING])
def test_an_answer_that_nobody_waits_for_does_not_undo_a_later_state(status: Status) -> None:
    with pytest.raises(Conflict):
        authorized(payment(status), 4_900)
    with pytest.raises(Conflict):
        declined(payment(status), Operation.AUTHORIZE, "card declined")


def test_a_void_brings_to_light_what_was_authorized_without_an_answer() -> None:
    found_out = voided(payment(Status.VOIDING), authorized=4_900, amount=4_900)

    assert (found_out.status, found_out.authorized, found_out.voided) == (Status.VOIDED, 4_900, 4_900)


def test_a_declined_capture_leaves_an_authorization_that_can_be_voided() -> None:
    refused = declined(payment(Status.CAPTURING), Operation.CAPTURE, "authorization expired")

    assert refused.status is Status.AUTHORIZED
    assert isinstance(void(refused), Ask)


def test_a_provider_that_refuses_to_void_is_a_contradiction() -> None:
    with pytest.raises(Conflict):
        declined(payment(Status.VOIDING), Operation.VOID, "no")
