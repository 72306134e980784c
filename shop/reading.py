"""One reading of all books: straight from the databases, past the services' code, and from those outside.

An auditor does not ask those whom it audits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from uuid import UUID

import aiohttp
import asyncpg

from shop.books import (
    SERVICES,
    SUBSCRIBERS,
    Books,
    Carried,
    Confirmation,
    Hold,
    Invoice,
    Letter,
    Money,
    Order,
    Refund,
    Reservation,
    Return,
    Sources,
    Stock,
    User,
)


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
        order, inventory, payment, shipping, user, notification = (connections[service] for service in SERVICES)
        return Books(
            waiting=await _waiting(connections),
            undelivered=await _undelivered(connections),
            holds=[hold for name, connection in connections.items() for hold in await _holds(name, connection)],
            orders=await _orders(order),
            payments=await _payments(payment),
            provider=moved(await entries_of(sources.provider)),
            reservations=await _reservations(inventory),
            stocks=await _stocks(inventory),
            shipments=dict(await shipping.fetch("SELECT order_id, progress FROM shipment")),
            carrier=carried(await entries_of(sources.carrier)),
            returns=await returns(order),
            goods=await goods(shipping),
            refunds=await refunds(payment),
            restocks=await restocks(inventory),
            invoices=await invoices(payment),
            users=await users(user),
            recipients=await recipients(notification),
            confirmations=await confirmations(notification),
            letters=arrived(await mails_of(sources.mail)),
            accepted=frozenset(accepted),
        )


async def _orders(connection: Any) -> dict[UUID, Order]:
    rows = await connection.fetch(
        """
        SELECT o.id, o.user_id, o.status, o.reason, o.total_amount, o.total_currency, s.status AS saga, s.version,
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
            user_id=row["user_id"],
            status=row["status"],
            reason=row["reason"],
            total=row["total_amount"],
            currency=row["total_currency"],
            lines=lines.get(row["id"], {}),
            saga=row["saga"],
            shipped=row["version"] != 1,
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


async def entries_of(url: str) -> list[dict[str, Any]]:
    """Return all entries of the book of the provider or the carrier."""
    async with aiohttp.ClientSession(url) as http, http.get("/book") as response:
        entries: list[dict[str, Any]] = (await response.json())["entries"]
    return entries


async def mails_of(url: str) -> list[dict[str, Any]]:
    """Return all mails that the mail server has taken."""
    async with aiohttp.ClientSession(url) as http, http.get("/mails") as response:
        mails: list[dict[str, Any]] = (await response.json())["mails"]
    return mails


def moved(entries: Iterable[dict[str, Any]]) -> dict[str, Money]:
    """Add up the entries of the provider's book by reference."""
    sums: dict[str, Counter[str]] = {}
    for entry in entries:
        of_one = sums.setdefault(entry["reference"], Counter())
        of_one[entry["operation"]] += entry["done"]
        of_one["captures"] += entry["operation"] == "capture" and entry["done"] > 0
    return {
        reference: Money(
            authorized=of_one["authorize"],
            captured=of_one["capture"],
            voided=of_one["void"],
            refunded=of_one["refund"],
            captures=of_one["captures"],
        )
        for reference, of_one in sums.items()
    }


def carried(entries: Iterable[dict[str, Any]]) -> dict[str, Carried]:
    """Add up the entries of the carrier's book by order."""
    sums: dict[str, Counter[str]] = {}
    for entry in (entry for entry in entries if entry["pieces"]):
        sign = 1 if entry["operation"] == "book" else -1
        of_one = sums.setdefault(entry["order"], Counter())
        of_one[entry["kind"]] += sign * entry["pieces"]
        of_one["parcels"] += sign if entry["kind"] == "shipment" else 0
    return {
        order: Carried(shipments=of_one["parcels"], shipped=of_one["shipment"], returned=of_one["return"])
        for order, of_one in sums.items()
    }


def arrived(mails: Iterable[dict[str, Any]]) -> dict[str, list[Letter]]:
    """Put the mails that the mail server has taken in order, by what they are about."""
    letters: dict[str, list[Letter]] = {}
    for mail in mails:
        sent_as = mail["message_id"].strip("<>").partition("@")[0]
        letters.setdefault(mail["order"], []).append(Letter(sent_as=sent_as, to=", ".join(mail["to"])))
    return letters


async def returns(connection: Any, order_id: UUID | None = None) -> dict[UUID, Return]:
    """Return the returns that order knows, of one order or of all."""
    rows = await connection.fetch(
        """
        SELECT r.id, r.order_id, r.status, r.amount, s.status AS saga
        FROM order_return r LEFT JOIN covey.saga s ON s.id = r.id WHERE $1::uuid IS NULL OR r.order_id = $1
        """,
        order_id,
    )
    lines = await _quantities(connection, "SELECT return_id, product_id, quantity FROM order_return_line")
    return {row["id"]: Return(**_without_id(row), lines=lines.get(row["id"], {})) for row in rows}


async def goods(connection: Any, order_id: UUID | None = None) -> dict[UUID, Return]:
    """Return the returns that shipping knows, of one order or of all."""
    rows = await connection.fetch(
        "SELECT id, order_id, status FROM goods_return WHERE $1::uuid IS NULL OR order_id = $1", order_id
    )
    lines = await _quantities(connection, "SELECT return_id, product_id, quantity FROM goods_return_line")
    return {row["id"]: Return(**_without_id(row), lines=lines.get(row["id"], {})) for row in rows}


async def restocks(connection: Any, order_id: UUID | None = None) -> dict[UUID, Return]:
    """Return the returns that inventory has restocked, of one order or of all."""
    rows = await connection.fetch(
        "SELECT return_id AS id, order_id FROM restock WHERE $1::uuid IS NULL OR order_id = $1", order_id
    )
    lines = await _quantities(connection, "SELECT return_id, product_id, quantity FROM restock_line")
    return {row["id"]: Return(**_without_id(row), lines=lines.get(row["id"], {})) for row in rows}


async def refunds(connection: Any, order_id: UUID | None = None) -> dict[UUID, Refund]:
    """Return the refunds that payment knows, of one order or of all."""
    rows = await connection.fetch(
        """
        SELECT r.id, p.order_id, r.amount, r.status FROM refund r JOIN payment p ON p.id = r.payment_id
        WHERE $1::uuid IS NULL OR p.order_id = $1
        """,
        order_id,
    )
    return {row["id"]: Refund(**_without_id(row)) for row in rows}


async def invoices(connection: Any, order_id: UUID | None = None) -> dict[UUID, Invoice]:
    """Return the invoice of one order, or those of all."""
    rows = await connection.fetch(
        """
        SELECT i.order_id, i.amount, coalesce(sum(n.amount), 0)::bigint AS credited
        FROM invoice i LEFT JOIN credit_note n ON n.invoice_id = i.id
        WHERE $1::uuid IS NULL OR i.order_id = $1 GROUP BY i.id
        """,
        order_id,
    )
    return {row["order_id"]: Invoice(amount=row["amount"], credited=row["credited"]) for row in rows}


async def users(connection: Any, user_id: UUID | None = None) -> dict[UUID, User]:
    """Return one user as the user service has them, or all."""
    return await _users(connection, "account", "email", "order_mail", user_id)


async def recipients(connection: Any, user_id: UUID | None = None) -> dict[UUID, User]:
    """Return one user as notification has them, or all."""
    return await _users(connection, "recipient", "address", "wants_order_mail", user_id)


async def _users(connection: Any, table: str, address: str, wants: str, user_id: UUID | None) -> dict[UUID, User]:
    query = f"SELECT id, version, {address} AS address, {wants} AS wants_order_mail FROM {table}"
    rows = await connection.fetch(f"{query} WHERE $1::uuid IS NULL OR id = $1", user_id)
    return {row["id"]: User(**_without_id(row)) for row in rows}


async def confirmations(connection: Any, order_id: UUID | None = None) -> dict[UUID, list[Confirmation]]:
    """Return the mails about one order that notification knows, or about all."""
    rows = await connection.fetch(
        "SELECT order_id, id, status, reason, attempts FROM mail WHERE $1::uuid IS NULL OR order_id = $1", order_id
    )
    found: dict[UUID, list[Confirmation]] = {}
    for row in map(dict, rows):
        found.setdefault(row.pop("order_id"), []).append(Confirmation(**row))
    return found


async def _reservations(connection: Any) -> dict[UUID, Reservation]:
    lines = await _quantities(connection, "SELECT order_id, product_id, quantity FROM reservation_line")
    back = await _quantities(
        connection, "SELECT order_id, product_id, restocked FROM reservation_line WHERE restocked > 0"
    )
    return {
        order_id: Reservation(status=status, lines=lines.get(order_id, {}), restocked=back.get(order_id, {}))
        for order_id, status in await connection.fetch("SELECT order_id, status FROM reservation")
    }


async def _stocks(connection: Any) -> dict[UUID, Stock]:
    rows = await connection.fetch("SELECT product_id, received, free, reserved, sold FROM stock")
    return {row.pop("product_id"): Stock(**row) for row in map(dict, rows)}


async def _quantities(connection: Any, query: str) -> dict[UUID, dict[UUID, int]]:
    quantities: dict[UUID, dict[UUID, int]] = {}
    for key, product_id, quantity in await connection.fetch(query):
        quantities.setdefault(key, {})[product_id] = quantity
    return quantities


def _without_id(row: Any) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "id"}


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
