"""How an order is fulfilled: stock is reserved, the money is put aside, then taken; then it is confirmed and shipped.

Up to the pivot everything can be undone, and is, when a step is refused, or is not answered in time, or the
customer cancels. Whether the pivot happened is found out, however long it takes; after it the order is confirmed, and
the goods go out and the customer is told, however long that takes: a carrier that is down makes the goods wait, and no
order fail.
"""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from pydantic import BaseModel

from covey.errors import NotFound
from covey.saga.definition import pivot, retriable, step
from covey.saga.journal import load
from covey.saga.saga import Saga
from covey.work.unit_of_work import Work
from order_service import domain, storage
from order_service.domain import Cancelled, Confirmed, Money, OrderId, Rejected, UserId, Wanted
from order_service.messages import (
    AuthorizePayment,
    CapturePayment,
    OrderCancelled,
    OrderConfirmed,
    OrderRejected,
    ReleaseStock,
    ReserveStock,
    SendConfirmation,
    ShipOrder,
    VoidAuthorization,
)


class PlaceOrderV1(BaseModel):
    """What the steps need. `token` stands for the means of payment; it is kept nowhere else."""

    order_id: OrderId
    lines: tuple[Wanted, ...]
    amount: Money
    token: str


class PlaceOrder(PlaceOrderV1):
    """What the steps need now, for whom and over how much also to ship and to write."""

    user_id: UserId
    total: Money


async def confirm_order(data: PlaceOrderV1, work: Work) -> None:
    """Confirm the order and say so, once."""
    stored = await _to_change(data.order_id, work)
    order = domain.confirm(stored.order)
    if order != stored.order:
        storage.settle(work, order.id, Confirmed())
        work.publish(OrderConfirmed(order_id=order.id, user_id=order.user_id, total=order.total))


async def give_order_up(data: PlaceOrderV1, reason: str, work: Work) -> None:
    """End the order, whose steps are all undone: cancelled when somebody asked for it, else rejected."""
    stored = await _to_change(data.order_id, work)
    order = domain.give_up(stored.order, reason)
    if order == stored.order:
        return
    match order.state:
        case Cancelled(reason=asked) as state:
            storage.settle(work, order.id, state)
            work.publish(OrderCancelled(order_id=order.id, user_id=order.user_id, reason=asked))
        case Rejected(reason=why) as state:
            storage.settle(work, order.id, state)
            work.publish(OrderRejected(order_id=order.id, user_id=order.user_id, reason=why))


place_order_v1 = Saga(
    "place-order",
    PlaceOrderV1,
    step(ReserveStock, undo=ReleaseStock, timeout=timedelta(seconds=10), label="reserving the goods"),
    step(AuthorizePayment, undo=VoidAuthorization, timeout=timedelta(seconds=10), label="authorizing the payment"),
    pivot(CapturePayment),
    retriable(confirm_order),
    compensated=give_order_up,
)
"""How orders were fulfilled before there was shipping; to be kept until the last saga of this version has ended."""

place_order = Saga(
    "place-order",
    PlaceOrder,
    step(ReserveStock, undo=ReleaseStock, timeout=timedelta(seconds=10), label="reserving the goods"),
    step(AuthorizePayment, undo=VoidAuthorization, timeout=timedelta(seconds=10), label="authorizing the payment"),
    pivot(CapturePayment),
    retriable(confirm_order),
    retriable(ShipOrder),
    retriable(SendConfirmation),
    version=2,
    compensated=give_order_up,
)


async def stop(work: Work, saga_id: UUID, reason: str) -> bool:
    """Cancel the saga of an order, by the definition that it was started with; return whether that was in time."""
    record = (await load(work, [saga_id])).get(saga_id)
    saga = place_order_v1 if record is not None and record.version == place_order_v1.version else place_order
    return await saga.cancel(work, saga_id, reason)


async def _to_change(order_id: OrderId, work: Work) -> storage.Stored:
    stored = await storage.order_to_change(work, order_id)
    if stored is None:
        raise NotFound(f"order {order_id} is gone")
    return stored
