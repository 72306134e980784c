"""Payments and invoices over HTTP: to read, and to return the money."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from covey.errors import NotFound
from covey.http.idempotency import IdempotentRoute, KeyRequiredRoute
from covey.http.transaction import Transaction
from covey.ids import new_id
from covey.security.access import requires
from payment_service import domain, storage
from payment_service.domain import Invoice, InvoiceId, Money, OrderId, Payment, PaymentId
from payment_service.messages import RefundPayment

api = APIRouter(prefix="/api/v1", tags=["payments"], route_class=IdempotentRoute)
refunds = APIRouter(prefix="/api/v1", tags=["payments"], route_class=KeyRequiredRoute)


class PaymentView(BaseModel):
    """A payment as it is shown: sums in minor units of `amount`'s currency. `refunding` may be returned already."""

    id: PaymentId
    order_id: OrderId
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


class InvoiceList(BaseModel):
    """Several invoices."""

    invoices: list[Invoice]


class NewRefund(BaseModel):
    """How much is returned, in minor units of the payment's currency; without `amount` all that is left."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    amount: int | None = Field(default=None, strict=True, ge=1)


@api.get("/payments/{payment_id}")
@requires("staff")
async def get_payment(payment_id: PaymentId, work: Transaction) -> PaymentView:
    """Return a payment."""
    return _view(await _found(work, payment_id))


@api.get("/payments")
@requires("staff")
async def list_payments(order_id: OrderId, work: Transaction) -> PaymentList:
    """Return the payments of an order; there is one at most."""
    return PaymentList(payments=[_view(payment) for payment in await storage.payments_of(work, order_id)])


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
@requires("staff")
async def get_invoice(invoice_id: InvoiceId, work: Transaction) -> Invoice:
    """Return an invoice, with the credit notes over what was returned of it."""
    invoice = await storage.invoice_by_id(work, invoice_id)
    if invoice is None:
        raise NotFound(f"there is no invoice {invoice_id}")
    return invoice


@api.get("/invoices")
@requires("staff")
async def list_invoices(order_id: OrderId, work: Transaction) -> InvoiceList:
    """Return the invoices of an order; there is one at most, once the order is paid for."""
    return InvoiceList(invoices=await storage.invoices_of(work, order_id))


async def _found(work: Transaction, payment_id: PaymentId) -> Payment:
    payment = await storage.payment_by_id(work, payment_id)
    if payment is None:
        raise NotFound(f"there is no payment {payment_id}")
    return payment


def _view(payment: Payment) -> PaymentView:
    return PaymentView(
        id=payment.id,
        order_id=payment.order_id,
        amount=payment.amount,
        status=payment.status,
        authorized=payment.authorized,
        captured=payment.captured,
        voided=payment.voided,
        refunded=payment.refunded,
        refunding=payment.refunding,
        reason=payment.reason,
    )
