"""What the databases say about one order: what is unfinished, what it has come to, whether its books are right.

Cheap enough to be asked after every kill: by key, on connections that stay open.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import aiohttp
import asyncpg

from shop.books import SERVICES, SUBSCRIBERS, Books, Hold, Money, Order, Reservation, Sources
from shop.reading import (
    arrived,
    carried,
    confirmations,
    goods,
    invoices,
    moved,
    recipients,
    refunds,
    restocks,
    returns,
    users,
)
from shop.rules import findings

_QUEUES = ("outbox_pending", "inbox_pending", "inbox_held")
_STANDING = f"""
SELECT {", ".join(f"(SELECT count(*) FROM covey.{queue}) AS {queue}" for queue in _QUEUES)},
       ARRAY(SELECT ROW (id, type, kind, stream) FROM covey.outbox WHERE key = ANY ($1)) AS sent,
       ARRAY(SELECT id FROM covey.inbox WHERE key = ANY ($1)) AS received
"""


@dataclass(frozen=True, slots=True)
class Found:
    """An order as the order service has it. `returns` are the statuses of its returns."""

    id: UUID
    user_id: UUID
    saga_id: UUID
    status: str
    reason: str | None
    returns: Mapping[UUID, str]

    @property
    def sagas(self) -> list[UUID]:
        """Return the ids of all sagas about it; a return and its saga have the same."""
        return [self.saga_id, *self.returns]

    @property
    def keys(self) -> list[str]:
        """Return the keys of all messages about it, and about its user."""
        return [str(self.id), str(self.user_id), *map(str, self.sagas)]


class Ledger:
    """Reads the books of one shop."""

    def __init__(
        self,
        pools: Mapping[str, Any],
        provider: aiohttp.ClientSession,
        carrier: aiohttp.ClientSession,
        mail: aiohttp.ClientSession,
    ) -> None:
        self.pools = pools
        self._provider = provider
        self._carrier = carrier
        self._mail = mail

    @classmethod
    @asynccontextmanager
    async def open(cls, sources: Sources) -> AsyncIterator[Ledger]:
        """Connect to the databases and to those outside for the length of a block."""
        async with AsyncExitStack() as stack:
            pools = {}
            for service in SERVICES:
                pool = asyncpg.create_pool(sources.databases[service], min_size=1, max_size=2, reset=_as_it_is)
                pools[service] = await stack.enter_async_context(pool)
            outside = [
                await stack.enter_async_context(aiohttp.ClientSession(url))
                for url in (sources.provider, sources.carrier, sources.mail)
            ]
            yield cls(pools, *outside)

    async def knows(self, user_id: UUID, version: int) -> bool:
        """Tell whether notification has heard of a user as they are since this version."""
        found: bool = await self.pools["notification"].fetchval(
            "SELECT EXISTS (SELECT FROM recipient WHERE id = $1 AND version >= $2)", user_id, version
        )
        return found

    async def order_of(self, user_id: UUID | None) -> Found | None:
        """Return the order of a user who has placed one. Raises AssertionError when there are two."""
        rows = await self.pools["order"].fetch(
            "SELECT id, user_id, saga_id, status, reason FROM orders WHERE user_id = $1", user_id
        )
        assert len(rows) <= 1, f"one submission has made {len(rows)} orders"
        if not rows:
            return None
        returns = await self.pools["order"].fetch(
            "SELECT id, status FROM order_return WHERE order_id = $1", rows[0]["id"]
        )
        return Found(*rows[0], dict(returns))

    async def unfinished(self, user_id: UUID | None) -> list[str]:
        """Return what is still to be done, in words: nothing when all is at rest.

        Each service is read in one statement, all at about the same time. That misses nothing: a service of which
        nothing was left can only have begun again with a message, and one that was sent before its sender was read is
        seen to be on its way; the first that was sent after that would have had nothing to cause it.
        """
        order = await self.order_of(user_id)
        standing = await self._in_each(_STANDING, order.keys if order else [])
        left = [f"{kind} is on its way" for kind in _on_their_way(standing)] + _queued(standing)
        if order is not None:
            if order.status == "pending":
                left.append("the order is pending")
            if await self.pools["order"].fetchval(
                "SELECT EXISTS (SELECT FROM covey.saga WHERE id = ANY ($1) AND ended_at IS NULL)", order.sagas
            ):
                left.append("a saga has not ended")
        return left

    async def is_idle(self) -> bool:
        """Tell whether nothing waits in any queue."""
        return not _queued(await self._in_each(_STANDING, []))

    async def at_rest(self, user_id: UUID | None) -> bool:
        """Tell whether nothing is left to be done, as two readings say one after the other. Cheap while it is not."""
        order = await self.order_of(user_id)
        if order is None or order.status == "pending":
            return False
        return not await self.unfinished(user_id) and not await self.unfinished(user_id)

    async def violations(self, order: Found) -> list[str]:
        """Audit one order that is at rest, by the auditor's rules; sums over all orders are left to the full audit."""
        found = findings(await self._books(order))
        return [violation for violations in found.values() for violation in violations]

    async def booked(self, reference: str) -> list[dict[str, Any]]:
        """Return what the provider has booked under a reference."""
        return await _entries(self._provider, reference=reference)

    async def parcels(self, order_id: str) -> list[dict[str, Any]]:
        """Return what the carrier has booked for an order."""
        return await _entries(self._carrier, order=order_id)

    async def letters(self, order_id: str) -> list[dict[str, Any]]:
        """Return the mails about an order that the mail server has taken."""
        async with self._mail.get("/mails", params={"order": order_id}) as response:
            mails: list[dict[str, Any]] = (await response.json())["mails"]
        return mails

    async def mails(self, order: Found) -> list[str]:
        """Return what has become of the mails about an order, as notification has it."""
        rows = await self.pools["notification"].fetch("SELECT status FROM mail WHERE order_id = $1", order.id)
        return [row["status"] for row in rows]

    async def tell_carrier(self, mode: str, calls: int, kind: str | None = None) -> None:
        """Have the carrier behave in this way when it is next asked to carry something: of any kind, or of this."""
        await _tell(self._carrier, mode, calls, operation="book", kind=kind)

    async def tell_mail_server(self, mode: str, calls: int | None = None) -> None:
        """Have the mail server behave in this way, from now on or in its next calls."""
        await _tell(self._mail, mode, calls)

    async def let_time_pass(self, order: Found) -> None:
        """Move the deadlines of an order's present step to now, as if so much time had passed."""
        await self.pools["order"].execute(
            "UPDATE covey.saga SET deadline = clock_timestamp() WHERE id = $1 AND deadline IS NOT NULL", order.saga_id
        )
        for service in ("inventory", "payment"):
            await self.pools[service].execute(
                "UPDATE covey.inbox SET deadline = clock_timestamp() WHERE key = $1 AND deadline > clock_timestamp()",
                str(order.saga_id),
            )

    async def is_to_be_voided(self, order: Found) -> bool:
        """Tell whether payment has been told to give up what is put aside for an order."""
        found: bool = await self.pools["payment"].fetchval(
            "SELECT EXISTS (SELECT FROM covey.inbox WHERE key = $1 AND type = 'payment.void.v1')", str(order.saga_id)
        )
        return found

    async def give_up_on_addresses(self) -> None:
        """Let the time be over that mails wait for an address, of those that wait for one now."""
        await self.pools["notification"].execute(
            "UPDATE mail SET asked_at = asked_at - interval '1 hour' WHERE status = 'waiting'"
        )

    async def _in_each(self, sql: str, *arguments: object) -> list[list[Any]]:
        return list(await asyncio.gather(*(self.pools[service].fetch(sql, *arguments) for service in SERVICES)))

    async def _books(self, found: Found) -> Books:
        order, payment, reservation, events, holds, provider, carrier, mail, shipments = await asyncio.gather(
            self._order(found), self._payment(found), self._reservation(found), self._events(found), self._holds(found),
            self.booked(str(found.id)), self.parcels(str(found.id)), self.letters(str(found.id)),
            self.pools["shipping"].fetch("SELECT order_id, progress FROM shipment WHERE order_id = $1", found.id),
        )  # fmt: skip
        order.events.update(events)
        return Books(
            orders={found.id: order},
            payments=payment,
            provider=moved(provider),
            carrier=carried(carrier),
            shipments=dict(shipments),
            returns=await returns(self.pools["order"], found.id),
            goods=await goods(self.pools["shipping"], found.id),
            refunds=await refunds(self.pools["payment"], found.id),
            restocks=await restocks(self.pools["inventory"], found.id),
            invoices=await invoices(self.pools["payment"], found.id),
            users=await users(self.pools["user"], found.user_id),
            recipients=await recipients(self.pools["notification"], found.user_id),
            confirmations=await confirmations(self.pools["notification"], found.id),
            letters=arrived(mail),
            reservations=reservation,
            stocks={},
            waiting={},
            holds=holds,
            undelivered=Counter(_on_their_way(await self._in_each(_STANDING, found.keys))),
            accepted=frozenset({found.id}),
        )

    async def _order(self, found: Found) -> Order:
        pool = self.pools["order"]
        row = await pool.fetchrow(
            """
            SELECT o.status, o.reason, o.total_amount, o.total_currency, s.status AS saga
            FROM orders o LEFT JOIN covey.saga s ON s.id = o.saga_id WHERE o.id = $1
            """,
            found.id,
        )
        lines = await pool.fetch("SELECT product_id, quantity FROM order_line WHERE order_id = $1", found.id)
        return Order(
            id=found.id,
            user_id=found.user_id,
            status=row["status"],
            reason=row["reason"],
            total=row["total_amount"],
            currency=row["total_currency"],
            lines=dict(lines),
            saga=row["saga"],
        )

    async def _payment(self, found: Found) -> dict[UUID, Money]:
        rows = await self.pools["payment"].fetch(
            "SELECT authorized, captured, voided, refunded FROM payment WHERE order_id = $1", found.id
        )
        return {found.id: Money(**dict(rows[0]), captures=1 if rows[0]["captured"] else 0)} if rows else {}

    async def _reservation(self, found: Found) -> dict[UUID, Reservation]:
        pool = self.pools["inventory"]
        status = await pool.fetchval("SELECT status FROM reservation WHERE order_id = $1", found.id)
        query = "SELECT product_id, quantity, restocked FROM reservation_line WHERE order_id = $1"
        rows = await pool.fetch(query, found.id)
        lines = {row["product_id"]: row["quantity"] for row in rows}
        restocked = {row["product_id"]: row["restocked"] for row in rows if row["restocked"]}
        return {found.id: Reservation(status=status, lines=lines, restocked=restocked)} if status else {}

    async def _events(self, found: Found) -> dict[str, int]:
        rows = await self.pools["order"].fetch(
            "SELECT type, count(*)::int FROM covey.outbox WHERE key = $1 AND kind = 'event' GROUP BY type",
            str(found.id),
        )
        return dict(rows)

    async def _holds(self, found: Found) -> list[Hold]:
        rows = await self._in_each("SELECT key, state, error FROM covey.hold WHERE key = ANY ($1)", found.keys)
        return [Hold(service=name, **dict(row)) for name, of_it in zip(SERVICES, rows, strict=True) for row in of_it]


def _queued(standing: list[list[Any]]) -> list[str]:
    """Return what waits in the queues, of all services as they were read."""
    return [
        f"{found[queue]} in {service} {queue}"
        for service, (found,) in zip(SERVICES, standing, strict=True)
        for queue in _QUEUES
        if found[queue]
    ]


def _on_their_way(standing: list[list[Any]]) -> list[str]:
    """Return the types of the messages that were sent and have not been received."""
    known = {service: set(found["received"]) for service, (found,) in zip(SERVICES, standing, strict=True)}
    missing = []
    for message_id, message_type, kind, stream in (sent for (found,) in standing for sent in found["sent"]):
        target = SUBSCRIBERS.get(message_type) if kind == "event" else stream
        if target is not None and message_id not in known[target]:
            missing.append(message_type)
    return missing


async def _as_it_is(_: object) -> None:
    """Give a connection back without the round trip that resets it: it is only read from."""


async def _tell(http: aiohttp.ClientSession, mode: str, calls: int | None, **about: str | None) -> None:
    async with http.put("/admin/mode", json={"mode": mode, "calls": calls, **about}) as response:
        assert response.status == 204


async def _entries(http: aiohttp.ClientSession, **query: str) -> list[dict[str, Any]]:
    async with http.get("/book", params=query) as response:
        entries: list[dict[str, Any]] = (await response.json())["entries"]
    return entries
