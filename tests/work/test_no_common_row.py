"""No row, and no lock, is shared by transactions that have nothing to do with each other (H15)."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import UUID

from pydantic import BaseModel

from covey.database.pool import Database
from covey.message import Command, Event
from covey.saga.definition import step
from covey.saga.saga import Saga
from covey.work.idempotency import Answer, claim
from covey.work.unit_of_work import Transactions, Work


class Placed(Event, type="order.placed.v1", key="order_id"):
    order_id: str


class Reserve(Command, type="stock.reserve.v1", key="saga_id"):
    saga_id: UUID


class Data(BaseModel):
    pass


async def given_back(data: Data, work: Work) -> None:
    """Nothing was reserved."""


placing = Saga("placing", Data, step(Reserve, undo=given_back, timeout=timedelta(hours=1)))


async def business(work: Work, order_id: str) -> None:
    """Do all that a request does: claim its key, start a saga, publish, keep the answer; write it."""
    claimed = await claim(work, "orders", order_id, b"request")
    assert not isinstance(claimed, Answer)
    await placing.start(work, Data())
    work.publish(Placed(order_id=order_id))
    claimed.keep(Answer(201, [], b""))
    await work.flush()


async def test_transactions_of_different_keys_never_wait_for_each_other(database: Database) -> None:
    transactions = Transactions(database, "order")
    async with asyncio.timeout(20), transactions.begin() as under_way:
        await business(under_way, "a")

        for key in "bcde":
            async with transactions.begin() as work:
                await work.execute("SET LOCAL lock_timeout = '300ms'")
                await business(work, key)
