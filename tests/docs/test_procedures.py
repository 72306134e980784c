"""What the page for operators tells to do when history is lost, or a saga is stuck, does what it says."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import nats
from pydantic import BaseModel

from covey.clock import SystemClock
from covey.ids import new_id
from covey.local.engines.embedded import Engines
from covey.message import Command, Event, Reply
from covey.messaging.brokers.memory import MemoryBroker, MemoryLogs
from covey.messaging.brokers.nats import NatsBroker
from covey.messaging.relay import republish
from covey.messaging.router import Router
from covey.saga.definition import pivot
from covey.saga.saga import Saga
from covey.testing.eventually import eventually
from covey.testing.replica import Replica, replica
from covey.work.unit_of_work import Work
from tests.docs.pages import ROOT, blocks

(SET_BACK,) = [
    block.text
    for block in blocks(ROOT / "docs/operations.md")
    if block.language == "sql" and re.match("UPDATE covey.ingest", block.text)
]


STUCK, MEND = (
    next(block.text for block in blocks(ROOT / "docs/operations.md") if re.match(begins, block.text, re.DOTALL))
    for begins in ("SELECT id.*FROM covey.saga\n", "UPDATE covey.reply")
)


class Placed(Event, type="order.placed.v1", key="order_id"):
    """What order tells."""

    order_id: UUID


class Noted(Event, type="ledger.noted.v1", key="order_id"):
    """What ledger has done about it."""

    order_id: UUID


router = Router()


@router.on(Placed)
async def note(placed: Placed, work: Work) -> None:
    """The effect, to be counted in the outbox."""
    work.publish(Noted(order_id=placed.order_id))


async def place(order: Replica, count: int) -> None:
    """Have the order service publish."""
    async with order.transactions.begin() as work:
        for _ in range(count):
            work.publish(Placed(order_id=new_id()))


async def noted(ledger: Replica) -> int:
    """Return how many orders have had their effect."""
    return int(await ledger.fetchval("SELECT count(*) FROM covey.outbox WHERE type = 'ledger.noted.v1'"))


async def set_back(ledger: Replica) -> None:
    """Do what the page says."""
    async with ledger.transactions.begin() as work:
        await work.execute(SET_BACK)


async def test_a_service_that_was_away_too_long_goes_on_with_what_is_left(
    make_database: Callable[[Path | None], str],
) -> None:
    logs = MemoryLogs()
    order_url, ledger_url = make_database(None), make_database(None)
    async with replica("order", order_url, MemoryBroker(logs)) as order:
        async with replica("ledger", ledger_url, MemoryBroker(logs), [router]) as ledger:
            await place(order, 3)
            await eventually(lambda: is_noted(ledger, 3))
        await place(order, 4)
        await eventually(lambda: nothing_to_publish(order))
        logs.drop("order", 6)

        async with replica("ledger", ledger_url, MemoryBroker(logs), [router]) as ledger:
            await eventually(lambda: "holds messages from 6 on" in lost(ledger))
            assert await noted(ledger) == 3
            await set_back(ledger)

            await eventually(lambda: is_noted(ledger, 5))
            assert lost(ledger) == ""


async def test_what_a_broker_has_lost_is_published_again_and_handled_once(
    make_database: Callable[[Path | None], str], covey_engines: Engines, nats_broker: NatsBroker, system_name: str
) -> None:
    began = SystemClock().now() - timedelta(minutes=1)
    async with (
        replica("order", make_database(None), nats_broker) as order,
        replica("ledger", make_database(None), nats_broker, [router]) as ledger,
    ):
        await place(order, 5)
        await eventually(lambda: is_noted(ledger, 5))
        client = await nats.connect(covey_engines.nats_url)
        await client.jetstream().delete_stream(f"{system_name}-order")
        await client.close()

        await eventually(lambda: "was deleted and made anew" in lost(ledger), timedelta(seconds=20))
        await place(order, 2)
        await set_back(ledger)
        assert await republish(order.database, began) >= 5

        await eventually(lambda: is_noted(ledger, 7))
        assert lost(ledger) == ""


async def is_noted(ledger: Replica, count: int) -> bool:
    """Tell whether so many orders have had their effect; more is a mistake."""
    found = await noted(ledger)
    assert found <= count
    return found == count


async def nothing_to_publish(order: Replica) -> bool:
    """Tell whether the relay has published everything."""
    return bool(await order.fetchval("SELECT count(*) = 0 FROM covey.outbox_pending"))


def lost(ledger: Replica) -> str:
    """Return what readiness would say."""
    return "; ".join(ledger.messaging.observation.history_lost.values())


class Capture(Command, type="payment.capture.v1", key="saga_id"):
    """What the saga asks for."""

    saga_id: UUID


class Captured(Reply):
    """What it is told, which does not fit."""

    receipt: str


class Purchase(BaseModel):
    """What the saga knows."""

    receipt: int = 0


purchase = Saga("purchase", Purchase, pivot(Capture, timeout=timedelta(milliseconds=50)))
payment = Router()


@payment.on(Capture)
async def capture(command: Capture, work: Work) -> Captured:
    """Answer what the saga cannot read."""
    return Captured(receipt="seven")


async def test_a_saga_that_cannot_read_its_reply_is_seen_and_goes_on_when_the_reply_is_mended(
    make_database: Callable[[Path | None], str],
) -> None:
    broker = MemoryBroker()
    async with (
        replica("order", make_database(None), broker, sagas=[purchase]) as order,
        replica("payment", make_database(None), broker, [payment]) as participant,
    ):
        async with order.transactions.begin() as work:
            saga_id = await purchase.start(work, Purchase())
        (stuck,) = await eventually(lambda: order.fetch(STUCK))
        told = await order.fetch("SELECT what FROM covey.saga_log WHERE saga_id = $1", saga_id)
        async with participant.transactions.begin() as work:
            await work.execute(MEND.replace("00000000-0000-0000-0000-000000000000", str(stuck["waiting"])))

        ended = "SELECT data ->> 'receipt' FROM covey.saga WHERE id = $1 AND status = 'completed'"
        receipt = await eventually(lambda: order.fetchval(ended, saga_id), timedelta(seconds=40))

    assert stuck["id"] == saga_id
    assert "unreadable" in [row["what"] for row in told]
    assert receipt == "7"
