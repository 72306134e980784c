"""A payment: money of one order, put aside (authorized), then taken (captured) or given up (voided), perhaps returned.

    authorizing ──→ authorized ──→ capturing ──→ captured ←──→ refunding ──→ refunded
         ├────────→ declined   └──→ voiding ──→ voided
         └────────→ voiding

The states in -ing are intents: committed before the provider is asked, and left only with its definite answer.
Each `to_…` function says what a request means in the present state; the others apply the provider's answer.

Money is returned by refunds, in parts or as a whole, and several may be under way: what they have asked for counts as
gone until the provider declines it, so that all of them together never return more than was captured.

Pure: no I/O and no clock.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import NewType, assert_never
from uuid import UUID

from covey.errors import Conflict

OrderId = NewType("OrderId", UUID)
PaymentId = NewType("PaymentId", UUID)
RefundId = NewType("RefundId", UUID)
UserId = NewType("UserId", UUID)
InvoiceId = NewType("InvoiceId", UUID)
CreditNoteId = NewType("CreditNoteId", UUID)

_NO_CURRENCY = "XXX"
"""ISO 4217: where no currency is involved."""


@dataclass(frozen=True, slots=True)
class Money:
    """An amount in minor units (cents) of an ISO 4217 currency."""

    amount: int
    currency: str

    def __post_init__(self) -> None:
        if self.amount < 0:
            raise ValueError("an amount is not negative")


class Operation(StrEnum):
    """What can be asked of the provider once for each payment."""

    AUTHORIZE = "authorize"
    CAPTURE = "capture"
    VOID = "void"


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
    """The money of one order, in minor units of `amount`'s currency.

    The sums are what the provider has answered, but for `refunding`: that it has been asked to return, and may have.
    `user_id` is whose it is; None where order did not say, as it did not before it knew how to.
    """

    id: PaymentId
    order_id: OrderId
    amount: Money
    status: Status
    authorized: int = 0
    captured: int = 0
    voided: int = 0
    refunded: int = 0
    reason: str | None = None
    refunding: int = 0
    user_id: UserId | None = None

    @property
    def left(self) -> int:
        """Return what can still be refunded."""
        return self.captured - self.refunded - self.refunding

    @property
    def reference(self) -> str:
        """Return what the provider knows this payment by. It is our own, so that a lost answer does not lose it."""
        return str(self.order_id)


class RefundStatus(StrEnum):
    """Where a refund stands: an intent, or what the provider has answered."""

    ASKED = "asked"
    DONE = "done"
    DECLINED = "declined"


@dataclass(frozen=True, slots=True)
class Refund:
    """Money of a payment that is returned, in minor units of its currency."""

    id: RefundId
    amount: int
    status: RefundStatus = RefundStatus.ASKED
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class CreditNote:
    """That a part of an invoice was returned."""

    id: CreditNoteId
    amount: Money
    issued_at: datetime


@dataclass(frozen=True, slots=True)
class Invoice:
    """What was paid for an order. There is one for each payment that was captured."""

    id: InvoiceId
    payment_id: PaymentId
    order_id: OrderId
    amount: Money
    issued_at: datetime
    credit_notes: tuple[CreditNote, ...] = ()
    user_id: UserId | None = None


@dataclass(frozen=True, slots=True)
class Ask:
    """Commit this payment, then ask the provider."""

    payment: Payment


@dataclass(frozen=True, slots=True)
class AskRefund:
    """Commit this payment and this refund, then ask the provider."""

    payment: Payment
    refund: Refund


@dataclass(frozen=True, slots=True)
class Known:
    """It is done, and the provider need not be asked."""

    payment: Payment


@dataclass(frozen=True, slots=True)
class No:
    """It will not be done."""

    reason: str


Decision = Ask | Known | No


def to_authorize(
    found: Payment | None, payment_id: PaymentId, order_id: OrderId, amount: Money, user_id: UserId | None = None
) -> Decision:
    """Put the amount aside. Refused when it was declined before, and when it was given up before it was asked for."""
    if found is None:
        return Ask(Payment(payment_id, order_id, amount, Status.AUTHORIZING, user_id=user_id))
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


def to_capture(found: Payment | None, user_id: UserId | None = None) -> Decision:
    """Take what was put aside. Whose it is may be told only now: an older version put it aside and did not note it."""
    if found is None:
        return No("nothing was authorized")
    match found.status:
        case Status.AUTHORIZED | Status.CAPTURING:
            return Ask(replace(found, status=Status.CAPTURING, user_id=found.user_id or user_id))
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
        return Known(Payment(payment_id, order_id, Money(0, _NO_CURRENCY), Status.VOIDED))
    match found.status:
        case Status.AUTHORIZING | Status.AUTHORIZED | Status.VOIDING:
            return Ask(replace(found, status=Status.VOIDING))
        case Status.DECLINED | Status.VOIDED:
            return Known(found)
        case Status.CAPTURING | Status.CAPTURED | Status.REFUNDING | Status.REFUNDED:
            raise Conflict(f"the payment of order {found.order_id} is {found.status} and cannot be voided; refund it")
        case _:
            assert_never(found.status)


def to_refund(
    found: Payment | None, refund: Refund | None, refund_id: RefundId, amount: Money
) -> AskRefund | Known | No:
    """Return an amount of what was taken. Refused when not so much is left of it.

    `refund` is the one of this id, if it was asked for before.
    """
    if found is None:
        return No("nothing was captured")
    if refund is not None:
        return _to_refund_again(found, refund)
    if not _is_taken(found):
        return No(f"nothing can be refunded: the payment is {found.status}")
    if amount.currency != found.amount.currency:
        return No(f"the payment is in {found.amount.currency}, and {amount.currency} cannot be refunded")
    if amount.amount > found.left:
        return No(f"{amount.amount} cannot be refunded: {found.left} of what was captured are left")
    asked = replace(found, refunding=found.refunding + amount.amount)
    return AskRefund(_with_refunds(asked), Refund(refund_id, amount.amount))


def refundable(payment: Payment, wanted: int | None) -> int:
    """Return what is refunded when so much is wanted; None is all that is left. Conflict when it is not there."""
    if not _is_taken(payment):
        raise Conflict(f"nothing can be refunded: the payment is {payment.status}")
    if wanted is not None and wanted > payment.left:
        raise Conflict(f"{wanted} cannot be refunded: {payment.left} of what was captured are left")
    return payment.left if wanted is None else wanted


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


def refunded(payment: Payment, refund: Refund, amount: int) -> tuple[Payment, Refund]:
    """The provider has returned `amount`."""
    _require_asked(payment, refund)
    after = replace(payment, refunding=payment.refunding - refund.amount, refunded=payment.refunded + amount)
    return _with_refunds(after), replace(refund, amount=amount, status=RefundStatus.DONE)


def refund_declined(payment: Payment, refund: Refund, reason: str) -> tuple[Payment, Refund]:
    """The provider returns nothing: what was asked for is left for others."""
    _require_asked(payment, refund)
    after = replace(payment, refunding=payment.refunding - refund.amount)
    return _with_refunds(after), replace(refund, status=RefundStatus.DECLINED, reason=reason)


def declined(payment: Payment, operation: Operation, reason: str) -> Payment:
    """The provider refuses: the payment is where it was before it was asked, and says why."""
    match operation:
        case Operation.AUTHORIZE:
            _require(payment, Status.AUTHORIZING)
            return replace(payment, status=Status.DECLINED, reason=reason)
        case Operation.CAPTURE:
            _require(payment, Status.CAPTURING)
            return replace(payment, status=Status.AUTHORIZED, reason=reason)
        case Operation.VOID:
            raise Conflict(f"the provider refuses to void the payment of order {payment.order_id}: {reason}")
        case _:
            assert_never(operation)


def _is_taken(payment: Payment) -> bool:
    return payment.status in (Status.CAPTURED, Status.REFUNDING, Status.REFUNDED)


def _to_refund_again(payment: Payment, refund: Refund) -> AskRefund | Known | No:
    match refund.status:
        case RefundStatus.ASKED:
            return AskRefund(payment, refund)
        case RefundStatus.DONE:
            return Known(payment)
        case RefundStatus.DECLINED:
            return No(refund.reason or "declined")
        case _:
            assert_never(refund.status)


def _with_refunds(payment: Payment) -> Payment:
    """Return the payment in the state that follows from its refunds."""
    if payment.refunding:
        return replace(payment, status=Status.REFUNDING)
    everything = payment.refunded == payment.captured
    return replace(payment, status=Status.REFUNDED if everything else Status.CAPTURED)


def _require_asked(payment: Payment, refund: Refund) -> None:
    """Raise unless the refund waits for an answer."""
    if refund.status is not RefundStatus.ASKED:
        raise Conflict(f"refund {refund.id} of order {payment.order_id} is {refund.status}, and was to be asked")


def _require(payment: Payment, waiting: Status) -> None:
    """Raise unless the payment waits for this answer: an answer that nobody waits for must not undo a later state."""
    if payment.status is not waiting:
        raise Conflict(f"the payment of order {payment.order_id} is {payment.status}, and was to be {waiting}")
