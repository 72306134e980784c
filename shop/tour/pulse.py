"""How the shop is doing at this moment: orders by state, and what waits for which service. One line, read often."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from covey.clock import Clock, SystemClock
from covey.database.errors import DRIVER_ERRORS
from shop.books import SUBSCRIBERS

# A transport that is cut in the middle of an answer can end in any of these.
UNREACHABLE = (OSError, *DRIVER_ERRORS)

_STATUSES = ("pending", "confirmed", "rejected", "cancelled")
_FRESH_SECONDS = 0.25
_PATIENCE_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True)
class Pulse:
    """Orders by status, and how many messages each service has been sent and has not handled."""

    orders: Mapping[str, int] = field(default_factory=dict)
    waiting: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        known = dict.fromkeys(_STATUSES, 0) | dict(self.orders)
        orders = ", ".join(f"{count} {status}" for status, count in known.items() if count) or "none"
        waiting = ", ".join(f"{count} for {service}" for service, count in self.waiting.items() if count)
        return f"messages waiting: {waiting or 'none'} · orders: {orders}"


class Gauge:
    """Takes the pulse from the databases, with a connection to each that is made anew when it was lost.

    It counts messages since `since`: a shop that was used before has many, long handled.
    """

    def __init__(self, databases: Mapping[str, str], since: datetime, clock: Clock | None = None) -> None:
        self._databases = databases
        self._since = since
        self._clock = clock or SystemClock()
        self._connections: dict[str, Any] = {}
        self._pulse: Pulse | None = None
        self._read_at = float("-inf")

    async def read(self) -> Pulse | None:
        """Return the pulse, a quarter of a second old at most; None while a database does not answer."""
        if self._clock.monotonic() - self._read_at >= _FRESH_SECONDS:
            try:
                async with asyncio.timeout(_PATIENCE_SECONDS):
                    self._pulse = await self._taken()
            except UNREACHABLE:
                self._pulse = None
                self.close()
            self._read_at = self._clock.monotonic()
        return self._pulse

    def close(self) -> None:
        """Give up the connections."""
        for connection in self._connections.values():
            with suppress(*UNREACHABLE):
                connection.terminate()
        self._connections.clear()

    async def _taken(self) -> Pulse:
        for service, url in self._databases.items():
            if service not in self._connections:
                self._connections[service] = await asyncpg.connect(url)
        rows = await self._connections["order"].fetch(
            "SELECT status, count(*) FROM orders WHERE placed_at >= $1 GROUP BY status", self._since
        )
        unhandled = {service: await _unhandled(connection) for service, connection in self._connections.items()}
        return Pulse(orders=dict(rows), waiting=Counter(unhandled) + await self._undelivered())

    async def _undelivered(self) -> Counter[str]:
        """Count what was sent to each service and is not in its inbox, wherever it is."""
        received: dict[str, set[UUID]] = {}
        for service, connection in self._connections.items():
            rows = await connection.fetch("SELECT id FROM covey.inbox WHERE received_at >= $1", self._since)
            received[service] = {row["id"] for row in rows}
        waiting: Counter[str] = Counter()
        for connection in self._connections.values():
            query = "SELECT id, type, kind, stream FROM covey.outbox WHERE created_at >= $1"
            for row in await connection.fetch(query, self._since):
                target = SUBSCRIBERS.get(row["type"]) if row["kind"] == "event" else row["stream"]
                if target in received and row["id"] not in received[target]:
                    waiting[target] += 1
        return waiting


async def _unhandled(connection: Any) -> int:
    query = "SELECT (SELECT count(*) FROM covey.inbox_pending) + (SELECT count(*) FROM covey.inbox_held)"
    return int(await connection.fetchval(query))
