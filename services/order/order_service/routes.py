"""Orders over HTTP."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from covey.errors import Conflict, NotFound
from covey.http.idempotency import IdempotentRoute
from covey.http.transaction import Transaction
from covey.ids import new_id
from covey.saga.journal import history
from order_service import domain, storage
from order_service.domain import (
    MAX_LINES,
    MAX_QUANTITY,
    Cancelled,
    Line,
    Money,
    OrderId,
    Pending,
    ProductId,
    Rejected,
    State,
    UserId,
    Wanted,
    status_of,
)
from order_service.messages import OrderPlaced
from order_service.saga import PlaceOrder, place_order
from order_service.storage import Stored

api = APIRouter(prefix="/api/v1", tags=["orders"], route_class=IdempotentRoute)


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NewLine(_Request):
    """A product, and how many pieces of it."""

    product_id: ProductId
    quantity: int = Field(strict=True, ge=1, le=MAX_QUANTITY)


def _distinct(lines: tuple[NewLine, ...]) -> tuple[NewLine, ...]:
    if len({line.product_id for line in lines}) < len(lines):
        raise ValueError("two lines are of the same product; add their quantities")
    return lines


class NewOrder(_Request):
    """An order as a customer places it. `payment_token` stands for the means of payment, and is never shown again."""

    user_id: UserId
    lines: Annotated[tuple[NewLine, ...], Field(min_length=1, max_length=MAX_LINES), AfterValidator(_distinct)]
    payment_token: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")


class Cancellation(_Request):
    """Why an order is cancelled, for people."""

    reason: str = Field(default="cancelled by the customer", min_length=1, max_length=200)


class OrderView(BaseModel):
    """An order as it is shown."""

    id: OrderId
    user_id: UserId
    status: str
    cancelling: bool
    reason: str | None
    lines: tuple[Line, ...]
    total: Money
    placed_at: datetime
    settled_at: datetime | None


class Happening(BaseModel):
    """Something that happened to an order."""

    at: datetime
    what: str
    detail: str | None


class History(BaseModel):
    """All that has happened to an order in this service, oldest first."""

    order_id: OrderId
    entries: list[Happening]


@api.post("/orders", status_code=201)
async def create_order(body: NewOrder, work: Transaction, response: Response) -> OrderView:
    """Accept an order, pending: it, the saga that fulfils it and the event are committed when this answers."""
    wanted = tuple(Wanted(line.product_id, line.quantity) for line in body.lines)
    catalogue = await storage.products(work, [line.product_id for line in wanted])
    order = domain.place(OrderId(new_id()), body.user_id, wanted, catalogue)
    saga_id = await place_order.start(
        work, PlaceOrder(order_id=order.id, lines=wanted, amount=order.total, token=body.payment_token)
    )
    placed_at = await storage.add_order(work, order, saga_id)
    work.publish(OrderPlaced(order_id=order.id, user_id=order.user_id, lines=order.lines, total=order.total))
    response.headers["Location"] = f"/api/v1/orders/{order.id}"
    return _view(Stored(order, saga_id, placed_at, None, None))


@api.get("/orders/{order_id}")
async def get_order(order_id: OrderId, work: Transaction) -> OrderView:
    """Return an order."""
    return _view(_exists(await storage.order_by_id(work, order_id), order_id))


@api.get("/orders/{order_id}/history")
async def get_history(order_id: OrderId, work: Transaction) -> History:
    """Return what has happened to an order: its states, and the steps of its saga."""
    stored = _exists(await storage.order_by_id(work, order_id), order_id)
    saga = await history(work, stored.saga_id)
    steps = [Happening(at=h.at, what=f"{h.step} {h.what}", detail=h.detail) for h in saga]
    return History(order_id=order_id, entries=sorted([*_states(stored), *steps], key=lambda entry: entry.at))


@api.post("/orders/{order_id}/cancel", status_code=202)
async def cancel_order(order_id: OrderId, work: Transaction, body: Cancellation | None = None) -> OrderView:
    """Ask for an order to be cancelled. It is, once what was done for it is undone; then its status says so.

    409 when it is settled, and when the money is being taken: from there an order is returned, not cancelled.
    """
    reason = (body or Cancellation()).reason
    stored = _exists(await storage.order_by_id(work, order_id), order_id)
    if domain.ask_to_cancel(stored.order, reason) != stored.order:
        # The saga first: its own turns lock the saga, then the order, and we must not do it the other way round.
        stopped = await place_order.cancel(work, stored.saga_id, reason)
        stored = await _noted(work, order_id, reason, stopped)
    return _view(stored)


async def _noted(work: Transaction, order_id: OrderId, reason: str, stopped: bool) -> Stored:
    """Note on the order that it is being cancelled. Conflict when its saga can no longer be stopped."""
    stored = _exists(await storage.order_to_change(work, order_id), order_id)
    order = domain.ask_to_cancel(stored.order, reason)
    if order == stored.order:
        return stored
    if not stopped:
        raise Conflict(f"order {order_id} is being settled and can no longer be cancelled")
    await storage.keep_state(work, order_id, order.state)
    return _exists(await storage.order_by_id(work, order_id), order_id)


def _exists(found: Stored | None, order_id: OrderId) -> Stored:
    if found is None:
        raise NotFound(f"there is no order {order_id}")
    return found


def _states(stored: Stored) -> list[Happening]:
    """Return the changes of the order's own state."""
    changes = [Happening(at=stored.placed_at, what="order placed", detail=None)]
    if stored.cancelling_at:
        changes.append(Happening(at=stored.cancelling_at, what="cancellation asked for", detail=None))
    if stored.settled_at:
        state = stored.order.state
        changes.append(Happening(at=stored.settled_at, what=f"order {status_of(state)}", detail=_reason(state)))
    return changes


def _reason(state: State) -> str | None:
    return state.reason if isinstance(state, Rejected | Cancelled) else None


def _view(stored: Stored) -> OrderView:
    order = stored.order
    return OrderView(
        id=order.id,
        user_id=order.user_id,
        status=status_of(order.state),
        cancelling=isinstance(order.state, Pending) and order.state.cancelling is not None,
        reason=_reason(order.state),
        lines=order.lines,
        total=order.total,
        placed_at=stored.placed_at,
        settled_at=stored.settled_at,
    )
