"""Orders over HTTP."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Request, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from covey.database import pagination
from covey.errors import Conflict, Invalid, NotFound, Unavailable
from covey.http.access import Caller
from covey.http.idempotency import IdempotentRoute
from covey.http.limits import limited
from covey.http.lists import Cursor, Limit
from covey.http.shedding import priority
from covey.http.transaction import Transaction, transactions_of
from covey.http.whole import WHOLE
from covey.ids import new_id
from covey.resilience.load_shedding import Priority
from covey.saga.journal import history
from covey.security.access import require_owner
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
    ReturnId,
    ReturnRefused,
    ShipmentId,
    State,
    UserId,
    Wanted,
    return_status_of,
    status_of,
)
from order_service.messages import OrderPlaced
from order_service.ports import Customers
from order_service.saga import place_order as placing
from order_service.saga.place_order import PlaceOrder, place_order
from order_service.saga.return_order import ReturnOrder, return_order
from order_service.storage import Stored, StoredReturn

api = APIRouter(prefix="/api/v1", tags=["orders"], route_class=IdempotentRoute)


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NewLine(_Request):
    """A product, and how many pieces of it."""

    product_id: ProductId
    quantity: Annotated[int, Field(strict=True, ge=1, le=MAX_QUANTITY), WHOLE]


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


class NewReturn(_Request):
    """What is returned, and why. Without `lines` it is everything that is not returned yet."""

    lines: (
        Annotated[tuple[NewLine, ...], Field(min_length=1, max_length=MAX_LINES), AfterValidator(_distinct)] | None
    ) = None
    reason: str = Field(default="returned by the customer", min_length=1, max_length=200)


class ReturnView(BaseModel):
    """A return as it is shown: requested, completed or refused. `amount` is what is paid back for it."""

    id: ReturnId
    status: str
    reason: str
    refusal: str | None
    lines: tuple[Wanted, ...]
    amount: Money
    requested_at: datetime
    settled_at: datetime | None


class ShipmentView(BaseModel):
    """A shipment as shipping has last told of it."""

    id: ShipmentId
    status: str
    tracking_number: str | None
    shipped_at: datetime


class OrderView(BaseModel):
    """An order as it is shown. It is confirmed once it is paid for; `shipment` follows."""

    id: OrderId
    user_id: UserId
    status: str
    cancelling: bool
    reason: str | None
    lines: tuple[Line, ...]
    total: Money
    placed_at: datetime
    settled_at: datetime | None
    shipment: ShipmentView | None = None
    returns: list[ReturnView] = []


class OrderList(BaseModel):
    """A page of orders. `next` is the cursor of the page after it; null: there is none."""

    orders: list[OrderView]
    next: str | None


class CustomerView(BaseModel):
    """Whom an order is for. `name` is null while nobody can tell: the account is closed, or user does not answer."""

    id: UserId
    name: str | None


class ExpandedOrderView(OrderView):
    """An order with what other services know of it."""

    customer: CustomerView


class Happening(BaseModel):
    """Something that happened to an order."""

    at: datetime
    what: str
    detail: str | None


class History(BaseModel):
    """What has happened to an order, oldest first: its states, and 90 days long the steps that led to them."""

    order_id: OrderId
    entries: list[Happening]


@api.post("/orders", status_code=201)
@limited("300/minute", but_not="staff")
@priority(Priority.CRITICAL)
async def create_order(body: NewOrder, caller: Caller, work: Transaction, response: Response) -> OrderView:
    """Accept an order, pending: it, the saga that fulfils it and the event are committed when this answers."""
    _require_owner(caller, body.user_id)
    wanted = tuple(Wanted(line.product_id, line.quantity) for line in body.lines)
    catalogue = await storage.products(work, [line.product_id for line in wanted])
    order = domain.place(OrderId(new_id()), body.user_id, wanted, catalogue)
    data = PlaceOrder(
        order_id=order.id,
        user_id=order.user_id,
        lines=wanted,
        amount=order.total,
        total=order.total,
        token=body.payment_token,
    )
    saga_id = new_id()
    placed_at = await storage.add_order(work, order, saga_id)  # first, so that it is older than what tells of it
    await place_order.start(work, data, saga_id)
    work.publish(OrderPlaced(order_id=order.id, user_id=order.user_id, lines=order.lines, total=order.total))
    response.headers["Location"] = f"/api/v1/orders/{order.id}"
    return _view(Stored(order, saga_id, placed_at, None, None))


@api.get("/orders/{order_id}")
async def get_order(
    order_id: OrderId, request: Request, caller: Caller, expand: Literal["customer"] | None = None
) -> OrderView | ExpandedOrderView:
    """Return an order, with what is known of its shipment, and its returns; expanded, with its customer."""
    async with transactions_of(request.scope).begin() as work:  # over before another service is asked
        order = await _whole(work, _own(caller, await storage.order_by_id(work, order_id), order_id))
    if expand is None:
        return order
    customer = CustomerView(id=order.user_id, name=await _name(request.app.state.customers, order.user_id))
    return ExpandedOrderView(**dict(order), customer=customer)


@api.get("/orders")
@limited("300/minute", but_not="staff")
async def list_orders(
    caller: Caller,
    work: Transaction,
    user_id: UserId | None = None,
    status: Literal["pending", "confirmed", "rejected", "cancelled"] | None = None,
    sort: Literal["placed", "-placed"] = "-placed",
    cursor: Cursor = None,
    limit: Limit = 50,
) -> OrderList:
    """Return the orders of a user, by default one's own and the newest first, without their shipments and returns."""
    whose = _whose(caller, user_id)
    asked = pagination.Query(sort=sort, filters={"user_id": whose, "status": status}, cursor=cursor, limit=limit)
    found, following = await storage.orders_page(work, asked)
    return OrderList(orders=[_view(stored) for stored in found], next=following)


@api.get("/orders/{order_id}/history")
async def get_history(order_id: OrderId, caller: Caller, work: Transaction) -> History:
    """Return what has happened to an order and its returns: their states, and every step of their sagas."""
    stored = _own(caller, await storage.order_by_id(work, order_id), order_id)
    returns = await storage.returns_of(work, order_id)
    sagas = [stored.saga_id, *(found.one.id for found in returns)]
    steps = [
        Happening(at=h.at, what=f"{h.step} {h.what}", detail=h.detail)
        for saga_id in sagas
        for h in await history(work, saga_id)
    ]
    states = [*_states(stored), *(state for found in returns for state in _return_states(found))]
    return History(order_id=order_id, entries=sorted([*states, *steps], key=lambda entry: entry.at))


@api.post("/orders/{order_id}/cancel", status_code=202)
async def cancel_order(
    order_id: OrderId, caller: Caller, work: Transaction, body: Cancellation | None = None
) -> OrderView:
    """Ask for an order to be cancelled. It is, once what was done for it is undone; then its status says so.

    409 when it is settled, and when the money is being taken: from there an order is returned, not cancelled.
    """
    reason = (body or Cancellation()).reason
    stored = _own(caller, await storage.order_by_id(work, order_id), order_id)
    if domain.ask_to_cancel(stored.order, reason) != stored.order:
        # The saga first: its own turns lock the saga, then the order, and we must not do it the other way round.
        stopped = await placing.stop(work, stored.saga_id, reason)
        stored = await _noted(work, order_id, reason, stopped)
    return _view(stored)


@api.post("/orders/{order_id}/returns", status_code=202)
async def return_goods(
    order_id: OrderId, caller: Caller, work: Transaction, response: Response, body: NewReturn | None = None
) -> ReturnView:
    """Accept a return: it, its claim on the pieces and the saga that carries it out are committed when this answers.

    409 when the order is not confirmed, and when so much is not left of it.
    """
    body = body or NewReturn()
    wanted = [Wanted(line.product_id, line.quantity) for line in body.lines] if body.lines else None
    # Whoever returns something of this order waits here, and then sees what others have claimed.
    stored = _own(caller, await storage.order_to_change(work, order_id), order_id)
    returns = [found.one for found in await storage.returns_of(work, order_id)]
    one = domain.take_back(stored.order, returns, ReturnId(new_id()), wanted, body.reason)
    requested_at = await storage.add_return(work, order_id, one)
    data = ReturnOrder(order_id=order_id, return_id=one.id, lines=one.lines, amount=one.amount)
    await return_order.start(work, data, saga_id=one.id)
    response.headers["Location"] = f"/api/v1/orders/{order_id}/returns/{one.id}"
    return _return_view(StoredReturn(one, requested_at, None))


@api.get("/orders/{order_id}/returns/{return_id}")
async def get_return(order_id: OrderId, return_id: ReturnId, caller: Caller, work: Transaction) -> ReturnView:
    """Return one return of an order."""
    _own(caller, await storage.order_by_id(work, order_id), order_id)
    for found in await storage.returns_of(work, order_id):
        if found.one.id == return_id:
            return _return_view(found)
    raise NotFound(f"order {order_id} has no return {return_id}")


async def _noted(work: Transaction, order_id: OrderId, reason: str, stopped: bool) -> Stored:
    """Note on the order that it is being cancelled. Conflict when its saga can no longer be stopped."""
    stored = _exists(await storage.order_to_change(work, order_id), order_id)
    order = domain.ask_to_cancel(stored.order, reason)
    if order == stored.order:
        return stored
    if not stopped:
        raise Conflict(f"order {order_id} is being settled and can no longer be cancelled")
    await storage.keep_cancelling(work, order_id, reason)
    return _exists(await storage.order_by_id(work, order_id), order_id)


def _whose(caller: Caller, user_id: UserId | None) -> UserId:
    """Return whose orders are listed."""
    if user_id is None:
        kind, _, own = caller.subject.partition(":")
        try:
            user_id = UserId(UUID(own if kind == "user" else ""))
        except ValueError:
            raise Invalid("say whose orders: user_id") from None
    _require_owner(caller, user_id)
    return user_id


def _own(caller: Caller, found: Stored | None, order_id: OrderId) -> Stored:
    """Return the order if it is the caller's, or the caller may see all."""
    stored = _exists(found, order_id)
    _require_owner(caller, stored.order.user_id)
    return stored


def _require_owner(caller: Caller, user_id: UserId) -> None:
    require_owner(caller, f"user:{user_id}", or_role="staff")


async def _name(customers: Customers | None, user_id: UserId) -> str | None:
    """Return what to call a customer. An order is shown without, when that cannot be told."""
    try:
        return await customers.name_of(user_id) if customers is not None else None
    except Unavailable:
        return None


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


def _return_states(found: StoredReturn) -> list[Happening]:
    """Return the changes of a return's own state."""
    one = found.one
    changes = [Happening(at=found.requested_at, what="return requested", detail=one.reason)]
    if found.settled_at:
        what = f"return {return_status_of(one.state)}"
        changes.append(Happening(at=found.settled_at, what=what, detail=_refusal(found)))
    return changes


def _refusal(found: StoredReturn) -> str | None:
    return found.one.state.reason if isinstance(found.one.state, ReturnRefused) else None


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


async def _whole(work: Transaction, stored: Stored) -> OrderView:
    """Return an order with all that belongs to it."""
    shipped = await storage.shipment_of(work, stored.order.id)
    returns = await storage.returns_of(work, stored.order.id)
    more: dict[str, object] = {"returns": [_return_view(found) for found in returns]}
    if shipped is not None:
        shipment, shipped_at = shipped
        more["shipment"] = ShipmentView(
            id=shipment.id,
            status=shipment.status,
            tracking_number=shipment.tracking_number,
            shipped_at=shipped_at,
        )
    return _view(stored).model_copy(update=more)


def _return_view(found: StoredReturn) -> ReturnView:
    one = found.one
    return ReturnView(
        id=one.id,
        status=return_status_of(one.state),
        reason=one.reason,
        refusal=_refusal(found),
        lines=one.lines,
        amount=one.amount,
        requested_at=found.requested_at,
        settled_at=found.settled_at,
    )
