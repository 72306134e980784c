"""Pitfall 4 through the whole service: commands and events delivered several times, late and out of order."""

from __future__ import annotations

import random
from uuid import UUID

import aiohttp
import pytest
from inventory_service import storage
from inventory_service.domain import Line, Money, OrderId, Product, ProductId
from inventory_service.messages import OrderConfirmed, ReleaseStock, ReserveStock

from covey.clock import SystemClock
from covey.ids import new_id
from covey.message import Message
from covey.messaging.brokers.memory import MemoryBroker
from covey.testing.eventually import eventually
from covey.work.outbox import wrap
from covey.work.unit_of_work import Transactions

PIECES = 60


class ConfirmedByOrder(OrderConfirmed, type="order.confirmed.v1", key="order_id"):
    """The event as order publishes it."""


@pytest.fixture
async def products(transactions: Transactions) -> list[ProductId]:
    made = [Product(ProductId(new_id()), f"Mug {n}", Money(1_250, "EUR")) for n in range(4)]
    async with transactions.begin() as work:
        for product in made:
            await storage.add_product(work, product)
            await storage.receive(work, Line(product.id, PIECES))
    return [product.id for product in made]


async def delivered(broker: MemoryBroker, messages: list[tuple[Message, str]], chance: random.Random) -> int:
    """Deliver each message one to five times, all of them shuffled; return how many deliveries that makes."""
    headers = {"reply-to": "order"}
    envelopes = [wrap(message, source, SystemClock().now(), headers) for message, source in messages]
    deliveries = [envelope for envelope in envelopes for _ in range(chance.randint(1, 5))]
    chance.shuffle(deliveries)
    for envelope in deliveries:
        await broker.publish([envelope])
    return len(deliveries)


async def drained(transactions: Transactions, messages: int) -> None:
    """Wait until so many messages have arrived and none waits."""

    async def handled() -> bool:
        async with transactions.begin() as work:
            row = await work.fetchrow(
                """
                SELECT (SELECT count(*) FROM covey.inbox) AS arrived, (SELECT count(*) FROM covey.inbox_pending)
                     + (SELECT count(*) FROM covey.hold) + (SELECT count(*) FROM covey.outbox_pending) AS waiting
                """
            )
            return bool(row["arrived"] == messages and row["waiting"] == 0)

    await eventually(handled)


async def test_every_piece_is_accounted_for_and_every_command_answered_once(
    http: aiohttp.ClientSession, memory_broker: MemoryBroker, transactions: Transactions, products: list[ProductId]
) -> None:
    chance = random.Random(7)
    await memory_broker.ensure_stream("order")
    orders = [OrderId(new_id()) for _ in range(60)]
    sagas = {order_id: new_id() for order_id in orders}
    lines = {o: tuple(Line(p, chance.randint(1, 4)) for p in chance.sample(products, 2)) for o in orders}
    reserve: list[tuple[Message, str]] = [
        (ReserveStock(saga_id=sagas[o], order_id=o, lines=lines[o]), "order") for o in orders
    ]
    release: list[tuple[Message, str]] = [
        (ReleaseStock(saga_id=sagas[o], order_id=o), "order") for o in orders if chance.random() < 0.5
    ]

    deliveries = await delivered(memory_broker, reserve + release, chance)
    await drained(transactions, len(reserve) + len(release))

    assert deliveries > len(reserve) + len(release)
    async with transactions.begin() as work:
        stocks = [await storage.stock_of(work, product_id) for product_id in products]
        held = await work.fetch(
            """
            SELECT l.product_id, sum(l.quantity) AS pieces FROM reservation_line l JOIN reservation r USING (order_id)
            WHERE r.status = 'held' GROUP BY l.product_id
            """
        )
        replies = await work.fetchval("SELECT count(*) FROM covey.outbox WHERE kind = 'reply'")
    by_orders: dict[UUID, int] = {row["product_id"]: row["pieces"] for row in held}
    for stock in stocks:
        assert stock is not None
        assert stock.free >= 0
        assert (stock.received, stock.reserved) == (stock.free + stock.reserved, by_orders.get(stock.product_id, 0))
    assert replies == len(reserve) + len(release)


async def test_a_confirmation_that_comes_several_times_sells_once(
    http: aiohttp.ClientSession, memory_broker: MemoryBroker, transactions: Transactions, products: list[ProductId]
) -> None:
    chance = random.Random(8)
    await memory_broker.ensure_stream("order")
    orders = [OrderId(new_id()) for _ in range(10)]
    reserve: list[tuple[Message, str]] = [
        (ReserveStock(saga_id=new_id(), order_id=o, lines=(Line(products[0], 2),)), "order") for o in orders
    ]
    await delivered(memory_broker, reserve, chance)
    await drained(transactions, len(orders))

    await delivered(memory_broker, [(ConfirmedByOrder(order_id=o), "order") for o in orders], chance)
    await drained(transactions, 2 * len(orders))

    async with transactions.begin() as work:
        stock = await storage.stock_of(work, products[0])
    assert stock is not None
    assert (stock.free, stock.reserved, stock.sold) == (PIECES - 20, 0, 20)


async def test_a_command_that_reserves_the_same_product_twice_is_a_dead_letter(
    http: aiohttp.ClientSession, memory_broker: MemoryBroker, transactions: Transactions, products: list[ProductId]
) -> None:
    await memory_broker.ensure_stream("order")
    whole = ReserveStock(saga_id=new_id(), order_id=OrderId(new_id()), lines=(Line(products[0], 2),))
    broken = whole.model_copy(update={"lines": (Line(products[0], 2), Line(products[0], 3))})

    await memory_broker.publish([wrap(broken, "order", SystemClock().now(), {"reply-to": "order"})])

    async def dead() -> str | None:
        async with transactions.begin() as work:
            error: str | None = await work.fetchval("SELECT error FROM covey.hold WHERE state = 'dead'")
            return error

    assert "same product" in str(await eventually(dead))
    async with transactions.begin() as work:
        stock = await storage.stock_of(work, products[0])
    assert stock is not None
    assert stock.free == PIECES
