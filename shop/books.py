"""What the shop's services have on their books, and the payment provider on its own: one reading of everything.

Read straight from the databases, past the services' code: an auditor does not ask those whom it audits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import aiohttp
import asyncpg

SERVICES = ("order", "inventory", "payment")

# Who handles which event; commands and replies go to the service whose stream they are in.
SUBSCRIBERS = {"order.confirmed.v1": "inventory", "inventory.product-changed.v1": "order"}


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Where the books are: the URL of each service's database, and that of the provider."""

    databases: dict[str, str]
    provider: str


@dataclass(frozen=True, kw_only=True)
class Order:
    """An order, the status of its saga, and how often each type of event was published about it.

    The outbox forgets after a week: `remembered` tells whether it still has all events about this order.
    """

    id: UUID
    status: str
    reason: str | None
    total: int
    currency: str
    lines: dict[UUID, int]
    saga: str | None
    remembered: bool = True
    events: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, kw_only=True)
class Money:
    """What was moved for one order, in minor units, and in how many movements each."""

    authorized: int = 0
    captured: int = 0
    voided: int = 0
    refunded: int = 0
    captures: int = 0


@dataclass(frozen=True, kw_only=True)
class Reservation:
    """What inventory has set aside for an order."""

    status: str
    lines: dict[UUID, int]


@dataclass(frozen=True, kw_only=True)
class Stock:
    """Where the pieces of a product are."""

    received: int
    free: int
    reserved: int
    sold: int


@dataclass(frozen=True, kw_only=True)
class Hold:
    """A key in a service that does not move."""

    service: str
    key: str
    state: str
    error: str | None


@dataclass(frozen=True, kw_only=True)
class Books:
    """Everything, at about one moment: certain only when nothing moves any more.

    `accepted` are orders that were answered with 201, as the client remembers them.
    """

    orders: dict[UUID, Order]
    payments: dict[UUID, Money]
    provider: dict[str, Money]
    reservations: dict[UUID, Reservation]
    stocks: dict[UUID, Stock]
    waiting: dict[str, int]
    holds: list[Hold]
    undelivered: dict[str, int]
    accepted: frozenset[UUID] = frozenset()


@asynccontextmanager
async def _opened(sources: Sources) -> AsyncIterator[dict[str, Any]]:
    """Connect to the databases, and close the connections at the end."""
    async with AsyncExitStack() as stack:
        connections = {}
        for service in SERVICES:
            connections[service] = await asyncpg.connect(sources.databases[service])
            stack.push_async_callback(connections[service].close)
        yield connections


async def is_quiet(sources: Sources) -> bool:
    """Tell whether every order is settled and nothing waits but behind a dead letter. Cheap: it may be asked often."""
    moving = [f"SELECT FROM covey.{queue}" for queue in ("outbox_pending", "inbox_pending")]
    moving.append("SELECT FROM covey.hold WHERE state <> 'dead'")
    moving.append("SELECT FROM covey.saga WHERE ended_at IS NULL")
    async with _opened(sources) as connections:
        if await connections["order"].fetchval("SELECT EXISTS (SELECT FROM orders WHERE status = 'pending')"):
            return False
        query = "SELECT " + " OR ".join(f"EXISTS ({one})" for one in moving)
        return not any([await connection.fetchval(query) for connection in connections.values()])


async def read(sources: Sources, accepted: Collection[UUID] = ()) -> Books:
    """Read all books."""
    async with _opened(sources) as connections:
        order, inventory, payment = (connections[service] for service in SERVICES)
        return Books(
            waiting=await _waiting(connections),
            undelivered=await _undelivered(connections),
            holds=[hold for name, connection in connections.items() for hold in await _holds(name, connection)],
            orders=await _orders(order),
            payments=await _payments(payment),
            provider=await _provider(sources.provider),
            reservations=await _reservations(inventory),
            stocks=await _stocks(inventory),
            accepted=frozenset(accepted),
        )


async def _orders(connection: Any) -> dict[UUID, Order]:
    rows = await connection.fetch(
        """
        SELECT o.id, o.status, o.reason, o.total_amount, o.total_currency, s.status AS saga,
               coalesce(o.settled_at > now() - interval '6 days', true) AS remembered
        FROM orders o LEFT JOIN covey.saga s ON s.id = o.saga_id
        """
    )
    lines = await _quantities(connection, "SELECT order_id, product_id, quantity FROM order_line")
    events: dict[str, Counter[str]] = {}
    for row in await connection.fetch(
        "SELECT key, type, count(*) FROM covey.outbox WHERE kind = 'event' GROUP BY key, type"
    ):
        events.setdefault(row["key"], Counter())[row["type"]] = row["count"]
    return {
        row["id"]: Order(
            id=row["id"],
            status=row["status"],
            reason=row["reason"],
            total=row["total_amount"],
            currency=row["total_currency"],
            lines=lines.get(row["id"], {}),
            saga=row["saga"],
            remembered=row["remembered"],
            events=events.get(str(row["id"]), Counter()),
        )
        for row in rows
    }


async def _payments(connection: Any) -> dict[UUID, Money]:
    rows = await connection.fetch("SELECT order_id, authorized, captured, voided, refunded FROM payment")
    return {
        row["order_id"]: Money(
            authorized=row["authorized"],
            captured=row["captured"],
            voided=row["voided"],
            refunded=row["refunded"],
            captures=1 if row["captured"] else 0,
        )
        for row in rows
    }


async def _provider(url: str) -> dict[str, Money]:
    async with aiohttp.ClientSession(url) as http, http.get("/book") as response:
        entries = (await response.json())["entries"]
    sums: dict[str, Counter[str]] = {}
    for entry in entries:
        moved = sums.setdefault(entry["reference"], Counter())
        moved[entry["operation"]] += entry["done"]
        moved["captures"] += entry["operation"] == "capture" and entry["done"] > 0
    return {
        reference: Money(
            authorized=moved["authorize"],
            captured=moved["capture"],
            voided=moved["void"],
            refunded=moved["refund"],
            captures=moved["captures"],
        )
        for reference, moved in sums.items()
    }


async def _reservations(connection: Any) -> dict[UUID, Reservation]:
    lines = await _quantities(connection, "SELECT order_id, product_id, quantity FROM reservation_line")
    rows = await connection.fetch("SELECT order_id, status FROM reservation")
    return {row["order_id"]: Reservation(status=row["status"], lines=lines.get(row["order_id"], {})) for row in rows}


async def _stocks(connection: Any) -> dict[UUID, Stock]:
    rows = await connection.fetch("SELECT product_id, received, free, reserved, sold FROM stock")
    return {row.pop("product_id"): Stock(**row) for row in map(dict, rows)}


async def _quantities(connection: Any, query: str) -> dict[UUID, dict[UUID, int]]:
    quantities: dict[UUID, dict[UUID, int]] = {}
    for order_id, product_id, quantity in await connection.fetch(query):
        quantities.setdefault(order_id, {})[product_id] = quantity
    return quantities


async def _holds(service: str, connection: Any) -> list[Hold]:
    rows = await connection.fetch("SELECT key, state, error FROM covey.hold")
    return [Hold(service=service, **dict(row)) for row in rows]


async def _waiting(connections: dict[str, Any]) -> dict[str, int]:
    """Count what waits in each queue."""
    return {
        f"{service} {queue}": await connection.fetchval(f"SELECT count(*) FROM covey.{queue}")
        for service, connection in connections.items()
        for queue in ("outbox_pending", "inbox_pending", "inbox_held")
    }


async def _undelivered(connections: dict[str, Any]) -> dict[str, int]:
    """Count the messages of each type that were sent and have not reached the service that handles them."""
    received = {service: await _received(connection) for service, connection in connections.items()}
    missing: Counter[str] = Counter()
    for connection in connections.values():
        for row in await connection.fetch("SELECT id, type, kind, stream FROM covey.outbox"):
            target = SUBSCRIBERS.get(row["type"]) if row["kind"] == "event" else row["stream"]
            if target is not None and row["id"] not in received[target]:
                missing[row["type"]] += 1
    return dict(missing)


async def _received(connection: Any) -> set[UUID]:
    return {row["id"] for row in await connection.fetch("SELECT id FROM covey.inbox")}
