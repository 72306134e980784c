"""Customers of the shop in bad times: they order, cancel and look, and ask again when no answer comes.

They ask as a good client does: any replica, an answer within seconds or none, and the same idempotency key for the same
wish, however often it takes. What they were promised is written down: the shop is held to it.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar
from uuid import UUID

from covey.errors import DependencyUnavailable
from covey.ids import new_id
from covey.testing.drill.drilled import Notes
from shop.client import ShopClient, Unexpected, order_of

T = TypeVar("T")

ATTEMPT_SECONDS = 3.0
_PATIENCE_SECONDS = 90.0
_PAUSE_SECONDS = (0.2, 1.0)
_IN_PROGRESS = 409

_TOKENS = {
    "tok_ok": 72,
    "tok_declined": 6,
    "tok_capture_declined": 4,
    "tok_slow": 4,
    "tok_timeout_after_capture": 4,
    "tok_down_3": 3,
    "tok_timeout_after_charge": 2,
    "tok_lies": 2,
    "tok_lies_capture": 2,
    "tok_late": 1,
}
_READS, _CANCELS, _REPEATS, _SCARCE, _STRANGERS = 0.15, 0.1, 0.05, 0.05, 0.05
"""The share of arrivals that only look at an order; of orders that are cancelled, submitted twice, for what is gone,
and of somebody without an account."""


@dataclass(frozen=True)
class Range:
    """What there is to buy, plenty of most and of one thing hardly any, and who has an account."""

    plenty: Sequence[UUID]
    scarce: UUID
    users: Sequence[UUID]


@dataclass
class Promises:
    """What customers were promised, and what they were told that they should not have been."""

    accepted: list[UUID] = field(default_factory=list)
    submitted: Counter[UUID] = field(default_factory=Counter)
    cancelled: set[UUID] = field(default_factory=set)
    broken: list[str] = field(default_factory=list)


class Customers:
    """Everybody who comes to the shop. `clients` are one for each replica that they may ask."""

    def __init__(self, clients: Sequence[ShopClient], offered: Range) -> None:
        self.promises = Promises()
        self._clients = clients
        self._offered = offered

    async def arrive(self, chance: random.Random, notes: Notes) -> None:
        """Be one customer: look at an order, or place one and perhaps cancel it."""
        known = self.promises.accepted
        visit = _Visit(self._clients, self.promises, chance, notes)
        if chance.random() < _READS and known:
            await visit.look(known[int(len(known) * chance.random())])
            return
        order_id = await visit.place(self._basket(chance), twice=chance.random() < _REPEATS)
        if order_id is not None and chance.random() < _CANCELS:
            await asyncio.sleep(chance.uniform(0, 1.0))
            await visit.cancel(order_id)

    def _basket(self, chance: random.Random) -> dict[str, Any]:
        if chance.random() < _SCARCE:
            lines = {self._offered.scarce: chance.randint(20, 60), chance.choice(self._offered.plenty): 1}
        else:
            products = chance.sample(list(self._offered.plenty), chance.randint(1, 3))
            lines = {product: chance.randint(1, 3) for product in products}
        (token,) = chance.choices(list(_TOKENS), weights=list(_TOKENS.values()))
        return order_of(lines, token, None if chance.random() < _STRANGERS else chance.choice(self._offered.users))


@dataclass(frozen=True)
class _Visit:
    """What one customer does."""

    clients: Sequence[ShopClient]
    promises: Promises
    chance: random.Random
    notes: Notes

    async def place(self, order: Mapping[str, Any], *, twice: bool) -> UUID | None:
        """Place an order; return its id, None when no answer came in time."""
        self.promises.submitted[UUID(order["user_id"])] += 1
        key, began = str(new_id()), time.perf_counter()
        placed = await self._insist(lambda client: client.place(order, key), {_IN_PROGRESS})
        if placed is None:
            return None
        self.promises.accepted.append(placed.id)
        self.notes.accepted(time.perf_counter() - began)
        if twice:
            again = await self._insist(lambda client: client.place(order, key), {_IN_PROGRESS})
            if again is not None and again.id != placed.id:
                self.promises.broken.append(f"one submission made two orders, {placed.id} and {again.id}")
        return placed.id

    async def cancel(self, order_id: UUID) -> None:
        """Cancel an order, unless it is too late for that."""

        async def cancelled(client: ShopClient) -> bool:
            try:
                await client.cancel(order_id, "changed their mind")
            except Unexpected as answer:
                if answer.status != 409:
                    raise
                return False
            self.promises.cancelled.add(order_id)
            return True

        await self._insist(cancelled)

    async def look(self, order_id: UUID) -> None:
        """Look at an order that was accepted: it is there."""
        await self._insist(lambda client: client.order(order_id))

    async def _insist(
        self, ask: Callable[[ShopClient], Awaitable[T]], again_at: frozenset[int] | set[int] = frozenset()
    ) -> T | None:
        """Ask until there is an answer. An answer that blames the customer, who did nothing wrong, breaks a promise."""
        until = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < until:
            try:
                return await ask(self.chance.choice(self.clients))
            except DependencyUnavailable as error:
                self.notes.failed(_kind(error))
            except Unexpected as answer:
                self.notes.failed(str(answer.status))
                if answer.status < 500 and answer.status not in again_at:
                    self.promises.broken.append(f"a customer who did nothing wrong was told {answer}")
                    return None
            await asyncio.sleep(self.chance.uniform(*_PAUSE_SECONDS))
        self.notes.given_up()
        return None


def _kind(error: DependencyUnavailable) -> str:
    match type(error.__cause__).__name__:
        case "ClientConnectorError":
            return "refused"
        case name if "Timeout" in name:
            return "no answer"
        case _:
            return "cut off"
