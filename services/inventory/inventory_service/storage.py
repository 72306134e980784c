"""Products, stock and reservations in PostgreSQL.

Who moves stock holds one lock until the commit (`_moving_stock`). Rows alone would not do: many commands are
handled in one transaction, each locks the rows of its products, and two such transactions that meet the same
products in another order would wait for each other. The guard `free >= quantity` stands in the statement that
takes, so that a delivery booked at the same time cannot lead to a wrong answer either.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from covey.cache.reads import cached
from covey.database.pagination import Column, Listing, Query
from covey.work.unit_of_work import Work
from inventory_service.domain import (
    Line,
    Money,
    OrderId,
    Product,
    ProductId,
    Reservation,
    ReservationStatus,
    Stock,
)

_PRODUCT = "SELECT id, name, price_amount, price_currency, version FROM product"

PRODUCTS = Listing(
    "products",
    f"{_PRODUCT} WHERE true",
    key=Column("id", UUID),
    sorts={"id": (), "name": (Column("name", str),), "price": (Column("price_amount", int),)},
    filters={"name": "name = {}", "currency": "price_currency = {}", "max_price": "price_amount <= {}"},
)
"""Products as customers look for them. The price is in minor units, of whichever currency."""


async def add_product(work: Work, product: Product) -> None:
    """Insert a new product, with no stock."""
    await work.execute(
        """
        WITH new AS (
            INSERT INTO product (id, name, price_amount, price_currency, version) VALUES ($1, $2, $3, $4, $5)
            RETURNING id
        )
        INSERT INTO stock (product_id) SELECT id FROM new
        """,
        product.id,
        product.name,
        product.price.amount,
        product.price.currency,
        product.version,
    )


async def product_to_change(work: Work, product_id: ProductId) -> Product | None:
    """Return a product and keep others from changing it until the transaction ends."""
    row = await work.fetchrow(f"{_PRODUCT} WHERE id = $1 FOR UPDATE", product_id)
    return _product(row) if row else None


@cached("product")
async def product_by_id(work: Work, product_id: ProductId) -> Product | None:
    """Return a product, or None."""
    row = await work.fetchrow(f"{_PRODUCT} WHERE id = $1", product_id)
    return _product(row) if row else None


async def products_page(work: Work, query: Query) -> tuple[list[Product], str | None]:
    """Return a page of products, and the cursor of the page after it. Raises as `Listing.page` does."""
    page = await PRODUCTS.page(work, query)
    return [_product(row) for row in page.rows], page.next


async def products_by_ids(work: Work, ids: Sequence[ProductId]) -> list[Product]:
    """Return those of these products that there are, in this order."""
    return [_product(row) for row in await PRODUCTS.batch(work, ids)]


async def products_after(work: Work, after: ProductId | None, limit: int) -> list[Product]:
    """Return up to `limit` products in order of their ids, from the one after `after` on."""
    rows = await work.fetch(f"{_PRODUCT} WHERE $1::uuid IS NULL OR id > $1::uuid ORDER BY id LIMIT $2", after, limit)
    return [_product(row) for row in rows]


async def change_product(work: Work, product: Product) -> None:
    """Write the new state of a product, and announce that what is kept of it is about to be an old one."""
    await work.execute(
        "UPDATE product SET name = $2, price_amount = $3, price_currency = $4, version = $5 WHERE id = $1",
        product.id,
        product.name,
        product.price.amount,
        product.price.currency,
        product.version,
    )
    await product_by_id.changing(work, product.id)


async def stock_of(work: Work, product_id: ProductId) -> Stock | None:
    """Return where the pieces of a product are, or None when there is no such product."""
    row = await work.fetchrow(f"{_STOCK} WHERE product_id = $1", product_id)
    return Stock(**dict(row)) if row else None


async def receive(work: Work, line: Line) -> Stock | None:
    """Book a delivery: so many pieces more are free. Returns the stock after it, None when there is no such product."""
    row = await work.fetchrow(
        """
        UPDATE stock SET received = received + $2, free = free + $2 WHERE product_id = $1
        RETURNING product_id, received, free, reserved, sold
        """,
        line.product_id,
        line.quantity,
    )
    return Stock(**dict(row)) if row else None


async def claim(work: Work, order_id: OrderId, status: ReservationStatus) -> Reservation | None:
    """Make the reservation of an order if it has none. Returns the one that it has already, and then makes none."""
    await _moving_stock(work)
    made = await work.fetchval(
        "INSERT INTO reservation (order_id, status) VALUES ($1, $2) ON CONFLICT DO NOTHING RETURNING order_id",
        order_id,
        status,
    )
    return None if made else await reservation_of(work, order_id)


async def reserve(work: Work, order_id: OrderId, lines: Sequence[Line]) -> tuple[Reservation | None, bool]:
    """Make the reservation of an order, and move the pieces of all its lines from free to reserved.

    Moves none of them when one line cannot be had, and tells whether it did. An order that has a reservation already
    keeps it: that is returned, and nothing is moved.
    """
    await _moving_stock(work)
    made, taken = await work.fetchrow(
        """
        WITH made AS (
            INSERT INTO reservation (order_id, status) VALUES ($1, 'held') ON CONFLICT DO NOTHING RETURNING order_id
        ), wanted AS (
            SELECT w.* FROM made, unnest($2::uuid[], $3::bigint[]) AS w (product_id, quantity)
        ), available AS MATERIALIZED (
            SELECT s.product_id, w.quantity FROM stock s JOIN wanted w USING (product_id)
            WHERE s.free >= w.quantity ORDER BY s.product_id FOR UPDATE OF s
        ), taken AS (
            UPDATE stock s SET free = s.free - a.quantity, reserved = s.reserved + a.quantity
            FROM available a
            WHERE s.product_id = a.product_id
              AND (SELECT count(*) FROM available) = cardinality($2::uuid[])
            RETURNING s.product_id, a.quantity
        ), written AS (
            INSERT INTO reservation_line (order_id, product_id, quantity)
            SELECT $1, product_id, quantity FROM taken RETURNING product_id
        )
        SELECT (SELECT count(*) FROM made), (SELECT count(*) FROM written)
        """,
        order_id,
        [line.product_id for line in lines],
        [line.quantity for line in lines],
    )
    return None if made else await reservation_of(work, order_id), taken == len(lines)


async def refuse(work: Work, order_id: OrderId, reason: str) -> None:
    """Write down that and why a claimed reservation could not be made."""
    await work.execute(
        "UPDATE reservation SET status = 'refused', reason = $2, changed_at = now() WHERE order_id = $1",
        order_id,
        reason,
    )


async def names_and_free(work: Work, product_ids: Sequence[ProductId]) -> dict[ProductId, tuple[str, int]]:
    """Return the name and the free pieces of those of these products that exist."""
    rows = await work.fetch(
        "SELECT p.id, p.name, s.free FROM product p JOIN stock s ON s.product_id = p.id WHERE p.id = ANY ($1)",
        list(product_ids),
    )
    return {ProductId(row["id"]): (row["name"], row["free"]) for row in rows}


async def release(work: Work, order_id: OrderId) -> bool:
    """Move what is held for an order back to free. Returns False, and changes nothing, when nothing is held."""
    return await _settle(work, order_id, ReservationStatus.RELEASED, "free = s.free + l.quantity")


async def sell(work: Work, order_id: OrderId) -> bool:
    """Move what is held for an order to sold. Returns False, and changes nothing, when nothing is held."""
    return await _settle(work, order_id, ReservationStatus.SOLD, "sold = s.sold + l.quantity")


async def claim_restock(work: Work, return_id: UUID, order_id: OrderId) -> bool:
    """Note that a return is being restocked. Returns False when it was before."""
    await _moving_stock(work)
    made = await work.fetchval(
        "INSERT INTO restock (return_id, order_id) VALUES ($1, $2) ON CONFLICT DO NOTHING RETURNING return_id",
        return_id,
        order_id,
    )
    return made is not None


async def restock(work: Work, return_id: UUID, lines: Sequence[Line]) -> bool:
    """Move the pieces of a claimed return from sold to free, all or none: none when more come back than were sold."""
    moved = await work.fetch(
        """
        WITH back AS (
            SELECT * FROM unnest($2::uuid[], $3::bigint[]) AS b (product_id, quantity)
        ), sold AS MATERIALIZED (
            SELECT order_id, product_id, b.quantity
            FROM restock k JOIN reservation r USING (order_id) JOIN reservation_line l USING (order_id)
                 JOIN back b USING (product_id)
            WHERE k.return_id = $1 AND r.status = 'sold' AND l.quantity - l.restocked >= b.quantity
        ), whole AS (
            SELECT * FROM sold WHERE (SELECT count(*) FROM sold) = cardinality($2::uuid[])
        ), noted AS (
            UPDATE reservation_line l SET restocked = l.restocked + w.quantity
            FROM whole w WHERE l.order_id = w.order_id AND l.product_id = w.product_id
        ), moved AS (
            UPDATE stock s SET sold = s.sold - w.quantity, free = s.free + w.quantity
            FROM whole w WHERE s.product_id = w.product_id
            RETURNING s.product_id, w.quantity
        )
        INSERT INTO restock_line (return_id, product_id, quantity)
        SELECT $1, product_id, quantity FROM moved RETURNING product_id
        """,
        return_id,
        [line.product_id for line in lines],
        [line.quantity for line in lines],
    )
    return len(moved) == len(lines)


async def reservation_of(work: Work, order_id: OrderId) -> Reservation | None:
    """Return the reservation of an order with its lines, or None."""
    rows = await work.fetch(
        """
        SELECT r.status, r.reason, l.product_id, l.quantity
        FROM reservation r LEFT JOIN reservation_line l USING (order_id)
        WHERE r.order_id = $1 ORDER BY l.product_id
        """,
        order_id,
    )
    if not rows:
        return None
    lines = tuple(Line(row["product_id"], row["quantity"]) for row in rows if row["product_id"])
    return Reservation(order_id, ReservationStatus(rows[0]["status"]), rows[0]["reason"], lines)


async def _moving_stock(work: Work) -> None:
    """Wait until nobody else moves stock, and keep others from it until the transaction ends."""
    if _moving_stock not in work.state:
        await work.execute("SELECT pg_advisory_xact_lock(hashtextextended('inventory.stock', 0))")
        work.state[_moving_stock] = True


async def _settle(work: Work, order_id: OrderId, status: ReservationStatus, gain: str) -> bool:
    await _moving_stock(work)
    settled = await work.fetchval(
        f"""
        WITH settled AS (
            UPDATE reservation SET status = $2, changed_at = now() WHERE order_id = $1 AND status = 'held'
            RETURNING order_id
        ), moved AS (
            UPDATE stock s SET reserved = s.reserved - l.quantity, {gain}
            FROM reservation_line l JOIN settled USING (order_id) WHERE s.product_id = l.product_id
        )
        SELECT order_id FROM settled
        """,
        order_id,
        status,
    )
    return settled is not None


_STOCK = "SELECT product_id, received, free, reserved, sold FROM stock"


def _product(row: Any) -> Product:
    return Product(row["id"], row["name"], Money(row["price_amount"], row["price_currency"]), row["version"])
