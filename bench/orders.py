"""How many orders does the whole shop complete, and what does each cost? In six processes, and in one.

64 orders are in flight, each from its POST, with an Idempotency-Key, until its saga has ended: stock reserved, money
authorized and captured, the order confirmed, a parcel with the carrier, a mail with the mail server. Provider, carrier
and mail server are the sandboxes, with a fsync for each of their entries; spans go to a collector, every request is
logged. The customers, the collector and all of the shop with its engines share the two cores. After each round the
books are audited.

Alone, each topology is measured as a user has it: its orders a second, memory, and CPU. Which of the two completes more
is closer than a machine keeps its pace from one minute to the next, so for that both are up, and are loaded in turn
within seconds: one, six, six, one. What the other costs while it has nothing to do, 2 to 3 % of the cores, both bear.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from statistics import median
from uuid import UUID

from bench.laboratory import ALWAYS, DEFAULT, Laboratory
from bench.party import Party, running
from bench.results import Answer, Figure, percentile
from bench.rounds import spread
from bench.shop_system import Cpu, Topology, cpu_seconds, pss_mb, roots, service_pids, shop
from covey.local.running import RunningSystem
from shop.auditor import audit
from shop.books import SERVICES
from shop.showing import sources_of

ROUNDS = 3
IN_FLIGHT = 64
SETTLE_SECONDS = 2.0
IDLE_SECONDS = 3.0
WARM_SECONDS = 4.0
SECONDS = 10.0
TURNS = 8
SUBJECTS = [Topology(mode, one) for mode in (ALWAYS, DEFAULT) for one in (False, True)]


@dataclass
class Taken:
    """What was measured of a topology, one value a round; `cpu_ms` is by process, for each order."""

    rates: list[float] = field(default_factory=list)
    answer_p50: list[float] = field(default_factory=list)
    order_p50: list[float] = field(default_factory=list)
    order_p99: list[float] = field(default_factory=list)
    asked_again: list[float] = field(default_factory=list)
    idle_cpu: list[float] = field(default_factory=list)
    idle_mb: list[float] = field(default_factory=list)
    loaded_mb: list[float] = field(default_factory=list)
    cpu_ms: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))


async def answer(laboratory: Laboratory) -> Answer:
    """Measure every topology once a round, and audit it."""
    taken = {subject: Taken() for subject in SUBJECTS}
    for number in range(ROUNDS):
        for subject in SUBJECTS if number % 2 == 0 else reversed(SUBJECTS):
            await _round(laboratory, subject, taken[subject])
    return _told(taken, {mode: await _in_turn(laboratory, mode) for mode in (ALWAYS, DEFAULT)})


async def _round(laboratory: Laboratory, subject: Topology, taken: Taken) -> None:
    async with shop(laboratory, subject) as system:
        await asyncio.sleep(SETTLE_SECONDS)
        before = cpu_seconds(roots(system, {}))
        await asyncio.sleep(IDLE_SECONDS)
        spent = sum(cpu_seconds(roots(system, {})).values()) - sum(before.values())
        taken.idle_cpu.append(spent / IDLE_SECONDS * 1e3)
        taken.idle_mb.append(pss_mb(service_pids(system)))
        async with _buying(laboratory, system) as customers:
            await _loaded(system, customers, {"customers": customers.process.pid} | laboratory.pids, taken)
            accepted = await _stopped(customers)
        taken.loaded_mb.append(pss_mb(service_pids(system)))
        await _audited(system, subject, accepted)


async def _in_turn(laboratory: Laboratory, mode: str) -> list[float]:
    """Return the orders a second of one process to those of six, for each of so many turns of both."""
    both = Topology(mode, one_process=True), Topology(mode)
    async with AsyncExitStack() as stack:
        systems = {subject: await stack.enter_async_context(shop(laboratory, subject)) for subject in both}
        parties = {
            subject: await stack.enter_async_context(_buying(laboratory, system)) for subject, system in systems.items()
        }
        taken, accepted = {subject: Taken() for subject in both}, dict.fromkeys(both, tuple[UUID, ...]())
        for number in range(TURNS):
            for subject in both if number % 2 == 0 else reversed(both):
                await _loaded(systems[subject], parties[subject], {}, taken[subject])
                accepted[subject] += tuple(await _stopped(parties[subject]))
        for subject, system in systems.items():
            await _audited(system, subject, accepted[subject])
    return _ratios(taken[both[0]].rates, taken[both[1]].rates)


@asynccontextmanager
async def _buying(laboratory: Laboratory, system: RunningSystem) -> AsyncIterator[Party]:
    settings = {"url": system.url("order"), "database_url": system.database_url("order")}
    settings["development_key"] = system.development_key
    async with running("order_parties", "customers", laboratory.log, None, **settings) as customers:
        await customers.ask("prepare", **addresses(system))
        yield customers


async def _stopped(customers: Party) -> list[UUID]:
    return [UUID(order_id) for order_id in await customers.ask("stop")]


async def _audited(system: RunningSystem, subject: Topology, accepted: Sequence[UUID]) -> None:
    found = await audit(sources_of(system), accepted)
    if found.violations:
        raise RuntimeError(f"{subject.name}: {len(found.violations)} violations, first {found.violations[0]}")


async def _loaded(system: RunningSystem, customers: Party, more: dict[str, int], taken: Taken) -> None:
    await customers.ask("start", in_flight=IN_FLIGHT)
    await asyncio.sleep(WARM_SECONDS)
    pids = roots(system, more)
    begun, before = await customers.ask("mark"), cpu_seconds(pids)
    await asyncio.sleep(SECONDS)
    ended, after = await customers.ask("mark"), cpu_seconds(pids)
    orders = ended["order_ms"]
    if not orders:
        raise RuntimeError(f"not one order was done within {SECONDS:g} s")
    taken.rates.append(len(orders) / (ended["at"] - begun["at"]))
    taken.asked_again.append(ended["asked_again"])
    taken.answer_p50.append(percentile(ended["answer_ms"], 0.5))
    taken.order_p50.append(percentile(orders, 0.5))
    taken.order_p99.append(percentile(orders, 0.99))
    for name, ms in cpu_per_order(before, after, len(orders)).items():
        taken.cpu_ms[name].append(ms)


def addresses(system: RunningSystem) -> dict[str, dict[str, str]]:
    """Return where the services and their databases are."""
    return {
        "urls": {service: system.url(service) for service in SERVICES},
        "databases": {service: system.database_url(service) for service in SERVICES},
    }


def cpu_per_order(before: Cpu, after: Cpu, orders: int) -> Cpu:
    """Return the milliseconds that each process has spent on each of so many orders."""
    return {name: (after[name] - before[name]) * 1e3 / orders for name in after}


def _told(taken: dict[Topology, Taken], in_turn: dict[str, list[float]]) -> Answer:
    told = Answer(title="Orders")
    told.text = [
        f"{IN_FLIGHT} in flight for {SECONDS:g} s after {WARM_SECONDS:g} s, {ROUNDS} rounds, the books audited after"
        " each. An order counts when its saga has ended: shipped, and the mail sent. Again: so many POSTs were answered"
        " 503, or not, and were sent again under their key.",
        "",
        "| | orders/s | POST p50, ms | again | done p50, ms | done p99, ms | services idle, MB | after load, MB"
        " | all idle, ms of CPU a second |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for subject, of_one in taken.items():
        columns = [of_one.rates, of_one.answer_p50, of_one.asked_again, of_one.order_p50, of_one.order_p99]
        columns += [of_one.idle_mb, of_one.loaded_mb, of_one.idle_cpu]
        told.text.append(f"| {' | '.join([subject.name, *map(spread, columns)])} |")
    told.text += [
        "",
        f"Both topologies up, loaded in turn, {TURNS} times {SECONDS:g} s each, orders/s of one process to six: "
        + "; ".join(f"sync {mode} {spread(ratios, 2)}" for mode, ratios in in_turn.items())
        + ".",
        "",
        *_cpu_table(taken),
    ]
    for mode in (ALWAYS, DEFAULT):
        many, one = taken[Topology(mode)], taken[Topology(mode, one_process=True)]
        told.figures += [
            Figure(bar="orders", values=many.rates, sync=mode),
            Figure(bar="one_process_orders", values=in_turn[mode], sync=mode),
            Figure(bar="one_process_idle_mb", values=one.idle_mb, sync=mode),
            Figure(bar="one_process_idle_memory", values=_ratios(one.idle_mb, many.idle_mb), sync=mode),
            Figure(bar="one_process_memory", values=_ratios(one.loaded_mb, many.loaded_mb), sync=mode),
        ]
    return told


def _cpu_table(taken: dict[Topology, Taken]) -> list[str]:
    names = list(dict.fromkeys(name for of_one in taken.values() for name in of_one.cpu_ms))
    lines = [
        "CPU of each process for each order, ms (a process includes all that it has started: PostgreSQL its backends).",
        "",
        "| | " + " | ".join(subject.name for subject in taken) + " |",
        "|---|" + "---|" * len(taken),
    ]
    for name in names:
        cells = [spread(of_one.cpu_ms[name], 2) if name in of_one.cpu_ms else "" for of_one in taken.values()]
        lines.append(f"| {' | '.join([name, *cells])} |")
    sums = [f"{sum(map(median, of_one.cpu_ms.values())):.2f}" for of_one in taken.values()]
    return [*lines, f"| all | {' | '.join(sums)} |"]


def _ratios(some: list[float], others: list[float]) -> list[float]:
    return [one / other for one, other in zip(some, others, strict=True)]
