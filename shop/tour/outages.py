"""The acts in which something dies: a service, the database, the broker, one of two replicas."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from uuid import UUID

from covey.errors import DependencyUnavailable
from covey.local.unit import Unit
from covey.local.up import covey
from shop.client import Unexpected
from shop.killing import Killing
from shop.tour.stage import SAGA_SECONDS, Stage

_ORDERS = 8


async def payment_dies(stage: Stage) -> None:
    """Kill payment, order while it is dead, start it."""
    payment = stage.system.units["payment"]
    async with stage.holding(payment):
        stage.suggest(f"kill -9 {payment.pid}", f"{covey()} status", f"{covey()} logs payment -f")
        await stage.turn("kill payment", _dead(payment), first=True)
        await stage.fall(payment)
        began = time.perf_counter()
        orders = await stage.place(_ORDERS)
        stage.check(f"{len(orders)} orders are accepted while payment is dead")
        await _backlog(stage, "payment", len(orders))
        await stage.turn("start payment")
        fresh = await _fresh(stage, began)
    await stage.rise(payment)
    await _outlasted(stage, began, orders, fresh)


async def postgres_dies(stage: Stage) -> None:
    """Kill PostgreSQL with orders under way, try to order without it, let it come back."""
    postgres = stage.system.units["postgres"]
    async with stage.holding(postgres):
        stage.suggest(f"kill -9 {postgres.pid}", f"{covey()} logs postgres -f")
        await stage.turn("place orders, and kill PostgreSQL under them", _dead(postgres), first=True)
        began = time.perf_counter()
        orders = await stage.place(_ORDERS) if postgres.pid is not None else []
        await stage.fall(postgres)
        refusal = await _refusal(stage)
        stage.check(f"an order placed now is refused, not lost: {refusal}", good=refusal.startswith("503"))
    await stage.rise(postgres)
    await _outlasted(stage, began, orders or await stage.place(_ORDERS))


async def nats_dies(stage: Stage) -> None:
    """Kill the broker, order without it, start it."""
    nats = stage.system.units["nats"]
    async with stage.holding(nats):
        stage.suggest(f"kill -9 {nats.pid}", f"{covey()} logs order -f")
        await stage.turn("kill NATS", _dead(nats), first=True)
        await stage.fall(nats)
        began = time.perf_counter()
        orders = await stage.place(_ORDERS)
        stage.check(f"{len(orders)} orders are accepted without a broker")
        await _backlog(stage, "inventory", len(orders))
        await stage.turn("start NATS")
        fresh = await _fresh(stage, began)
    await stage.rise(nats)
    await _outlasted(stage, began, orders, fresh)


async def a_replica_dies(stage: Stage) -> None:
    """Run payment twice, and kill the first of the two for good, with orders under way."""
    await stage.turn("start a second payment", first=True)
    await stage.system.scale("payment", 2)
    first, second = stage.system.replicas("payment")
    stage.check(f"{first.name} is pid {first.pid}, {second.name} is pid {second.pid}")
    async with stage.holding(first, second):
        stage.suggest(f"kill -9 {first.pid}", f"{covey()} status")
        await stage.turn(f"place orders, and kill {first.name} under them", _dead(first, second))
        began = time.perf_counter()
        orders = await _under_way(stage)
        victim = next((unit for unit in (first, second) if unit.pid is None), first)
        await stage.fall(victim)
        await _outlasted(stage, began, orders)
        other = second if victim is first else first
        stage.check(f"{victim.name} is still dead: {other.name} has finished its work", good=victim.pid is None)
    await stage.rise(victim)


async def _under_way(stage: Stage) -> list[UUID]:
    """Place orders, and return when payment has asked the provider about some and has no answer yet."""
    orders = await stage.place(_ORDERS, "tok_slow")
    asked = await Killing(stage.client, stage.system.units["payment"], stage.system.database_url("payment")).asked()
    stage.check(f"{len(orders)} orders are under way; payment waits for the provider's answer to {asked}")
    return orders


async def _backlog(stage: Stage, service: str, count: int) -> None:
    async def waits() -> bool:
        return (await stage.pulse()).waiting.get(service, 0) >= count

    await stage.watch(waits, f"no {count} messages wait for {service}", within=10)
    stage.check(f"{(await stage.pulse()).waiting[service]} messages wait for {service}")


async def _fresh(stage: Stage, began: float) -> list[UUID]:
    """Place orders again when the first have waited so long that they are given up: there shall be some to finish."""
    if not _is_long(began):
        return []
    orders = await stage.place(_ORDERS)
    stage.check(f"{len(orders)} more are accepted: the first have waited for {time.perf_counter() - began:.0f} s")
    return orders


async def _outlasted(stage: Stage, began: float, *batches: list[UUID]) -> None:
    """See orders through that have met an outage; if it was too long for the last of them, see that others can be."""
    late, long = 0, _is_long(began)
    for orders in filter(None, batches):
        late = await stage.confirmed(orders, outage=long)
    if late:
        await stage.confirmed(await stage.place(_ORDERS))


def _is_long(began: float) -> bool:
    """Tell whether what began then has lasted so long that orders may be given up: somebody has taken their time."""
    return time.perf_counter() - began > SAGA_SECONDS / 2


async def _refusal(stage: Stage) -> str:
    try:
        await stage.place(1)
    except Unexpected as error:
        return str(error.status)
    except DependencyUnavailable:
        return "no answer"
    return "accepted"


def _dead(*units: Unit) -> Callable[[], Awaitable[bool]]:
    async def dead() -> bool:
        return any(unit.pid is None for unit in units)

    return dead
