"""Whatever comes in one turn, and in whatever order, leaves every saga a way on: nothing can strand one.

What a saga waits for may never come: a command expires, a participant is gone. So one that has not ended always has a
time after which it moves by itself.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest
from pydantic import BaseModel

from covey.clock import SystemClock
from covey.errors import Contention
from covey.ids import new_id
from covey.message import Command, Envelope, Refused
from covey.messaging.brokers.memory import MemoryBroker
from covey.saga.definition import pivot, retriable, step
from covey.saga.saga import Saga
from covey.testing.eventually import eventually
from covey.testing.replica import Replica, replica
from covey.work.inbox import enqueue
from covey.work.unit_of_work import Work

ROUNDS = 40
AT_ONCE = 30
SEEDS = [pytest.param(seed, marks=[pytest.mark.slow] if seed > 1 else []) for seed in range(1, 13)]


_QUEUED = "SELECT key FROM covey.inbox_pending UNION SELECT key FROM covey.inbox_held"
_STUCK = f"""
SELECT id, status, step, waiting FROM covey.saga
WHERE ended_at IS NULL AND deadline IS NULL AND id::text NOT IN ({_QUEUED})
"""


class Ask(Command, type="nobody.ask.v1", key="saga_id"):
    saga_id: UUID


class Unask(Command, type="nobody.unask.v1", key="saga_id"):
    saga_id: UUID


class Check(Command, type="nobody.check.v1", key="saga_id"):
    saga_id: UUID


class Uncheck(Command, type="nobody.uncheck.v1", key="saga_id"):
    saga_id: UUID


class Decide(Command, type="nobody.decide.v1", key="saga_id"):
    saga_id: UUID


class Follow(Command, type="nobody.follow.v1", key="saga_id"):
    saga_id: UUID


class Data(BaseModel):
    """What the saga carries: how its functions are to behave."""

    refuses: bool = False


async def here(data: Data, work: Work) -> Refused | None:
    """Do something in our own database, or say no."""
    return Refused(reason="not here") if data.refuses else None


async def there(data: Data, work: Work) -> None:
    """Do something in our own database that cannot be undone."""


async def unhere(data: Data, work: Work) -> None:
    """Undo it."""


saga = Saga(
    "watched",
    Data,
    step(Ask, undo=Unask),
    step(here, undo=unhere),
    step(Check, undo=Uncheck),
    pivot(Decide),
    retriable(there),
    retriable(Follow),
)


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("seed", SEEDS)
async def test_a_saga_that_has_not_ended_moves_by_itself_if_nothing_comes(
    make_database: Callable[[Path | None], str], replicas: int, seed: int
) -> None:
    chance, url, broker = random.Random(seed), make_database(None), MemoryBroker()
    async with AsyncExitStack() as stack:
        order, *_ = [
            await stack.enter_async_context(replica("order", url, broker, sagas=[saga])) for _ in range(replicas)
        ]
        asked: dict[UUID, list[UUID]] = {}
        for _ in range(ROUNDS):
            async with order.transactions.begin() as work:
                for _ in range(AT_ONCE - len(asked)):
                    asked[await saga.start(work, Data(refuses=chance.random() < 0.2))] = []
            try:
                async with order.transactions.begin() as work:
                    await _disturb(work, asked, chance)
            except Contention:
                continue  # a cancellation met a turn: everything of this round is taken back, as a request's would be
            await eventually(lambda: _quiet(order), within=timedelta(seconds=30))

            assert not [dict(row) for row in await order.fetch(_STUCK)]
            for row in await order.fetch("SELECT id FROM covey.saga WHERE ended_at IS NOT NULL"):
                asked.pop(row["id"], None)


async def _disturb(work: Work, asked: dict[UUID, list[UUID]], chance: random.Random) -> None:
    """Have several things come to each of some sagas at once; what it was ever asked for may be answered again."""
    # Locked, as the timers do it: or what one waits for would be another thing by the time its deadline is taken.
    rows = await work.fetch("SELECT id, waiting FROM covey.saga WHERE ended_at IS NULL ORDER BY id FOR UPDATE")
    waiting = {row["id"]: row["waiting"] for row in rows}
    for saga_id, waited_for in asked.items():
        now = waiting[saga_id]
        if now is not None and now not in waited_for:
            waited_for.append(now)
        if chance.random() < 0.3:
            continue
        coming = [*_coming(saga_id, now, waited_for, chance)]
        chance.shuffle(coming)
        for envelope in coming:
            if envelope.type.endswith(".saga-timeout.v1"):  # the timers take the deadline with what they tell
                await work.execute("UPDATE covey.saga SET deadline = NULL WHERE id = $1", saga_id)
        if chance.random() < 0.1:
            await saga.cancel(work, saga_id, "changed my mind")
        for envelope in coming:
            enqueue(work, envelope)


def _coming(saga_id: UUID, now: UUID | None, waited_for: list[UUID], chance: random.Random) -> Iterator[Envelope]:
    """Yield what comes to one saga: answers to what it waits for or has waited for, and that its time is up.

    That message is always of what it waits for now, since the timers read both at once.
    """
    if chance.random() < 0.4:
        yield _envelope(saga_id, "saga-timeout", "event", now, {})
    for _ in range(chance.choice([0, 1, 1, 1, 2, 3])):
        if waited_for:
            command = now if now is not None and chance.random() < 0.7 else chance.choice(waited_for)
            outcome = "done" if chance.random() < 0.8 else "refused"
            yield _envelope(saga_id, "reply", "reply", command, {"outcome": outcome, "data": {}})


def _envelope(saga_id: UUID, what: str, kind: str, answers: UUID | None, body: dict[str, object]) -> Envelope:
    return Envelope(
        id=new_id(),
        type=f"order.{what}.v1",
        key=str(saga_id),
        source="order",
        time=SystemClock().now(),
        body=json.dumps(body).encode(),
        kind=kind,  # type: ignore[arg-type]
        stream="order",
        headers={} if answers is None else {"in-reply-to": str(answers)},
    )


async def _quiet(order: Replica) -> bool:
    return not await order.fetch(_QUEUED)
