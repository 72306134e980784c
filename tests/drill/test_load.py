"""The load of a drill waits for nobody, and says whom it could not serve."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import pytest

from covey.testing.clock import FakeClock
from covey.testing.drill.drilled import Notes, OwnFault, Verdict
from covey.testing.drill.load import Load, arrivals
from covey.testing.drill.record import Record


@dataclass
class FakeDrilled:
    """A system that answers when it is told to."""

    answers: asyncio.Event = field(default_factory=asyncio.Event)
    wishes: list[float] = field(default_factory=list)
    error: Exception | None = None

    @property
    def faults(self) -> Sequence[OwnFault]:
        return ()

    async def prepare(self) -> None: ...

    async def arrive(self, chance: random.Random, notes: Notes) -> None:
        self.wishes.append(chance.random())
        if self.error:
            raise self.error
        await self.answers.wait()
        notes.accepted(0.1)

    async def completed(self) -> int:
        return 0

    async def audit(self, within_seconds: float) -> Verdict:
        return Verdict(rules={})


async def loaded(
    drilled: FakeDrilled, clock: FakeClock, most: int = 1_000, seed: int = 1
) -> tuple[Load, Record, asyncio.Task[None]]:
    """Let users arrive for ten seconds, ten a second."""
    record = Record(clock)
    load = Load(drilled, record, clock, most)
    running = asyncio.create_task(load.run(seed, 10, 10))
    await clock.sleepers(1)
    await clock.advance(timedelta(seconds=10))
    return load, record, running


async def test_who_arrives_does_not_wait_for_those_before(fake_clock: FakeClock) -> None:
    drilled = FakeDrilled()

    load, record, running = await loaded(drilled, fake_clock)

    await running
    assert record.arrived == load.under_way == len(list(arrivals(1, 10, 10))) > 50
    drilled.answers.set()
    await load.end(5)
    assert (load.under_way, len(record.accepts), record.not_begun) == (0, record.arrived, 0)


async def test_too_many_at_once_are_counted_and_not_begun(fake_clock: FakeClock) -> None:
    load, record, running = await loaded(FakeDrilled(), fake_clock, most=7)

    await running
    assert load.under_way == 7
    assert record.not_begun == record.arrived - 7
    await load.end(0.01)
    assert (load.under_way, record.abandoned) == (0, 7)


async def test_the_same_seed_brings_the_same_users_at_the_same_times(fake_clock: FakeClock) -> None:
    first, second, other = FakeDrilled(), FakeDrilled(), FakeDrilled()

    for drilled, seed in ((first, 1), (second, 1), (other, 2)):
        drilled.answers.set()
        _, _, running = await loaded(drilled, FakeClock(), seed=seed)
        await running

    assert first.wishes == second.wishes != other.wishes


async def test_a_mistake_of_a_user_ends_the_load(fake_clock: FakeClock) -> None:
    _, _, running = await loaded(FakeDrilled(error=ValueError("a mistake")), fake_clock)

    with pytest.raises(ValueError, match="a mistake"):
        await running
