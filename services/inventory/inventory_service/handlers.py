"""What inventory does when it is asked, and when an order is confirmed.

Every handler can meet a message twice, late or out of order: the chassis drops what it has handled, and the
reservation's own state answers the rest.
"""

from __future__ import annotations

from covey.errors import Conflict
from covey.http.live import Live
from covey.message import Refused, Reply
from covey.messaging.router import Router
from covey.work.unit_of_work import Work
from inventory_service import storage
from inventory_service.domain import OrderId, ReservationStatus, refusal_of_repeated, shortage
from inventory_service.messages import OrderConfirmed, ProductTouched, ReleaseStock, ReserveStock, Restock

router = Router()

product_pages = Live("product")


@router.on(ReserveStock)
async def reserve_stock(command: ReserveStock, work: Work) -> Reply:
    """Reserve all lines or refuse, and say which line was short."""
    found, taken = await storage.reserve(work, command.order_id, command.lines)
    if found is not None:
        reason = refusal_of_repeated(found)
        return Refused(reason=reason) if reason else Reply()
    return Reply() if taken else await _refused(command, work)


@router.on(ReleaseStock)
async def release_stock(command: ReleaseStock, work: Work) -> Reply:
    """Release what is held. Where nothing is, leave a tombstone: a request to reserve that comes later is refused."""
    found = await storage.claim(work, command.order_id, ReservationStatus.RELEASED)
    if found is not None and found.status is ReservationStatus.SOLD:
        raise Conflict(f"the stock of order {command.order_id} is sold and cannot be released")
    await storage.release(work, command.order_id)
    return Reply()


@router.on(Restock)
async def restock(command: Restock, work: Work) -> Reply:
    """Make what came back free again, once for each return.

    The return may have been quicker than the event by which the pieces are sold: they are then refused for now. More
    than was sold, and is not back yet, is a contradiction: a dead letter is seen, silence is not.
    """
    found = await storage.reservation_of(work, command.order_id)
    if found is not None and found.status is ReservationStatus.HELD:
        return Refused(reason=f"the pieces of order {command.order_id} are not sold yet")
    if not await storage.claim_restock(work, command.saga_id, command.order_id):
        return Reply()
    if not await storage.restock(work, command.saga_id, command.lines):
        raise Conflict(f"more came back of order {command.order_id} than was sold to it")
    return Reply()


@router.on(OrderConfirmed)
async def sell_stock(event: OrderConfirmed, work: Work) -> None:
    """Turn the reservation into a sale."""
    if not await storage.sell(work, event.order_id):
        await _require_sold(event.order_id, work)


@router.on(ProductTouched)
async def forget_product(event: ProductTouched, work: Work) -> None:
    """Forget what is kept of a product, should its change not have been announced: Valkey may have been away.

    Then have the open pages of it look, which is only a hint.
    """
    await storage.product_by_id.changed(work, event.product_id)
    await product_pages.changed(work, event.product_id)


async def _refused(command: ReserveStock, work: Work) -> Refused:
    known = await storage.names_and_free(work, [line.product_id for line in command.lines])
    reason = shortage(command.lines, known)
    await storage.refuse(work, command.order_id, reason)
    return Refused(reason=reason)


async def _require_sold(order_id: OrderId, work: Work) -> None:
    """Raise when a confirmed order has no stock: a dead letter is seen, silence is not."""
    found = await storage.reservation_of(work, order_id)
    if found is None or found.status is not ReservationStatus.SOLD:
        raise Conflict(f"order {order_id} was confirmed without a reservation: {found.status if found else 'none'}")
