"""What order publishes, what it asks of others, and the part of their events that it reads."""

from __future__ import annotations

from uuid import UUID

from covey.message import Command, Event
from order_service.domain import Line, Money, OrderId, ProductId, ShipmentId, UserId, Wanted


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


class ShipmentChanged(Event, type="shipping.shipment-changed.v1"):
    """The part of shipping's shipments that order keeps a read model of."""

    order_id: OrderId
    shipment_id: ShipmentId
    status: str
    tracking_number: str | None
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
    """Have the amount put aside on the customer's account.

    An order that was placed before payments had owners does not say whose it is.
    """

    saga_id: UUID
    order_id: OrderId
    user_id: UserId | None = None
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
    user_id: UserId | None = None


class ShipOrder(Command, type="shipping.ship-order.v1", key="saga_id"):
    """Have the goods carried to the customer."""

    saga_id: UUID
    order_id: OrderId
    user_id: UserId
    lines: tuple[Wanted, ...]


class SendConfirmation(Command, type="notification.send-confirmation.v1", key="saga_id"):
    """Write to the customer that the order is confirmed."""

    saga_id: UUID
    order_id: OrderId
    user_id: UserId
    total: Money


class ReceiveReturn(Command, type="shipping.receive-return.v1", key="saga_id"):
    """Take goods back."""

    saga_id: UUID
    order_id: OrderId
    lines: tuple[Wanted, ...]


class CancelReturn(Command, type="shipping.cancel-return.v1", key="saga_id"):
    """Give up what was, or ever will be, taken back by this return."""

    saga_id: UUID
    order_id: OrderId


class RefundPayment(Command, type="payment.refund.v1", key="saga_id"):
    """Return an amount of what was taken."""

    saga_id: UUID
    order_id: OrderId
    amount: Money


class Restock(Command, type="inventory.restock.v1", key="saga_id"):
    """Make pieces that were sold free again."""

    saga_id: UUID
    order_id: OrderId
    lines: tuple[Wanted, ...]
