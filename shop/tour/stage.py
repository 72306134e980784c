"""What the acts of the tour have at hand: the running shop, its customers, the terminal and who sits at it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from uuid import UUID

import aiohttp

from covey.errors import CoveyError
from covey.local.running import RunningSystem
from covey.local.status import describe
from covey.local.unit import Held, Unit, Up
from shop.auditor import Audit, audit
from shop.client import ShopClient, order_of
from shop.showing import sources_of
from shop.terminal import Terminal
from shop.tour.keys import Keys, Quit, Skipped
from shop.tour.pulse import UNREACHABLE, Gauge, Pulse
from shop.waiting import until

T = TypeVar("T")

PATIENCE_SECONDS = 60.0
"""Nothing here is waited for longer."""
SAGA_SECONDS = 10.0
"""How long order waits for a step before it gives up: see its saga."""
_PAUSE_SECONDS = 0.1
_ENTER = ("\r", "\n", " ")


class Stage:
    """One tour. What is not as it should be is kept in `failures`."""

    def __init__(self, system: RunningSystem, client: ShopClient, gauge: Gauge, terminal: Terminal, keys: Keys) -> None:
        self.system = system
        self.client = client
        self.terminal = terminal
        self.sources = sources_of(system)
        self.products: dict[str, UUID] = {}
        self.user_id: UUID | None = None
        self.failures: list[str] = []
        self._accepted: list[UUID] = []
        self._gauge = gauge
        self._keys = keys

    def check(self, text: str, *, good: bool = True) -> None:
        """Say that something is as it should be, or not."""
        self.terminal.result(text, good=good)
        if not good:
            self.failures.append(text)

    def suggest(self, *commands: str) -> None:
        """Show what could be typed in another terminal now."""
        self.terminal.say(self.terminal.styled("  in a second terminal, if you like:", "dim"))
        for command in commands:
            self.terminal.say(f"    {self.terminal.styled(command, 'cyan')}")

    async def turn(self, offer: str, done: Callable[[], Awaitable[bool]] | None = None, *, first: bool = False) -> bool:
        """Wait for Enter, or until it was done by hand; tell whether it was. Nobody there: go on at once.

        Raises Quit, and Skipped when it is the first turn of an act.
        """
        while self._keys.take() not in (None, "q"):
            pass  # pressed before there was a question
        prompt = f"⏎ {offer}   {'s next act   ' if first else ''}q quit"
        while self._keys.attended:
            if done is not None and await done():
                self.terminal.say("  it was done by hand")
                return True
            self.terminal.meanwhile(await self._glance(), prompt)
            match self._keys.take():
                case "q":
                    raise Quit
                case "s" if first:
                    raise Skipped
                case key if key in _ENTER:
                    self.terminal.meanwhile(offer)
                    return False
            await asyncio.sleep(_PAUSE_SECONDS)
        return False

    async def watch(self, ask: Callable[[], Awaitable[T]], otherwise: str, within: float = PATIENCE_SECONDS) -> T:
        """Show how the shop is doing until the answer is true, and return it. Raises DeadlineExceeded, Quit."""

        async def asked() -> T:
            if self._keys.take() == "q":
                raise Quit
            if not (answer := await ask()):
                self.terminal.progress(await self._glance())
                await asyncio.sleep(_PAUSE_SECONDS)
            return answer

        return await until(asked, within, otherwise)

    async def pulse(self) -> Pulse:
        """Return how the shop is doing; an empty one while the databases do not answer."""
        return await self._gauge.read() or Pulse()

    async def _glance(self) -> str:
        return str(await self._gauge.read() or "the databases do not answer")

    @asynccontextmanager
    async def holding(self, *units: Unit) -> AsyncIterator[None]:
        """Leave these units dead inside the block once they are; keep them running again at its end."""
        for unit in units:
            unit.hold()
        try:
            yield
        finally:
            for unit in units:
                unit.release()

    async def fall(self, unit: Unit) -> None:
        """Kill a unit that is held, unless somebody has, and say how it died."""
        pid = unit.pid
        if pid is not None:
            await unit.kill()
        await self.watch(lambda: _is(unit, Held), f"{unit.name} does not die")
        self.check(f"{unit.name} is dead: {describe(unit.state)[1].partition(';')[0]}")

    async def rise(self, unit: Unit) -> None:
        """Wait until a unit is up again, and everything else ready again."""
        began = time.perf_counter()
        await self.watch(lambda: _is(unit, Up), f"{unit.name} does not come up again")
        await self.watch(self._all_ready, "not every service is ready again")
        self.check(
            f"{unit.name} is up again as pid {unit.pid}; all are ready after {time.perf_counter() - began:.1f} s"
        )

    async def _all_ready(self) -> bool:
        units = self.system.units.values()
        return all(obstacle is None for obstacle in await asyncio.gather(*(unit.program.obstacle() for unit in units)))

    async def place(self, count: int, token: str = "tok_ok") -> list[UUID]:
        """Place so many orders at once, of a piece of each product in turn, and return their ids."""
        products = list(self.products.values())
        orders = [order_of({products[number % len(products)]: 1}, token, self.user_id) for number in range(count)]
        placed = await asyncio.gather(*(self.client.place(order) for order in orders))
        self.accepted(*(one.id for one in placed))
        return [one.id for one in placed]

    def accepted(self, *order_ids: UUID) -> None:
        """Remember orders that were answered with 201: none of them may be lost."""
        self._accepted += order_ids

    async def settled(self, order_ids: Sequence[UUID]) -> list[dict[str, Any]]:
        """Wait until all these orders have come to their end, and return them."""
        orders: dict[UUID, dict[str, Any]] = {}

        async def all_settled() -> bool:
            for order_id in order_ids:
                if order_id not in orders:
                    order = await self.client.order(order_id)
                    if order["status"] == "pending":
                        return False
                    orders[order_id] = order
            return True

        await self.watch(all_settled, f"not all of {len(order_ids)} orders have come to their end")
        return [orders[order_id] for order_id in order_ids]

    async def confirmed(self, order_ids: Sequence[UUID], *, outage: bool = False) -> int:
        """Wait for the end of these orders, and see them confirmed; return how many were given up.

        That order gives up what has waited for a step too long is as it should be when there was an outage only.
        """
        orders = await self.settled(order_ids)
        confirmed = sum(order["status"] == "confirmed" for order in orders)
        late = sum("no answer in time" in (order["reason"] or "") for order in orders)
        good = confirmed + late == len(orders) and (outage or not late)
        given_up = f"; {late} had waited for {SAGA_SECONDS:.0f} s and were given up" if late else ""
        self.check(f"{confirmed} of {len(orders)} orders are confirmed{given_up}", good=good)
        return late

    async def invariants(self) -> None:
        """Wait until nothing moves, then hold all books against each other."""
        found = await self.audited()
        rules, orders = len(found.findings), len(found.books.orders)
        self.check(f"invariants: {rules} rules hold for {orders} orders", good=not found.violations)
        for violation in found.violations:
            self.terminal.say(f"      {violation}")

    async def audited(self) -> Audit:
        """Wait until nothing moves, and return what the auditor finds."""

        async def audited() -> Audit | None:
            try:
                return await audit(self.sources, self._accepted, within_seconds=PATIENCE_SECONDS / 2)
            except (*UNREACHABLE, aiohttp.ClientError, CoveyError):
                return None  # somebody has killed something by hand

        found = await self.watch(audited, "the books cannot be read")
        assert found is not None  # `until` returns nothing that is false
        return found


async def _is(unit: Unit, kind: type) -> bool:
    return isinstance(unit.state, kind)
