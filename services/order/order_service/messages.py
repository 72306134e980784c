"""What order publishes, what it asks of others, and the part of their events that it reads."""

from __future__ import annotations

from uuid import UUID

from covey.message import Command, Event
from order_service.domain import Line, Money, OrderId, ProductId, UserId, Wanted


class OrderPlaced(Event, type="order.placed.v1", key="order_id"):
    """An order was accepted; nothing is reserved or charged yet."""

    order_id: OrderId
    user_id: UserId
    lines: tuple[Line, ...]
    total: Money


class OrderConfirmed(Event, type="order.confirmed.v1", key="order_id"):
    """The order's total was captured. Published exactly once for an order that is confirmed."""

    order_id: OrderId
    user_id: UserId
    total: Money


class OrderRejected(Event, type="order.rejected.v1", key="order_id"):
    """The order could not be fulfilled; what had been done for it is undone. `reason` is for people."""

    order_id: OrderId
    user_id: UserId
    reason: str


class OrderCancelled(Event, type="order.cancelled.v1", key="order_id"):
    """The order was called off before the money was taken; what had been done for it is undone."""

    order_id: OrderId
    user_id: UserId
    reason: str


class ProductChanged(Event, type="inventory.product-changed.v1"):
    """The part of inventory's products that order keeps a read model of."""

    product_id: ProductId
    name: str
    price: Money
    version: int


class ReserveStock(Command, type="inventory.reserve-stock.v1", key="saga_id"):
    """Set the pieces of all lines aside, or none."""

    saga_id: UUID
    order_id: OrderId
    lines: tuple[Wanted, ...]


class ReleaseStock(Command, type="inventory.release-stock.v1", key="saga_id"):
    """Give up what is, or ever will be, reserved for this order."""

    saga_id: UUID
    order_id: OrderId


class AuthorizePayment(Command, type="payment.authorize.v1", key="saga_id"):
    """Have the amount put aside on the customer's account."""

    saga_id: UUID
    order_id: OrderId
    amount: Money
    token: str


class VoidAuthorization(Command, type="payment.void.v1", key="saga_id"):
    """Give up what is, or ever will be, authorized for this order."""

    saga_id: UUID
    order_id: OrderId


class CapturePayment(Command, type="payment.capture.v1", key="saga_id"):
    """Take the authorized amount."""

    saga_id: UUID
    order_id: OrderId
