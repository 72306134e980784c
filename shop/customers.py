"""Customers of the shop in bad times: they order, cancel, return, look and move, and ask again when no answer comes.

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
_IN_PROGRESS, _CHANGED_SINCE = 409, 412

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
_CANCELS, _RETURNS, _REPEATS, _SCARCE, _STRANGERS = 0.1, 0.06, 0.05, 0.05, 0.05
"""The share of orders that are cancelled, returned, submitted twice, for what is gone, and of somebody without an
account."""
_LOOKS, _HISTORIES, _LISTS, _CHANGES = 0.08, 0.04, 0.04, 0.02
"""How many look at an order, at its history, at a list, and change their account, for each order that is placed."""


@dataclass(frozen=True)
class Range:
    """What there is to buy, plenty of most and of one thing hardly any, and who has an account.

    Only some `restless` ones change theirs: of the others it is known what mail they wanted at any time, and where.
    """

    plenty: Sequence[UUID]
    scarce: UUID
    users: Sequence[UUID]
    restless: Sequence[UUID]


@dataclass
class Promises:
    """What customers were promised, and what they were told that they should not have been.

    `versions` are the last ones that users were told of after a change of theirs.
    """

    accepted: list[UUID] = field(default_factory=list)
    submitted: Counter[UUID] = field(default_factory=Counter)
    cancelled: set[UUID] = field(default_factory=set)
    returned: set[UUID] = field(default_factory=set)
    versions: dict[UUID, int] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)


class Customers:
    """Everybody who comes to the shop. `clients` are one for each replica that they may ask."""

    def __init__(self, clients: Sequence[ShopClient], offered: Range) -> None:
        self.promises = Promises()
        self._clients = clients
        self._offered = offered

    async def arrive(self, chance: random.Random, notes: Notes) -> None:
        """Be one customer, who places an order, and perhaps another, who does something else at the same time."""
        order = self._basket(chance)
        wishes = _Wishes.drawn(chance)
        other = random.Random(chance.getrandbits(64))  # else what this one wants would hang on how often the first asks
        async with asyncio.TaskGroup() as group:
            group.create_task(_Visit(self._clients, self.promises, chance, notes).buy(order, wishes))
            group.create_task(self._errand(other, _Visit(self._clients, self.promises, other, notes)))

    async def _errand(self, chance: random.Random, visit: _Visit) -> None:
        known = self.promises.accepted
        wish, order_id = chance.random(), known[int(len(known) * chance.random())] if known else None
        if (wish := wish - _CHANGES) < 0:
            await visit.change_account(chance.choice(self._offered.restless))
        elif order_id is None:
            return
        elif (wish := wish - _LOOKS) < 0:
            await visit.look("order", f"/orders/{order_id}")
        elif (wish := wish - _HISTORIES) < 0:
            await visit.look("order", f"/orders/{order_id}/history")
        elif wish < _LISTS:
            mails = ("notification", f"/notifications?order_id={order_id}")
            await visit.look(*chance.choice([mails, ("inventory", "/products?limit=20")]))

    def _basket(self, chance: random.Random) -> dict[str, Any]:
        if chance.random() < _SCARCE:
            lines = {self._offered.scarce: chance.randint(20, 60), chance.choice(self._offered.plenty): 1}
        else:
            products = chance.sample(list(self._offered.plenty), chance.randint(1, 3))
            lines = {product: chance.randint(1, 3) for product in products}
        (token,) = chance.choices(list(_TOKENS), weights=list(_TOKENS.values()))
        return order_of(lines, token, None if chance.random() < _STRANGERS else chance.choice(self._offered.users))


@dataclass(frozen=True, kw_only=True)
class _Wishes:
    """What becomes of an order as far as the customer has a say in it; drawn at once, so that it is the seed's."""

    twice: bool
    cancel_after: float | None
    give_back: bool
    """All of it or a part, once it is confirmed."""
    in_part: bool

    @classmethod
    def drawn(cls, chance: random.Random) -> _Wishes:
        """Draw them. Who cancels has nothing to give back."""
        twice, ending, after = chance.random() < _REPEATS, chance.random(), chance.uniform(0, 1.0)
        return cls(
            twice=twice,
            cancel_after=after if ending < _CANCELS else None,
            give_back=_CANCELS <= ending < _CANCELS + _RETURNS,
            in_part=chance.random() < 0.5,
        )


@dataclass(frozen=True)
class _Visit:
    """What one customer does."""

    clients: Sequence[ShopClient]
    promises: Promises
    chance: random.Random
    notes: Notes

    async def buy(self, order: Mapping[str, Any], wishes: _Wishes) -> None:
        """Place an order, and do with it what one wishes."""
        order_id = await self.place(order, twice=wishes.twice)
        if order_id is None:
            return
        if wishes.cancel_after is not None:
            await asyncio.sleep(wishes.cancel_after)
            await self.cancel(order_id)
        elif wishes.give_back:
            first, *_ = order["lines"]
            await self.give_back(order_id, {UUID(first["product_id"]): 1} if wishes.in_part else None)

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

    async def give_back(self, order_id: UUID, lines: Mapping[UUID, int] | None) -> None:
        """Return pieces of an order, or all of it, as soon as it is confirmed; nobody else returns any."""
        until = time.monotonic() + _PATIENCE_SECONDS
        status = "pending"
        while status == "pending" and time.monotonic() < until:
            await asyncio.sleep(self.chance.uniform(*_PAUSE_SECONDS))
            order = await self._insist(lambda client: client.order(order_id))
            status = order["status"] if order else "pending"
        if status == "confirmed":
            key = str(new_id())
            returned = await self._insist(lambda client: client.return_goods(order_id, lines, key), {_IN_PROGRESS})
            self.promises.returned.update([returned] if returned else [])

    async def change_account(self, user_id: UUID) -> None:
        """Move, or want mail from now on, or none. Another who changes the same account may come first."""
        changes: list[tuple[str, dict[str, Any]]] = [
            (f"/users/{user_id}", {"email": f"ada+{new_id()}@example.org"}),
            (f"/users/{user_id}/preferences", {"order_mail": self.chance.random() < 0.5}),
        ]
        account, change = self.chance.choice(changes)
        key, before = str(new_id()), await self._insist(lambda client: client.get("user", account))
        if before is None:
            return

        async def changed(client: ShopClient) -> None:
            try:
                version = await client.change(account, before["version"], change, key)
            except Unexpected as answer:
                if answer.status != _CHANGED_SINCE:
                    raise
                return
            self.promises.versions[user_id] = max(version, self.promises.versions.get(user_id, 0))

        await self._insist(changed, {_IN_PROGRESS})

    async def look(self, service: str, path: str) -> None:
        """Look at what is there: an order that was accepted, what has happened to it, or a list."""
        await self._insist(lambda client: client.get(service, path))

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
