"""No clock of any process decides when a saga's time is up (H10)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from pydantic import BaseModel

from covey.database.pool import Database
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

    await eventually(SagaTimers(transactions, lambda: None).fire)

    async with transactions.begin() as work:
        told = await work.fetch("SELECT key FROM covey.inbox WHERE type = 'order.saga-timeout.v1'")
    assert [row["key"] for row in told] == [str(in_time)]


async def test_a_step_expires_by_the_clock_of_the_database(database: Database) -> None:
    transactions = Transactions(database, "order", FakeClock(datetime(1999, 1, 1, tzinfo=UTC)))
    async with transactions.begin() as work:
        await patient.start(work, Data())

    async with transactions.begin() as work:
        left = await work.fetchval("SELECT (headers ->> 'deadline')::timestamptz - clock_timestamp() FROM covey.outbox")
    assert timedelta(minutes=59) < left <= timedelta(hours=1)
