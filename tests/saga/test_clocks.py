"""No clock of any process decides when a saga's time is up (H10)."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from pydantic import BaseModel

from covey.database.pool import Database, PoolOptions
from covey.message import Command
from covey.saga.definition import step
from covey.saga.saga import Saga
from covey.saga.timers import SagaTimers
from covey.testing.clock import FakeClock
from covey.testing.eventually import eventually
from covey.work.unit_of_work import Transactions


class Reserve(Command, type="stock.reserve.v1", key="saga_id"):
    saga_id: UUID


class Data(BaseModel):
    pass


async def given_back(data: Data, work: object) -> None:
    """Nothing was reserved."""


hasty = Saga("hasty", Data, step(Reserve, undo=given_back, timeout=timedelta(milliseconds=1)))
patient = Saga("patient", Data, step(Reserve, undo=given_back, timeout=timedelta(hours=1)))


@pytest.mark.parametrize("year", [1999, 2099])
async def test_a_timeout_is_due_by_the_clock_of_the_database_whatever_the_process_believes(
    database: Database, year: int
) -> None:
    transactions = Transactions(database, "order", FakeClock(datetime(year, 1, 1, tzinfo=UTC)))
    async with transactions.begin() as work:
        await patient.start(work, Data())
        in_time = await hasty.start(work, Data())

    timers = SagaTimers(database, transactions, lambda: None)
    async with database.acquire() as connection:
        await eventually(lambda: timers.fire(connection))

    async with transactions.begin() as work:
        told = await work.fetch("SELECT key FROM covey.inbox WHERE type = 'order.saga-timeout.v1'")
    assert [row["key"] for row in told] == [str(in_time)]


async def test_a_timeout_does_not_wait_for_requests_that_have_taken_every_connection(database_url: str) -> None:
    woken = asyncio.Event()
    async with Database.open(database_url, PoolOptions(size=1, wait=timedelta(milliseconds=100))) as database:
        transactions = Transactions(database, "order")
        async with transactions.begin() as work:
            await hasty.start(work, Data())

        async with database.acquire() as the_only_one, asyncio.timeout(20):
            timers = asyncio.create_task(SagaTimers(database, transactions, woken.set).run())
            await asyncio.wait([timers, waiting := asyncio.create_task(woken.wait())], return_when="FIRST_COMPLETED")
            told = await the_only_one.fetchval("SELECT count(*) FROM covey.inbox WHERE type = 'order.saga-timeout.v1'")

        for task in (timers, waiting):
            task.cancel()
        await asyncio.gather(timers, waiting, return_exceptions=True)
    assert told == 1


async def test_a_step_expires_by_the_clock_of_the_database(database: Database) -> None:
    transactions = Transactions(database, "order", FakeClock(datetime(1999, 1, 1, tzinfo=UTC)))
    async with transactions.begin() as work:
        await patient.start(work, Data())

    async with transactions.begin() as work:
        left = await work.fetchval("SELECT (headers ->> 'deadline')::timestamptz - clock_timestamp() FROM covey.outbox")
    assert timedelta(minutes=59) < left <= timedelta(hours=1)
