"""The effects that shipping has at its carrier. None is inside a transaction: a parcel that left does not roll back.

Each is an intent (committed before the carrier is asked), a call with an idempotency key, and the answer (committed
with the reply and the event). A crash between them asks again with the same key.
"""

from __future__ import annotations

from covey.errors import NotFound
from covey.ids import new_id
from covey.message import Refused, Reply
from covey.messaging.router import Router
from covey.work.unit_of_work import Work
from shipping_service import domain, storage
from shipping_service.domain import Ask, Known, No, OrderId, Return, ReturnId, Shipment, ShipmentId
from shipping_service.messages import (
    CancelReturn,
    ReceiveReturn,
    ReturnReply,
    ShipmentChanged,
    ShipmentReply,
    ShipOrder,
)
from shipping_service.ports import Booked, Carrier, Declined, Parcel


def effects(carrier: Carrier) -> Router:
    """Return the router whose commands are carried out by `carrier`."""
    router = Router()
    router.external(ShipOrder, Ship(carrier))
    router.external(ReceiveReturn, Receive(carrier))
    router.external(CancelReturn, Cancel(carrier))
    return router


class Ship:
    """Have an order carried. Its saga cannot go back from here, so the chassis asks until the answer is definite."""

    def __init__(self, carrier: Carrier) -> None:
        self._carrier = carrier

    async def intend(self, command: ShipOrder, work: Work) -> Shipment | Reply:
        """Write the shipment down, unless it is on its way already."""
        found = await storage.shipment_to_change(work, command.order_id)
        shipment_id = ShipmentId(new_id())
        match domain.to_ship(found, shipment_id, command.order_id, command.user_id, command.lines):
            case Ask(subject=shipment):
                storage.add_shipment(work, shipment)
                return shipment
            case Known(subject=shipment):
                return _shipped(shipment)

    async def call(self, command: ShipOrder, intent: Shipment, key: str) -> Booked | Declined:
        """Ask the carrier."""
        parcel = Parcel(str(intent.id), intent.order_id, "shipment", domain.pieces(intent.lines))
        return await self._carrier.book(parcel, key)

    async def settle(self, command: ShipOrder, result: Booked | Declined, work: Work) -> Reply:
        """Record the tracking number and tell the world; or say no, and be asked again later under another key."""
        if isinstance(result, Declined):
            return Refused(reason=result.reason)
        shipment = domain.booked(await _shipment(work, command.order_id), result.tracking_number)
        await storage.keep_shipment(work, shipment)
        work.publish(changed(shipment))
        return _shipped(shipment)


class Receive:
    """Take goods back."""

    def __init__(self, carrier: Carrier) -> None:
        self._carrier = carrier

    async def intend(self, command: ReceiveReturn, work: Work) -> Return | Reply:
        """Claim the pieces, if they were shipped and nobody else returns them."""
        shipment = await storage.shipment_to_change(work, command.order_id)
        returns = await storage.returns_of(work, command.order_id)
        match domain.to_receive(shipment, returns, ReturnId(command.saga_id), command.lines):
            case Ask(subject=one):
                await storage.keep_return(work, one)
                return one
            case Known(subject=one):
                return ReturnReply(return_id=one.id)
            case No(reason=reason):
                return Refused(reason=reason)

    async def call(self, command: ReceiveReturn, intent: Return, key: str) -> Booked | Declined:
        """Ask the carrier."""
        return await self._carrier.book(_parcel(intent), key)

    async def settle(self, command: ReceiveReturn, result: Booked | Declined, work: Work) -> Reply:
        """Record that the goods are here, or why not."""
        shipment = await _shipment(work, command.order_id)
        one = await _return(work, command.order_id, ReturnId(command.saga_id))
        match result:
            case Booked(tracking_number=tracking_number):
                await _keep(work, shipment, domain.received(one, tracking_number))
                return ReturnReply(return_id=one.id)
            case Declined(reason=reason):
                await _keep(work, shipment, domain.refused(one, reason))
                return Refused(reason=reason)


class Cancel:
    """Give a return up: the carrier knows what was booked, also when its answer to us was lost."""

    def __init__(self, carrier: Carrier) -> None:
        self._carrier = carrier

    async def intend(self, command: CancelReturn, work: Work) -> Return | Reply:
        """Note that the return is being given up; where there is none, leave a tombstone and ask nobody."""
        await storage.shipment_to_change(work, command.order_id)
        returns = await storage.returns_of(work, command.order_id)
        return_id = ReturnId(command.saga_id)
        found = next((one for one in returns if one.id == return_id), None)
        match domain.to_cancel(found, return_id, command.order_id):
            case Ask(subject=one):
                await storage.keep_return(work, one)
                return one
            case Known(subject=one):
                await storage.keep_return(work, one)
                return ReturnReply(return_id=one.id)

    async def call(self, command: CancelReturn, intent: Return, key: str) -> None:
        """Ask the carrier."""
        await self._carrier.cancel(_parcel(intent), key)

    async def settle(self, command: CancelReturn, result: None, work: Work) -> Reply:
        """Record that the goods are with the customer."""
        shipment = await _shipment(work, command.order_id)
        one = await _return(work, command.order_id, ReturnId(command.saga_id))
        await _keep(work, shipment, domain.cancelled(one))
        return ReturnReply(return_id=one.id)


def changed(shipment: Shipment) -> ShipmentChanged:
    """Return what the world is told of a shipment."""
    return ShipmentChanged(
        order_id=shipment.order_id,
        shipment_id=shipment.id,
        status=shipment.status,
        tracking_number=shipment.tracking_number,
        version=shipment.version,
    )


def _shipped(shipment: Shipment) -> ShipmentReply:
    return ShipmentReply(shipment_id=shipment.id, tracking_number=shipment.tracking_number)


def _parcel(one: Return) -> Parcel:
    return Parcel(str(one.id), one.order_id, "return", domain.pieces(one.lines))


async def _keep(work: Work, shipment: Shipment, one: Return) -> None:
    """Write a return, and what it makes of its shipment."""
    await storage.keep_return(work, one)
    after = domain.with_returns(shipment, await storage.returns_of(work, shipment.order_id))
    if after != shipment:
        await storage.keep_shipment(work, after)
        work.publish(changed(after))


async def _shipment(work: Work, order_id: OrderId) -> Shipment:
    shipment = await storage.shipment_to_change(work, order_id)
    if shipment is None:
        raise NotFound(f"the shipment of order {order_id} is gone")
    return shipment


async def _return(work: Work, order_id: OrderId, return_id: ReturnId) -> Return:
    for one in await storage.returns_of(work, order_id):
        if one.id == return_id:
            return one
    raise NotFound(f"return {return_id} is gone")
