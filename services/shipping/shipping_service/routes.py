"""Shipments over HTTP: to read, and for the carrier to say how far they are."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict

from covey.errors import NotFound
from covey.http.access import Caller
from covey.http.idempotency import IdempotentRoute
from covey.http.transaction import Transaction
from covey.security.access import require_owner, requires
from shipping_service import domain, storage
from shipping_service.domain import Line, OrderId, Progress, Return, ReturnId, Shipment, ShipmentId, UserId
from shipping_service.handlers import changed

api = APIRouter(prefix="/api/v1", tags=["shipments"], route_class=IdempotentRoute)


class ReturnView(BaseModel):
    """Goods that come back, as they are shown."""

    id: ReturnId
    status: str
    tracking_number: str | None
    lines: tuple[Line, ...]
    reason: str | None


class ShipmentView(BaseModel):
    """A shipment as it is shown."""

    id: ShipmentId
    order_id: OrderId
    user_id: UserId
    status: str
    tracking_number: str | None
    lines: tuple[Line, ...]
    returns: list[ReturnView]
    version: int


class ShipmentList(BaseModel):
    """Several shipments."""

    shipments: list[ShipmentView]


class Tracking(BaseModel):
    """How far a shipment is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    status: Literal["in_transit", "delivered"]


@api.get("/shipments/{shipment_id}")
async def get_shipment(shipment_id: ShipmentId, caller: Caller, work: Transaction) -> ShipmentView:
    """Return a shipment."""
    found = _exists(await storage.shipment_by_id(work, shipment_id), shipment_id)
    require_owner(caller, f"user:{found.user_id}", or_role="staff")
    return await _view(work, found)


@api.get("/shipments")
async def list_shipments(order_id: OrderId, caller: Caller, work: Transaction) -> ShipmentList:
    """Return the shipments of an order; there is one at most."""
    found = await storage.shipment_of(work, order_id)
    if found:
        require_owner(caller, f"user:{found.user_id}", or_role="staff")
    return ShipmentList(shipments=[await _view(work, found)] if found else [])


@api.post("/shipments/{shipment_id}/tracking")
@requires("staff")
async def track_shipment(shipment_id: ShipmentId, body: Tracking, work: Transaction) -> ShipmentView:
    """Take note of how far a shipment is, which the carrier tells. The same news twice is one; 409 if it goes back."""
    found = _exists(await storage.shipment_by_id_to_change(work, shipment_id), shipment_id)
    shipment = domain.moved_on(found, Progress(body.status))
    if shipment != found:
        await storage.keep_shipment(work, shipment)
    if shipment.version != found.version:
        work.publish(changed(shipment))
    return await _view(work, shipment)


def _exists(found: Shipment | None, shipment_id: ShipmentId) -> Shipment:
    if found is None:
        raise NotFound(f"there is no shipment {shipment_id}")
    return found


async def _view(work: Transaction, shipment: Shipment) -> ShipmentView:
    return ShipmentView(
        id=shipment.id,
        order_id=shipment.order_id,
        user_id=shipment.user_id,
        status=shipment.status,
        tracking_number=shipment.tracking_number,
        lines=shipment.lines,
        returns=[_return_view(one) for one in await storage.returns_of(work, shipment.order_id)],
        version=shipment.version,
    )


def _return_view(one: Return) -> ReturnView:
    return ReturnView(
        id=one.id, status=one.status, tracking_number=one.tracking_number, lines=one.lines, reason=one.reason
    )
