"""Killing a service in the middle of its work, for all to see."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Any
from uuid import UUID

import asyncpg

from covey.local.unit import Unit
from shop.client import ShopClient
from shop.waiting import until


class Killing:
    """Places orders, kills payment while it waits for the provider, and knows how long ago that was."""

    def __init__(self, client: ShopClient, payment: Unit, database_url: str) -> None:
        self._client = client
        self._payment = payment
        self._database_url = database_url
        self._orders: list[UUID] = []
        self._killed_at = 0.0

    async def place(self, orders: Iterable[dict[str, Any]]) -> list[UUID]:
        """Place orders, all at once, and return their ids."""
        placed = await asyncio.gather(*(self._client.place(order) for order in orders))
        self._orders = [one.id for one in placed]
        return self._orders

    async def asked(self, within_seconds: float = 10.0) -> int:
        """Wait until the provider has been asked and has not answered; return of how many orders that is so.

        Raises DeadlineExceeded.
        """
        connection = await asyncpg.connect(self._database_url)

        async def unanswered() -> int:
            return int(await connection.fetchval("SELECT count(*) FROM operation WHERE answered_at IS NULL"))

        try:
            return await until(unanswered, within_seconds, "payment has asked the provider nothing")
        finally:
            await connection.close()

    async def kill(self) -> int:
        """Kill payment with SIGKILL; return how many orders wait now."""
        self._killed_at = time.perf_counter()
        await self._payment.kill()
        orders = await asyncio.gather(*(self._client.order(order_id) for order_id in self._orders))
        return sum(order["status"] == "pending" for order in orders)

    def since_kill(self) -> float:
        """Return the seconds since then."""
        return time.perf_counter() - self._killed_at
