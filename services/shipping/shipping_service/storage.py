"""Shipments and returns in PostgreSQL.

Whoever changes a shipment or one of its returns locks the shipment's row first. So two returns of one order are
decided one after the other, and each sees what the other has claimed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from covey.work.unit_of_work import Work
from shipping_service.domain import (
    Line,
    OrderId,
    ProductId,
    Progress,
    Return,
    ReturnId,
    ReturnStatus,
    Shipment,
    ShipmentId,
    UserId,
)


async def shipment_to_change(work: Work, order_id: OrderId) -> Shipment | None:
    """Return the shipment of an order, and keep others from changing it and its returns until the transaction ends."""
    return await _shipment(work, "order_id", order_id, "FOR UPDATE OF s")


async def shipment_by_id_to_change(work: Work, shipment_id: ShipmentId) -> Shipment | None:
    """Return a shipment, and keep others from changing it until the transaction ends."""
    return await _shipment(work, "id", shipment_id, "FOR UPDATE OF s")


async def shipment_by_id(work: Work, shipment_id: ShipmentId) -> Shipment | None:
    """Return a shipment, or None."""
    return await _shipment(work, "id", shipment_id)


async def shipment_of(work: Work, order_id: OrderId) -> Shipment | None:
    """Return the shipment of an order, or None."""
    return await _shipment(work, "order_id", order_id)


def add_shipment(work: Work, shipment: Shipment) -> None:
    """Write a shipment that is about to be booked, with its lines, at the commit; one that is there stays as it is."""
    work.defer(
        """
        WITH new AS (
            INSERT INTO shipment (id, order_id, user_id, progress) VALUES ($1, $2, $3, $4)
            ON CONFLICT DO NOTHING RETURNING id
        )
        INSERT INTO shipment_line (shipment_id, product_id, quantity)
        SELECT new.id, l.product_id, l.quantity FROM new, unnest($5::uuid[], $6::bigint[]) AS l (product_id, quantity)
        """,
        shipment.id,
        shipment.order_id,
        shipment.user_id,
        shipment.progress,
        *_columns(shipment.lines),
    )


async def keep_shipment(work: Work, shipment: Shipment) -> None:
    """Write a shipment as it is now."""
    await work.execute(
        """
        UPDATE shipment SET progress = $2, tracking_number = $3, returned = $4, version = $5,
            changed_at = clock_timestamp()
        WHERE id = $1
        """,
        shipment.id,
        shipment.progress,
        shipment.tracking_number,
        shipment.returned,
        shipment.version,
    )


async def returns_of(work: Work, order_id: OrderId) -> list[Return]:
    """Return all returns of an order, oldest first."""
    rows = await work.fetch(
        """
        SELECT r.*, l.product_id, l.quantity
        FROM goods_return r LEFT JOIN goods_return_line l ON l.return_id = r.id
        WHERE r.order_id = $1 ORDER BY r.asked_at, r.id, l.product_id
        """,
        order_id,
    )
    several: dict[ReturnId, list[Any]] = {}
    for row in rows:
        several.setdefault(row["id"], []).append(row)
    return [_return(of_one) for of_one in several.values()]


async def keep_return(work: Work, one: Return) -> None:
    """Write a return as it is now. Its lines are written with it, and never change."""
    await work.execute(
        """
        WITH new AS (
            INSERT INTO goods_return (id, order_id, status, tracking_number, reason) VALUES ($1, $2, $3, $4, $5)
            ON CONFLICT (id) DO UPDATE SET status = excluded.status, tracking_number = excluded.tracking_number,
                reason = excluded.reason, changed_at = clock_timestamp()
            RETURNING id
        )
        INSERT INTO goods_return_line (return_id, product_id, quantity)
        SELECT new.id, l.product_id, l.quantity FROM new, unnest($6::uuid[], $7::bigint[]) AS l (product_id, quantity)
        ON CONFLICT DO NOTHING
        """,
        one.id,
        one.order_id,
        one.status,
        one.tracking_number,
        one.reason,
        *_columns(one.lines),
    )


async def _shipment(work: Work, column: str, value: object, lock: str = "") -> Shipment | None:
    rows = await work.fetch(
        f"""
        SELECT s.*, l.product_id, l.quantity FROM shipment s JOIN shipment_line l ON l.shipment_id = s.id
        WHERE s.{column} = $1 ORDER BY l.product_id {lock}
        """,
        value,
    )
    if not rows:
        return None
    head = rows[0]
    return Shipment(
        id=ShipmentId(head["id"]),
        order_id=OrderId(head["order_id"]),
        user_id=UserId(head["user_id"]),
        lines=_lines(rows),
        progress=Progress(head["progress"]),
        tracking_number=head["tracking_number"],
        returned=head["returned"],
        version=head["version"],
    )


def _return(rows: Sequence[Any]) -> Return:
    head = rows[0]
    return Return(
        id=ReturnId(head["id"]),
        order_id=OrderId(head["order_id"]),
        lines=_lines(rows),
        status=ReturnStatus(head["status"]),
        tracking_number=head["tracking_number"],
        reason=head["reason"],
    )


def _lines(rows: Sequence[Any]) -> tuple[Line, ...]:
    return tuple(Line(ProductId(row["product_id"]), row["quantity"]) for row in rows if row["product_id"])


def _columns(lines: Sequence[Line]) -> tuple[list[ProductId], list[int]]:
    return [line.product_id for line in lines], [line.quantity for line in lines]
