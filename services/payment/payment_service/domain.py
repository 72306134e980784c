"""A payment: money of one order, put aside (authorized), then taken (captured) or given up (voided), perhaps returned.

    authorizing ──→ authorized ──→ capturing ──→ captured ──→ refunding ──→ refunded
         ├────────→ declined   └──→ voiding ──→ voided
         └────────→ voiding

The states in -ing are intents: committed before the provider is asked, and left only with its definite answer.
Each `to_…` function says what a request means in the present state; the others apply the provider's answer.
Pure: no I/O and no clock.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NewType, assert_never
from uuid import UUID

from covey.errors import Conflict

OrderId = NewType("OrderId", UUID)
PaymentId = NewType("PaymentId", UUID)


@dataclass(frozen=True, slots=True)
class Money:
    """An amount in minor units (cents) of an ISO 4217 currency."""

    amount: int
    currency: str

    def __post_init__(self) -> None:
        if self.amount < 0:
            raise ValueError("an amount is not negative")


class Operation(StrEnum):
    """What can be asked of the provider."""

    AUTHORIZE = "authorize"
    CAPTURE = "capture"
    VOID = "void"
    REFUND = "refund"


class Status(StrEnum):
    """Where a payment stands."""

    AUTHORIZING = "authorizing"
    AUTHORIZED = "authorized"
    DECLINED = "declined"
    CAPTURING = "capturing"
    CAPTURED = "captured"
    VOIDING = "voiding"
    VOIDED = "voided"
    REFUNDING = "refunding"
    REFUNDED = "refunded"


@dataclass(frozen=True, slots=True)
class Payment:
    """The money of one order, in minor units of `amount`'s currency. The sums are what the provider has answered."""

    id: PaymentId
    order_id: OrderId
    amount: Money
    status: Status
    authorized: int = 0
    captured: int = 0
    voided: int = 0
    refunded: int = 0
    reason: str | None = None

    @property
    def reference(self) -> str:
        """Return what the provider knows this payment by. It is our own, so that a lost answer does not lose it."""
        return str(self.order_id)


@dataclass(frozen=True, slots=True)
class Ask:
    """Commit this payment, then ask the provider."""

    payment: Payment


@dataclass(frozen=True, slots=True)
class Known:
    """It is done, and the provider need not be asked."""

    payment: Payment


@dataclass(frozen=True, slots=True)
class No:
    """It will not be done."""

    reason: str


Decision = Ask | Known | No


def to_authorize(found: Payment | None, payment_id: PaymentId, order_id: OrderId, amount: Money) -> Decision:
    """Put the amount aside. Refused when it was declined before, and when it was given up before it was asked for."""
    if found is None:
        return Ask(Payment(payment_id, order_id, amount, Status.AUTHORIZING))
    match found.status:
        case Status.AUTHORIZING:
            return Ask(found)
        case Status.DECLINED:
            return No(found.reason or "declined")
        case Status.VOIDING | Status.VOIDED:
            return No("the payment was given up before it was authorized")
        case Status.AUTHORIZED | Status.CAPTURING | Status.CAPTURED | Status.REFUNDING | Status.REFUNDED:
            return Known(found)
        case _:
            assert_never(found.status)


def to_capture(found: Payment | None) -> Decision:
    """Take what was put aside."""
    if found is None:
        return No("nothing was authorized")
    match found.status:
        case Status.AUTHORIZED | Status.CAPTURING:
            return Ask(replace(found, status=Status.CAPTURING))
        case Status.CAPTURED | Status.REFUNDING | Status.REFUNDED:
            return Known(found)
        case Status.AUTHORIZING | Status.DECLINED | Status.VOIDING | Status.VOIDED:
            return No(f"nothing can be captured: the payment is {found.status}")
        case _:
            assert_never(found.status)


def to_void(found: Payment | None, payment_id: PaymentId, order_id: OrderId) -> Decision:
    """Give up what is, or may have been, put aside. Never refused.

    A payment that was never asked for leaves a tombstone, which refuses an authorization that comes later.
    Raises Conflict when the money may have been taken: that is returned by a refund, not undone by a void.
    """
    if found is None:
        return Known(Payment(payment_id, order_id, Money(0, "XXX"), Status.VOIDED))
    match found.status:
        case Status.AUTHORIZING | Status.AUTHORIZED | Status.VOIDING:
            return Ask(replace(found, status=Status.VOIDING))
        case Status.DECLINED | Status.VOIDED:
            return Known(found)
        case Status.CAPTURING | Status.CAPTURED | Status.REFUNDING | Status.REFUNDED:
            raise Conflict(f"the payment of order {found.order_id} is {found.status} and cannot be voided; refund it")
        case _:
            assert_never(found.status)


def to_refund(found: Payment | None) -> Decision:
    """Return all that was taken."""
    if found is None:
        return No("nothing was captured")
    match found.status:
        case Status.CAPTURED | Status.REFUNDING:
            return Ask(replace(found, status=Status.REFUNDING))
        case Status.REFUNDED:
            return Known(found)
        case (
            Status.AUTHORIZING | Status.AUTHORIZED | Status.DECLINED | Status.CAPTURING | Status.VOIDING | Status.VOIDED
        ):
            return No(f"nothing can be refunded: the payment is {found.status}")
        case _:
            assert_never(found.status)


def authorized(payment: Payment, amount: int) -> Payment:
    """The provider has put `amount` aside."""
    _require(payment, Status.AUTHORIZING)
    return replace(payment, status=Status.AUTHORIZED, authorized=amount)


def captured(payment: Payment, amount: int) -> Payment:
    """The provider has taken `amount`."""
    _require(payment, Status.CAPTURING)
    return replace(payment, status=Status.CAPTURED, captured=amount)


def voided(payment: Payment, authorized: int, amount: int) -> Payment:
    """The provider has given up `amount` of what it had `authorized`, which is news if that answer was lost."""
    _require(payment, Status.VOIDING)
    return replace(payment, status=Status.VOIDED, authorized=authorized, voided=amount)


def refunded(payment: Payment, amount: int) -> Payment:
    """The provider has returned `amount`."""
    _require(payment, Status.REFUNDING)
    return replace(payment, status=Status.REFUNDED, refunded=amount)


def declined(payment: Payment, operation: Operation, reason: str) -> Payment:
    """The provider refuses: the payment is where it was before it was asked, and says why."""
    match operation:
        case Operation.AUTHORIZE:
            _require(payment, Status.AUTHORIZING)
            return replace(payment, status=Status.DECLINED, reason=reason)
        case Operation.CAPTURE:
            _require(payment, Status.CAPTURING)
            return replace(payment, status=Status.AUTHORIZED, reason=reason)
        case Operation.REFUND:
            _require(payment, Status.REFUNDING)
            return replace(payment, status=Status.CAPTURED, reason=reason)
        case Operation.VOID:
            raise Conflict(f"the provider refuses to void the payment of order {payment.order_id}: {reason}")
        case _:
            assert_never(operation)


def _require(payment: Payment, waiting: Status) -> None:
    """Raise unless the payment waits for this answer: an answer that nobody waits for must not undo a later state."""
    if payment.status is not waiting:
        raise Conflict(f"the payment of order {payment.order_id} is {payment.status}, and was to be {waiting}")
