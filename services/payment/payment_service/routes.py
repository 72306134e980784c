"""Payments over HTTP: to read, and to return the money."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel

from covey.errors import Conflict, NotFound
from covey.http.idempotency import IdempotentRoute
from covey.http.transaction import Transaction
from payment_service import domain, storage
from payment_service.domain import Money, No, OrderId, Payment, PaymentId
from payment_service.messages import RefundPayment

api = APIRouter(prefix="/api/v1", tags=["payments"], route_class=IdempotentRoute)


class PaymentView(BaseModel):
    """A payment as it is shown: sums in minor units of `amount`'s currency."""

    id: PaymentId
    order_id: OrderId
    amount: Money
    status: str
    authorized: int
    captured: int
    voided: int
    refunded: int
    reason: str | None


class PaymentList(BaseModel):
    """Several payments."""

    payments: list[PaymentView]


@api.get("/payments/{payment_id}")
async def get_payment(payment_id: PaymentId, work: Transaction) -> PaymentView:
    """Return a payment."""
    return _view(await _found(work, payment_id))


@api.get("/payments")
async def list_payments(order_id: OrderId, work: Transaction) -> PaymentList:
    """Return the payments of an order; there is one at most."""
    return PaymentList(payments=[_view(payment) for payment in await storage.payments_of(work, order_id)])


@api.post("/payments/{payment_id}/refunds", status_code=202)
async def refund_payment(payment_id: PaymentId, work: Transaction) -> PaymentView:
    """Return all that was taken. Accepted now, done when the provider has answered; asking again changes nothing."""
    payment = await _found(work, payment_id)
    decision = domain.to_refund(payment)
    if isinstance(decision, No):
        raise Conflict(decision.reason)
    work.publish(RefundPayment(order_id=payment.order_id))
    return _view(payment)


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
        reason=payment.reason,
    )
