"""The commands that shipping carries out, and what it publishes."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from pydantic import AfterValidator

from covey.message import Command, Event, Reply
from shipping_service.domain import Line, OrderId, ReturnId, ShipmentId, UserId, distinct

Lines = Annotated[tuple[Line, ...], AfterValidator(distinct)]


class ShipOrder(Command, type="shipping.ship-order.v1", key="saga_id"):
    """Have the goods of an order carried to the customer. Refused while the carrier declines; then ask again."""

    saga_id: UUID
    order_id: OrderId
    user_id: UserId
    lines: Lines


class ReceiveReturn(Command, type="shipping.receive-return.v1", key="saga_id"):
    """Take goods back, of which `saga_id` names the return. Refused when they were not shipped, or are back already."""

    saga_id: UUID
    order_id: OrderId
    lines: Lines


class CancelReturn(Command, type="shipping.cancel-return.v1", key="saga_id"):
    """Give up what was, may have been, or ever will be received. Never refused."""

    saga_id: UUID
    order_id: OrderId


class ShipmentReply(Reply):
    """It is on its way."""

    shipment_id: ShipmentId
    tracking_number: str | None


class ReturnReply(Reply):
    """It was done; this is the return."""

    return_id: ReturnId


class ShipmentChanged(Event, type="shipping.shipment-changed.v1", key="order_id"):
    """A shipment as it is now: booked, in_transit, delivered or returned.

    A reader needs no earlier one, and drops what is not newer than the version that it has.
    """

    order_id: OrderId
    shipment_id: ShipmentId
    status: str
    tracking_number: str | None
    version: int
