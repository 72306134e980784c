"""Orders and the read model of products in PostgreSQL."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any, assert_never
from uuid import UUID

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
    State,
    UserId,
    status_of,
)


@dataclass(frozen=True, slots=True)
class Stored:
    """An order, and what is known of it that is no part of the domain: its saga, and when it changed."""

    order: Order
    saga_id: UUID
    placed_at: datetime
    cancelling_at: datetime | None
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


async def order_to_change(work: Work, order_id: OrderId) -> Stored | None:
    """Return an order and keep others from changing it until the transaction ends."""
    return await _order(work, order_id, "FOR UPDATE OF o")


async def keep_state(work: Work, order_id: OrderId, state: State) -> None:
    """Write the state that an order is in now, and when it got there."""
    match state:
        case Pending(cancelling=asked):
            await work.execute(
                """
                UPDATE orders SET cancelling = $2, cancelling_at = clock_timestamp()
                WHERE id = $1 AND cancelling IS DISTINCT FROM $2
                """,
                order_id,
                asked,
            )
        case Confirmed():
            await _settle(work, order_id, state, None)
        case Rejected(reason=reason) | Cancelled(reason=reason):
            await _settle(work, order_id, state, reason)
        case _:
            assert_never(state)


async def _settle(work: Work, order_id: OrderId, state: State, reason: str | None) -> None:
    await work.execute(
        "UPDATE orders SET status = $2, reason = $3, settled_at = clock_timestamp() WHERE id = $1",
        order_id,
        status_of(state),
        reason,
    )


async def _order(work: Work, order_id: OrderId, lock: str) -> Stored | None:
    rows = await work.fetch(
        f"""
        SELECT o.*, l.product_id, l.quantity, l.unit_price
        FROM orders o JOIN order_line l ON l.order_id = o.id WHERE o.id = $1 ORDER BY l.n {lock}
        """,
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
