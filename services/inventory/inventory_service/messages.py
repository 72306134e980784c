"""What inventory publishes, and the commands and events that it reads."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from pydantic import AfterValidator

from covey.message import Command, Event
from inventory_service.domain import Line, Money, OrderId, ProductId, distinct


class ProductChanged(Event, type="inventory.product-changed.v1", key="product_id"):
    """A product as it is now, whole: a reader needs no earlier one, and drops what is not newer than what it has."""

    product_id: ProductId
    name: str
    price: Money
    version: int


class ProductTouched(Event, type="inventory.product-changed.v1"):
    """The part of `ProductChanged` that inventory reads itself: of which product something kept may be old."""

    product_id: ProductId


class ReserveStock(Command, type="inventory.reserve-stock.v1", key="saga_id"):
    """Set the pieces of all lines aside for an order, or none. Refused when one line cannot be had."""

    saga_id: UUID
    order_id: OrderId
    lines: Annotated[tuple[Line, ...], AfterValidator(distinct)]


class ReleaseStock(Command, type="inventory.release-stock.v1", key="saga_id"):
    """Give up what is, or ever will be, reserved for an order. Never refused."""

    saga_id: UUID
    order_id: OrderId


class Restock(Command, type="inventory.restock.v1", key="saga_id"):
    """Make pieces that an order has bought free again; `saga_id` names the return that brought them back.

    Refused while they are not sold yet, which they will be; then ask again.
    """

    saga_id: UUID
    order_id: OrderId
    lines: Annotated[tuple[Line, ...], AfterValidator(distinct)]


class OrderConfirmed(Event, type="order.confirmed.v1"):
    """The part that inventory reads: what was reserved for this order is sold."""

    order_id: OrderId
