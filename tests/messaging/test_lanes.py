"""What keeps two workers off one message: the lock of its lane, and behind that the count of what was still there.

Each holds where the other is gone, so that with either of them nothing is handled twice. Here each is asked alone.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from covey.database.errors import translated
from covey.database.pool import Connection, Database
from covey.errors import Fenced
from covey.messaging.delivery import Received
from covey.messaging.options import LANES
from covey.testing.broker_contract import event
from covey.work.unit_of_work import call_all

KEY = "a key"
TAKE = "SELECT lane, position FROM covey.take($1, 16, 200)"


@pytest.fixture
async def worker(database: Database) -> AsyncIterator[Connection]:
    """A connection to a database in which two messages of a key wait."""
    async with database.connected() as connection:
        await connection.execute("INSERT INTO covey.ingest VALUES ('feed', 0)")
        columns = Received("feed", 0, 2, [event(key=KEY), event(key=KEY)]).columns()
        await call_all(connection, [("receive", [LANES, 0, *columns])])
        yield connection


async def test_what_one_worker_has_in_hand_no_other_is_given(worker: Connection, database: Database) -> None:
    async with database.connected() as another:
        await worker.execute("BEGIN")
        taken = await worker.fetch(TAKE, LANES)

        assert len(taken) == 2
        assert await another.fetch(TAKE, LANES) == []
        await worker.execute("ROLLBACK")
        assert await another.fetch(TAKE, LANES) == taken


async def test_who_finishes_what_somebody_else_has_finished_writes_nothing(worker: Connection) -> None:
    [(lane, first), (_, second)] = await worker.fetch(TAKE, LANES)
    await call_all(worker, [("finish", [[lane], [first]])])

    with pytest.raises(Fenced), translated():
        await call_all(worker, [("finish", [[lane, lane], [first, second]])])

    assert await worker.fetch("SELECT position FROM covey.inbox_pending") == [(second,)]


async def test_who_finishes_behind_a_hold_what_somebody_else_has_finished_writes_nothing(worker: Connection) -> None:
    [(_, first), (_, second)] = await worker.fetch(TAKE, LANES)
    parked = [[KEY] * 2, [first, second], ["waiting"] * 2, [None] * 2, [1] * 2, [None] * 2, [None] * 2, ["why"] * 2]
    for place in (0, 1):
        await call_all(worker, [("park", [[column[place]] for column in parked])])
    await call_all(worker, [("finish_held", [[KEY], [first]])])

    with pytest.raises(Fenced), translated():
        await call_all(worker, [("finish_held", [[KEY, KEY], [first, second]])])

    assert await worker.fetch("SELECT position FROM covey.inbox_held") == [(second,)]
