"""What do an order and a read cost with 1,000 to 10,000,000 orders stored, and a million processed messages?

Two shops are up: one keeps 1,000 orders, the other grows (bench.stored), and each round measures both, so that what is
compared was measured within a minute. Before each measurement retention is given work, and the services are restarted:
it removes messages, keys and sagas while orders are placed, and is part of what they cost. Reads are of orders of all
ages, of the history of those that still have one, and of the mails of users, who have ever more of them.

`BENCH_ORDERS=100000 python -m bench growth` stops earlier, and then says nothing about the bars.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from bench.growth_plot import Series, plot
from bench.laboratory import ALWAYS, Laboratory
from bench.orders import IN_FLIGHT, addresses
from bench.party import Party, running
from bench.results import Answer, Figure
from bench.rounds import spread
from bench.shop_system import Topology, cpu_seconds, roots, shop
from bench.stored import Stored, form
from covey.local.running import RunningSystem
from shop.client import bearing

SIZES = [10**n for n in range(3, 8)]
ROUNDS = 3
ORIGINAL_SECONDS = 4.0
OVERDUE_ORDERS = 4_000
PATIENCE_SECONDS = 120.0
WARM_SECONDS = 4.0
SECONDS = 6.0
READ_SECONDS = 1.2
READS_IN_FLIGHT = 8
READ_IDS = 2_000
PICTURE = "growth.png"


@dataclass(kw_only=True)
class Cost:
    """What one measurement of one shop found: seconds of CPU and of time for each order, and for each kind of read."""

    cpu: float
    time: float
    removed_a_second: float
    reads: dict[str, float] = field(default_factory=dict)


@dataclass
class Grown:
    """A shop, its customers, and what it has stored."""

    system: RunningSystem
    customers: Party
    stored: Stored
    users: list[str]

    async def measure(self) -> Cost:
        """Measure it once, with retention at work."""
        await self.stored.outlive(OVERDUE_ORDERS)
        services = dict.fromkeys(unit for name in self.system.system.services for unit in self.system.replicas(name))
        await self.system.restart(list(services))
        await self.customers.ask("start", in_flight=IN_FLIGHT)
        await asyncio.sleep(WARM_SECONDS)
        cost = await self._cost()
        await self.customers.ask("stop")
        for kind, (service, paths) in (await self._paths()).items():
            cost.reads[kind] = await self._read(self.system.url(service), paths)
        async with asyncio.timeout(PATIENCE_SECONDS):  # or it would be a cost of the shop that is measured next
            while await self.stored.overdue():  # noqa: ASYNC110 - what ends it are other processes
                await asyncio.sleep(0.5)
        return cost

    async def _cost(self) -> Cost:
        pids, overdue = roots(self.system, {}), await self.stored.overdue()
        begun, before = await self.customers.ask("mark"), cpu_seconds(pids)
        await asyncio.sleep(SECONDS)
        ended, after = await self.customers.ask("mark"), cpu_seconds(pids)
        removed, orders = overdue - await self.stored.overdue(), len(ended["order_ms"])
        if not removed:
            raise RuntimeError("retention has removed nothing while orders were placed: give it more work")
        seconds, spent = ended["at"] - begun["at"], sum(after.values()) - sum(before.values())
        return Cost(cpu=spent / orders, time=seconds / orders, removed_a_second=removed / seconds)

    async def _paths(self) -> dict[str, tuple[str, list[str]]]:
        orders, recent = await self.stored.some(READ_IDS), await self.stored.recent(READ_IDS)
        return {
            "GET order": ("order", [f"/orders/{order_id}" for order_id in orders]),
            "GET history": ("order", [f"/orders/{order_id}/history" for order_id in recent]),
            "list of a user's mails": ("notification", [f"/notifications?user_id={user}" for user in self.users]),
        }

    async def _read(self, url: str, paths: list[str]) -> float:
        how: dict[str, Any] = {"paths": paths, "url": url, "in_flight": READS_IN_FLIGHT, "seconds": READ_SECONDS}
        read = await self.customers.ask("read", **how)
        return float(read["seconds"] / len(read["ms"]))


async def answer(laboratory: Laboratory) -> Answer:
    """Grow one shop from size to size, and at each compare it with the one that has stayed small."""
    sizes = [size for size in SIZES if size <= float(os.environ.get("BENCH_ORDERS", SIZES[-1]))]
    small_costs: dict[int, list[Cost]] = {}
    costs: dict[int, list[Cost]] = {}
    notes: dict[int, tuple[float, float]] = {}
    async with AsyncExitStack() as stack:
        small = await stack.enter_async_context(_grown(laboratory, "small"))
        large = await stack.enter_async_context(_grown(laboratory, "large"))
        for size in sizes:
            begun = time.monotonic()
            await large.stored.multiply(size)
            notes[size] = (await large.stored.size_gb(), time.monotonic() - begun)
            _say(f"{size:,} orders stored after {notes[size][1]:.0f} s: {notes[size][0]:.1f} GB")
            small_costs[size], costs[size] = [], []
            for number in range(ROUNDS):
                both = [(small, small_costs[size]), (large, costs[size])]
                for one, taken in both if number % 2 == 0 else reversed(both):
                    taken.append(await one.measure())
                _say(f"  round {number + 1}: CPU {_ratios(costs[size], small_costs[size], 'cpu')[-1]:.2f}")
    return _told(small_costs, costs, notes)


@asynccontextmanager
async def _grown(laboratory: Laboratory, name: str) -> AsyncIterator[Grown]:
    async with AsyncExitStack() as stack:
        system = await stack.enter_async_context(shop(laboratory, Topology(ALWAYS), name))
        settings = {"url": system.url("order"), "database_url": system.database_url("order")}
        settings["development_key"] = system.development_key
        party = running("order_parties", "customers", laboratory.log, None, **settings)
        customers = await stack.enter_async_context(party)
        where = addresses(system)
        users = await customers.ask("prepare", **where)
        stored = await Stored.begun(system.addresses.postgres_admin_url, where["databases"])
        await customers.ask("start", in_flight=IN_FLIGHT)
        await asyncio.sleep(ORIGINAL_SECONDS)
        await customers.ask("stop")
        await stored.originals()
        await stored.multiply(SIZES[0])
        await _require_same_form(system, stored)
        yield Grown(system, customers, stored, users)


async def _require_same_form(system: RunningSystem, stored: Stored) -> None:
    """Raise RuntimeError unless a copy is shown as the order is of which it is one, but for its ids and times."""
    original, copy = await stored.one_of_each()
    url = f"{system.url('order')}/api/v1/orders"
    async with aiohttp.ClientSession(headers=bearing(system.token("staff:bench", "staff"))) as http:
        for path in ("", "/history"):
            shown = [await (await http.get(f"{url}/{order_id}{path}")).json() for order_id in (original, copy)]
            if form(shown[0]) != form(shown[1]):
                raise RuntimeError(f"a copied order is not shown as a real one: {shown[1]} is not like {shown[0]}")


def _told(small: dict[int, list[Cost]], large: dict[int, list[Cost]], notes: dict[int, tuple[float, float]]) -> Answer:
    orders: Series = {
        name: {size: _ratios(large[size], small[size], kind) for size in large}
        for name, kind in (("CPU of all processes", "cpu"), ("time, 64 in flight", "time"))
    }
    kinds = next(iter(large.values()))[0].reads
    reads: Series = {kind: {size: _ratios(large[size], small[size], kind) for size in large} for kind in kinds}
    told = Answer(title="Growth", pictures={PICTURE: plot(orders, reads)})
    told.text = [
        f"One shop keeps {SIZES[0]:,} orders, the other grows; both are measured in each of {ROUNDS} rounds, sync"
        f" {ALWAYS}. What is stored are copies of real orders in all services; messages, keys and sagas as retention"
        " leaves them: a million messages in the inboxes. In each measurement retention removes what is overdue."
        f" Ratios are of the cost to that of the shop with {SIZES[0]:,}; cost of reads: time with"
        f" {READS_IN_FLIGHT} in flight.",
        "",
        f"![Cost by orders stored]({PICTURE})",
        "",
        "| orders stored | GB | CPU, ms an order | to 1,000 | orders/s | time to 1,000 | "
        + " | ".join(f"{kind}, reads/s, and time to 1,000" for kind in kinds)
        + " | removed by retention, rows/s |",
        "|---|" + "---|" * (6 + len(kinds)),
    ]
    for size, costs in large.items():
        cells = [
            f"{size:,}",
            f"{notes[size][0]:.1f}",
            spread([cost.cpu * 1e3 for cost in costs], 1),
            spread(orders["CPU of all processes"][size], 2),
            spread([1 / cost.time for cost in costs]),
            spread(orders["time, 64 in flight"][size], 2),
            *(f"{spread([1 / c.reads[k] for c in costs])}; {spread(reads[k][size], 2)}" for k in kinds),
            spread([cost.removed_a_second for cost in costs]),
        ]
        told.text.append(f"| {' | '.join(cells)} |")
    if SIZES[-1] in large:
        for bar, series in zip(("growth_cpu", "growth_time"), orders.values(), strict=True):
            told.figures.append(Figure(bar=bar, values=series[SIZES[-1]], sync=ALWAYS))
    return told


def _ratios(costs: list[Cost], small: list[Cost], kind: str) -> list[float]:
    """Return by how much one cost more than the other, one for each round that both have had."""
    return [_of(one, kind) / _of(other, kind) for one, other in zip(costs, small, strict=False)]


def _of(cost: Cost, kind: str) -> float:
    return cost.reads[kind] if kind in cost.reads else float(getattr(cost, kind))


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)
