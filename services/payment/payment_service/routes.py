"""Payments, invoices and refunds over HTTP: for whose they are to read, and for the staff to return the money."""

from __future__ import annotations

from typing import Annotated, TypeVar

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from covey.errors import Forbidden, NotFound
from covey.http.access import Caller
from covey.http.idempotency import IdempotentRoute, KeyRequiredRoute
from covey.http.transaction import Transaction
from covey.http.whole import WHOLE
from covey.ids import new_id
from covey.security.access import require_owner, requires
from payment_service import domain, storage
from payment_service.domain import (
    Invoice,
    InvoiceId,
    Money,
    OrderId,
    Payment,
    PaymentId,
    RefundId,
    RefundStatus,
    UserId,
)
from payment_service.messages import RefundPayment

api = APIRouter(prefix="/api/v1", tags=["payments"], route_class=IdempotentRoute)
refunds = APIRouter(prefix="/api/v1", tags=["payments"], route_class=KeyRequiredRoute)

Owned = TypeVar("Owned", Payment, Invoice)


class PaymentView(BaseModel):
    """A payment as it is shown: sums in minor units of `amount`'s currency. `refunding` may be returned already.

    `user_id` is null where nobody has said whose it is: then only the staff sees it.
    """

    id: PaymentId
    order_id: OrderId
    user_id: UserId | None
    amount: Money
    status: str
    authorized: int
    captured: int
    voided: int
    refunded: int
    refunding: int
    reason: str | None


class PaymentList(BaseModel):
    """Several payments."""

    payments: list[PaymentView]


class RefundView(BaseModel):
    """A refund as it is shown: asked, done or declined, and then why."""

    id: RefundId
    amount: Money
    status: RefundStatus
    reason: str | None


class RefundList(BaseModel):
    """The refunds of a payment, oldest first."""

    refunds: list[RefundView]


class InvoiceList(BaseModel):
    """Several invoices."""

    invoices: list[Invoice]


class NewRefund(BaseModel):
    """How much is returned, in minor units of the payment's currency; without `amount` all that is left."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    amount: Annotated[int, Field(strict=True, ge=1), WHOLE] | None = None


@api.get("/payments/{payment_id}")
async def get_payment(payment_id: PaymentId, caller: Caller, work: Transaction) -> PaymentView:
    """Return a payment."""
    return _view(_own(caller, await _found(work, payment_id)))


@api.get("/payments")
async def list_payments(order_id: OrderId, caller: Caller, work: Transaction) -> PaymentList:
    """Return the payments of an order; there is one at most."""
    found = await storage.payments_of(work, order_id)
    return PaymentList(payments=[_view(_own(caller, payment)) for payment in found])


@api.get("/payments/{payment_id}/refunds")
async def list_refunds(payment_id: PaymentId, caller: Caller, work: Transaction) -> RefundList:
    """Return what was, or is being, returned of a payment."""
    payment = _own(caller, await _found(work, payment_id))
    return RefundList(
        refunds=[
            RefundView(
                id=refund.id,
                amount=Money(refund.amount, payment.amount.currency),
                status=refund.status,
                reason=refund.reason,
            )
            for refund in await storage.refunds_of(work, payment_id)
        ]
    )


@refunds.post("/payments/{payment_id}/refunds", status_code=202)
@requires("staff")
async def refund_payment(payment_id: PaymentId, work: Transaction, body: NewRefund | None = None) -> PaymentView:
    """Return what was taken, or a part of it. Accepted now, done when the provider has answered.

    To ask for everything once more changes nothing. Another part is another refund, so that a key must say which.
    409 when not so much is left.
    """
    payment = await _found(work, payment_id)
    amount = domain.refundable(payment, body.amount if body else None)
    if amount:
        money = Money(amount, payment.amount.currency)
        work.publish(RefundPayment(saga_id=new_id(), order_id=payment.order_id, amount=money))
    return _view(payment)


@api.get("/invoices/{invoice_id}")
async def get_invoice(invoice_id: InvoiceId, caller: Caller, work: Transaction) -> Invoice:
    """Return an invoice, with the credit notes over what was returned of it."""
    invoice = await storage.invoice_by_id(work, invoice_id)
    if invoice is None:
        raise NotFound(f"there is no invoice {invoice_id}")
    return _own(caller, invoice)


@api.get("/invoices")
async def list_invoices(order_id: OrderId, caller: Caller, work: Transaction) -> InvoiceList:
    """Return the invoices of an order; there is one at most, once the order is paid for."""
    return InvoiceList(invoices=[_own(caller, invoice) for invoice in await storage.invoices_of(work, order_id)])


def _own(caller: Caller, found: Owned) -> Owned:
    """Return it if it is the caller's, or the caller may see all. What is nobody's is the staff's alone."""
    if found.user_id is None and "staff" not in caller.roles:
        raise Forbidden("it belongs to somebody else")
    require_owner(caller, f"user:{found.user_id}", or_role="staff")
    return found


async def _found(work: Transaction, payment_id: PaymentId) -> Payment:
    payment = await storage.payment_by_id(work, payment_id)
    if payment is None:
        raise NotFound(f"there is no payment {payment_id}")
    return payment


def _view(payment: Payment) -> PaymentView:
    return PaymentView(
        id=payment.id,
        order_id=payment.order_id,
        user_id=payment.user_id,
        amount=payment.amount,
        status=payment.status,
        authorized=payment.authorized,
        captured=payment.captured,
        voided=payment.voided,
        refunded=payment.refunded,
        refunding=payment.refunding,
        reason=payment.reason,
    )
