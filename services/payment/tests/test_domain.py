"""The rules of a payment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from payment_service.domain import (
    Ask,
    Decision,
    Known,
    Money,
    No,
    Operation,
    OrderId,
    Payment,
    PaymentId,
    Status,
    authorized,
    captured,
    declined,
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


def payment(status: Status) -> Payment:
    return Payment(PAYMENT, ORDER, PRICE, status)


def authorize(found: Payment | None) -> Decision:
    return to_authorize(found, PAYMENT, ORDER, PRICE)


def void(found: Payment | None) -> Decision:
    return to_void(found, PAYMENT, ORDER)


# What each request means in each state: a, ask the provider; k, known to be done; n, refused; !, a contradiction.
TABLE = {
    #                    authorize  capture  void  refund
    Status.AUTHORIZING: ("a", "n", "a", "n"),
    Status.AUTHORIZED: ("k", "a", "a", "n"),
    Status.DECLINED: ("n", "n", "k", "n"),
    Status.CAPTURING: ("k", "a", "!", "n"),
    Status.CAPTURED: ("k", "k", "!", "a"),
    Status.VOIDING: ("n", "n", "a", "n"),
    Status.VOIDED: ("n", "n", "k", "n"),
    Status.REFUNDING: ("k", "k", "!", "a"),
    Status.REFUNDED: ("k", "k", "!", "k"),
}
REQUESTS: tuple[Callable[[Payment | None], Decision], ...] = (authorize, to_capture, void, to_refund)


@pytest.mark.parametrize("status", list(Status))
def test_every_request_has_a_meaning_in_every_state(status: Status) -> None:
    found = payment(status)

    assert tuple(outcome(request, found) for request in REQUESTS) == TABLE[status]


def outcome(request: Callable[[Payment | None], Decision], found: Payment) -> str:
    try:
        decision = request(found)
    except Conflict:
        return "!"
    return {Ask: "a", Known: "k", No: "n"}[type(decision)]


def test_a_payment_that_is_asked_about_is_in_the_state_of_its_intent() -> None:
    assert authorize(None) == Ask(payment(Status.AUTHORIZING))
    assert to_capture(payment(Status.AUTHORIZED)) == Ask(payment(Status.CAPTURING))
    assert void(payment(Status.AUTHORIZING)) == Ask(payment(Status.VOIDING))
    assert to_refund(payment(Status.CAPTURED)) == Ask(payment(Status.REFUNDING))


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
    taken = captured(replace(held, status=Status.CAPTURING), 4_900)
    returned = refunded(replace(taken, status=Status.REFUNDING), 4_900)

    assert (returned.status, returned.authorized, returned.captured, returned.refunded) == (
        Status.REFUNDED,
        4_900,
        4_900,
        4_900,
    )


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
