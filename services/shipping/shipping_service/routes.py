"""Shipments over HTTP: to read, to ask the carrier where they are, and for the carrier to say how far they are."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict

from covey.errors import NotFound
from covey.http.access import Caller
from covey.http.idempotency import IdempotentRoute
from covey.http.shedding import priority
from covey.http.transaction import Transaction, transactions_of
from covey.resilience.load_shedding import Priority
from covey.security.access import require_owner, requires
from shipping_service import domain, storage
from shipping_service.domain import Line, OrderId, Progress, Return, ReturnId, Shipment, ShipmentId, UserId
from shipping_service.handlers import changed
from shipping_service.ports import Carrier

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


class WhereaboutsView(BaseModel):
    """What the carrier says of a shipment now, and since when that is so."""

    tracking_number: str
    status: Literal["accepted", "cancelled"]
    since: datetime


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


@api.get("/shipments/{shipment_id}/tracking")
@priority(Priority.LOW)
async def get_whereabouts(shipment_id: ShipmentId, request: Request, caller: Caller) -> WhereaboutsView:
    """Ask the carrier where a shipment is. Nothing of it is kept here.

    404 while nothing is booked. 502 when the carrier does not answer, 504 when that takes too long, and 503 while it
    is not even asked, because it has failed too often.
    """
    async with transactions_of(request.scope).begin() as work:  # over before the carrier is asked
        found = _exists(await storage.shipment_by_id(work, shipment_id), shipment_id)
    require_owner(caller, f"user:{found.user_id}", or_role="staff")
    carrier: Carrier = request.app.state.carrier
    number = found.tracking_number
    told = await carrier.where_is(number) if number is not None else None
    if number is None or told is None:
        raise NotFound(f"the carrier has nothing of shipment {shipment_id}")
    return WhereaboutsView(tracking_number=number, status=told.status, since=told.since)


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
