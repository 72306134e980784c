"""Orders and their returns, and the read models of products and shipments, in PostgreSQL."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from covey.database.pagination import Column, Listing, Query
from covey.work.unit_of_work import Work
from order_service.domain import (
    Cancelled,
    Confirmed,
    Line,
    Money,
    Order,
    OrderId,
    Pending,
    Product,
    ProductId,
    Rejected,
    Return,
    ReturnCompleted,
    ReturnId,
    ReturnRefused,
    ReturnRequested,
    ReturnState,
    Shipment,
    ShipmentId,
    State,
    UserId,
    Wanted,
    return_status_of,
    status_of,
)

ORDERS = Listing(
    "orders",
    "SELECT id FROM orders WHERE true",
    key=Column("id", UUID),
    sorts={"placed": ()},
    filters={"user_id": "user_id = {}", "status": "status = {}"},
)
"""Orders, always of one user: there is an index for these."""

_WITH_LINES = """
SELECT o.*, l.product_id, l.quantity, l.unit_price FROM orders o JOIN order_line l ON l.order_id = o.id
"""


@dataclass(frozen=True, slots=True)
class Stored:
    """An order, and what is known of it that is no part of the domain: its saga, and when it changed."""

    order: Order
    saga_id: UUID
    placed_at: datetime
    cancelling_at: datetime | None
    settled_at: datetime | None


@dataclass(frozen=True, slots=True)
class StoredReturn:
    """A return, and when it changed."""

    one: Return
    requested_at: datetime
    settled_at: datetime | None


def keep_product(work: Work, product: Product) -> None:
    """Keep the newest version of a product, at the commit; an older one, or the same again, changes nothing."""
    work.defer(
        """
        INSERT INTO product (id, name, price_amount, price_currency, version) VALUES ($1, $2, $3, $4, $5)
        ON CONFLICT (id) DO UPDATE SET name = excluded.name, price_amount = excluded.price_amount,
            price_currency = excluded.price_currency, version = excluded.version
        WHERE product.version < excluded.version
        """,
        product.id,
        product.name,
        product.price.amount,
        product.price.currency,
        product.version,
    )


def keep_shipment(work: Work, shipment: Shipment) -> None:
    """Keep the newest version of an order's shipment, at the commit; an older one, or the same, changes nothing."""
    work.defer(
        """
        INSERT INTO shipment (order_id, shipment_id, status, tracking_number, version) VALUES ($1, $2, $3, $4, $5)
        ON CONFLICT (order_id) DO UPDATE SET shipment_id = excluded.shipment_id, status = excluded.status,
            tracking_number = excluded.tracking_number, version = excluded.version
        WHERE shipment.version < excluded.version
        """,
        shipment.order_id,
        shipment.id,
        shipment.status,
        shipment.tracking_number,
        shipment.version,
    )


async def shipment_of(work: Work, order_id: OrderId) -> tuple[Shipment, datetime] | None:
    """Return the shipment of an order, and since when it is known; None while nothing is shipped."""
    row = await work.fetchrow("SELECT * FROM shipment WHERE order_id = $1", order_id)
    if row is None:
        return None
    found = Shipment(ShipmentId(row["shipment_id"]), order_id, row["status"], row["tracking_number"], row["version"])
    return found, row["shipped_at"]


async def products(work: Work, ids: Collection[ProductId]) -> dict[ProductId, Product]:
    """Return those of these products that are known."""
    rows = await work.fetch(
        "SELECT id, name, price_amount, price_currency, version FROM product WHERE id = ANY ($1)", list(ids)
    )
    return {
        row["id"]: Product(row["id"], row["name"], Money(row["price_amount"], row["price_currency"]), row["version"])
        for row in rows
    }


async def add_order(work: Work, order: Order, saga_id: UUID) -> datetime:
    """Insert a new order with its lines. Returns when it was placed."""
    placed_at: datetime = await work.fetchval(
        """
        WITH new AS (
            INSERT INTO orders (id, user_id, saga_id, status, total_amount, total_currency)
            VALUES ($1, $2, $3, $4, $5, $6) RETURNING id, placed_at
        ), lines AS (
            INSERT INTO order_line (order_id, n, product_id, quantity, unit_price)
            SELECT new.id, l.n - 1, l.product_id, l.quantity, l.unit_price
            FROM new, unnest($7::uuid[], $8::bigint[], $9::bigint[])
                 WITH ORDINALITY AS l (product_id, quantity, unit_price, n)
        )
        SELECT placed_at FROM new
        """,
        order.id,
        order.user_id,
        saga_id,
        status_of(order.state),
        order.total.amount,
        order.total.currency,
        [line.product_id for line in order.lines],
        [line.quantity for line in order.lines],
        [line.unit_price.amount for line in order.lines],
    )
    return placed_at


async def order_by_id(work: Work, order_id: OrderId) -> Stored | None:
    """Return an order, or None."""
    return await _order(work, order_id, "")


async def orders_page(work: Work, query: Query) -> tuple[list[Stored], str | None]:
    """Return a page of orders, and the cursor of the page after it. Raises as `Listing.page` does."""
    page = await ORDERS.page(work, query)
    ids = [row["id"] for row in page.rows]
    rows = await work.fetch(f"{_WITH_LINES} WHERE o.id = ANY ($1) ORDER BY o.id, l.n", ids)
    several: dict[UUID, list[Any]] = {}
    for row in rows:
        several.setdefault(row["id"], []).append(row)
    return [_stored(several[order_id]) for order_id in ids], page.next


async def order_to_change(work: Work, order_id: OrderId) -> Stored | None:
    """Return an order and keep others from changing it until the transaction ends."""
    return await _order(work, order_id, "FOR UPDATE OF o")


async def keep_cancelling(work: Work, order_id: OrderId, reason: str | None) -> None:
    """Write that an order is being cancelled and why, and since when."""
    await work.execute(
        """
        UPDATE orders SET cancelling = $2, cancelling_at = clock_timestamp()
        WHERE id = $1 AND cancelling IS DISTINCT FROM $2
        """,
        order_id,
        reason,
    )


def settle(work: Work, order_id: OrderId, state: Confirmed | Rejected | Cancelled) -> None:
    """Write how an order has ended, and when, at the commit."""
    work.defer(
        "UPDATE orders SET status = $2, reason = $3, settled_at = clock_timestamp() WHERE id = $1",
        order_id,
        status_of(state),
        None if isinstance(state, Confirmed) else state.reason,
    )


async def add_return(work: Work, order_id: OrderId, one: Return) -> datetime:
    """Insert a new return, and claim its pieces on the lines of its order. Returns when it was requested."""
    requested_at: datetime = await work.fetchval(
        """
        WITH new AS (
            INSERT INTO order_return (id, order_id, status, reason, amount, currency) VALUES ($1, $2, $3, $4, $5, $6)
            RETURNING id, order_id, requested_at
        ), lines AS (
            INSERT INTO order_return_line (return_id, product_id, quantity)
            SELECT new.id, l.product_id, l.quantity
            FROM new, unnest($7::uuid[], $8::bigint[]) AS l (product_id, quantity)
            RETURNING product_id, quantity
        ), claimed AS (
            UPDATE order_line o SET returned = o.returned + lines.quantity
            FROM lines WHERE o.order_id = $2 AND o.product_id = lines.product_id
        )
        SELECT requested_at FROM new
        """,
        one.id,
        order_id,
        return_status_of(one.state),
        one.reason,
        one.amount.amount,
        one.amount.currency,
        [line.product_id for line in one.lines],
        [line.quantity for line in one.lines],
    )
    return requested_at


async def returns_of(work: Work, order_id: OrderId) -> list[StoredReturn]:
    """Return all returns of an order, oldest first."""
    return await _returns(work, "r.order_id", order_id, "")


async def return_to_change(work: Work, return_id: ReturnId) -> Return | None:
    """Return a return and keep others from changing it until the transaction ends."""
    found = await _returns(work, "r.id", return_id, "FOR UPDATE OF r")
    return found[0].one if found else None


async def keep_return_state(work: Work, one: Return) -> None:
    """Write the state that a return has come to. One that is refused lets go of the pieces that it had claimed."""
    await work.execute(
        """
        WITH settled AS (
            UPDATE order_return SET status = $2, refusal = $3, settled_at = clock_timestamp() WHERE id = $1
            RETURNING id, order_id
        )
        UPDATE order_line o SET returned = o.returned - l.quantity
        FROM settled JOIN order_return_line l ON l.return_id = settled.id
        WHERE $2 = 'refused' AND o.order_id = settled.order_id AND o.product_id = l.product_id
        """,
        one.id,
        return_status_of(one.state),
        one.state.reason if isinstance(one.state, ReturnRefused) else None,
    )


async def _returns(work: Work, column: str, value: UUID, lock: str) -> list[StoredReturn]:
    rows = await work.fetch(
        f"""
        SELECT r.*, l.product_id, l.quantity
        FROM order_return r JOIN order_return_line l ON l.return_id = r.id
        WHERE {column} = $1 ORDER BY r.requested_at, r.id, l.product_id {lock}
        """,
        value,
    )
    several: dict[UUID, list[Any]] = {}
    for row in rows:
        several.setdefault(row["id"], []).append(row)
    return [_stored_return(of_one) for of_one in several.values()]


def _stored_return(rows: list[Any]) -> StoredReturn:
    head = rows[0]
    one = Return(
        id=ReturnId(head["id"]),
        lines=tuple(Wanted(ProductId(row["product_id"]), row["quantity"]) for row in rows),
        amount=Money(head["amount"], head["currency"]),
        reason=head["reason"],
        state=_return_state(head),
    )
    return StoredReturn(one, head["requested_at"], head["settled_at"])


def _return_state(row: Any) -> ReturnState:
    match row["status"]:
        case "requested":
            return ReturnRequested()
        case "completed":
            return ReturnCompleted()
        case "refused":
            return ReturnRefused(row["refusal"])
        case other:
            raise ValueError(f"a return cannot be {other}")


async def _order(work: Work, order_id: OrderId, lock: str) -> Stored | None:
    rows = await work.fetch(
        f"{_WITH_LINES} WHERE o.id = $1 ORDER BY l.n {lock}",
        order_id,
    )
    return _stored(rows) if rows else None


def _stored(rows: list[Any]) -> Stored:
    head = rows[0]
    currency = head["total_currency"]
    lines = tuple(Line(r["product_id"], r["quantity"], Money(r["unit_price"], currency)) for r in rows)
    total = Money(head["total_amount"], currency)
    order = Order(OrderId(head["id"]), UserId(head["user_id"]), lines, total, _state(head))
    return Stored(order, head["saga_id"], head["placed_at"], head["cancelling_at"], head["settled_at"])


def _state(row: Any) -> State:
    match row["status"]:
        case "pending":
            return Pending(row["cancelling"])
        case "confirmed":
            return Confirmed()
        case "rejected":
            return Rejected(row["reason"])
        case "cancelled":
            return Cancelled(row["reason"])
        case other:
            raise ValueError(f"an order cannot be {other}")
