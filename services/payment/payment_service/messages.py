"""The commands that payment carries out. A saga sends them, so those of one order come in their order."""

from __future__ import annotations

from uuid import UUID

from covey.message import Command, Reply
from payment_service.domain import Money, OrderId, PaymentId, UserId


class AuthorizePayment(Command, type="payment.authorize.v1", key="saga_id"):
    """Have the provider put an amount aside. Refused when it declines. `token` stands for the means of payment.

    `user_id` is whose money it is; an order of an older version does not say.
    """

    saga_id: UUID
    order_id: OrderId
    user_id: UserId | None = None
    amount: Money
    token: str


class CapturePayment(Command, type="payment.capture.v1", key="saga_id"):
    """Take what was put aside. Refused when there is nothing, or when the provider definitely will not."""

    saga_id: UUID
    order_id: OrderId
    user_id: UserId | None = None


class VoidAuthorization(Command, type="payment.void.v1", key="saga_id"):
    """Give up what is, may have been, or ever will be put aside. Never refused."""

    saga_id: UUID
    order_id: OrderId


class RefundPayment(Command, type="payment.refund.v1", key="saga_id"):
    """Return an amount of what was taken; `saga_id` names the refund. Refused when not so much is left."""

    saga_id: UUID
    order_id: OrderId
    amount: Money


class PaymentReply(Reply):
    """It was done; this is the payment."""

    payment_id: PaymentId
