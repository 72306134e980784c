"""No old value stays, whoever reads and writes at the same time, and whoever dies in between."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from covey.cache.entries import MARKED
from covey.local.engines.embedded import Engines
from covey.testing.eventually import eventually
from tests.cache.shelf import Gate, Process, Shelf, Thing, declared, process

MS = timedelta(milliseconds=1)
BRIEFLY = declared(hold=1_000 * MS)
LONGER = declared(hold=3_000 * MS)


@pytest.fixture
async def one(covey_engines: Engines, system_name: str) -> AsyncIterator[Process]:
    """A process whose announcements hold for a short time."""
    async with process(covey_engines.valkey_url, system_name, BRIEFLY) as opened:
        yield opened


@pytest.fixture
async def other(covey_engines: Engines, system_name: str) -> AsyncIterator[Process]:
    """Another process of the same service."""
    async with process(covey_engines.valkey_url, system_name, BRIEFLY) as opened:
        yield opened


async def test_a_change_is_seen_by_all_who_ask_after_it(one: Process, other: Process) -> None:
    shelf = Shelf({1: 1})
    await one.get(shelf)

    await other.cache.changing(1)
    shelf.versions[1] = 2

    assert [await each.get(shelf) for each in (one, other)] == [Thing(1, 2)] * 2


@pytest.mark.parametrize("how", ["changing", "changed"])
async def test_a_slow_reader_keeps_nothing_that_was_changed_meanwhile(one: Process, other: Process, how: str) -> None:
    gate, shelf = Gate(), Shelf({1: 1})
    shelf.pause = gate
    slow = asyncio.create_task(one.get(shelf))
    await gate.waiting.wait()

    await getattr(other.cache, how)(1)
    shelf.versions[1] = 2
    gate.open.set()

    assert await slow == Thing(1, 1)
    assert one.counted("troubles", "overtaken") == 1
    assert await other.get(shelf) == await one.get(shelf) == Thing(1, 2)


async def test_who_asks_after_a_change_does_not_share_what_was_loaded_before_it(one: Process, other: Process) -> None:
    gate, shelf = Gate(), Shelf({1: 1})
    shelf.pause = gate
    before = asyncio.create_task(one.get(shelf))
    await gate.waiting.wait()

    shelf.versions[1] = 2
    await other.cache.changed(1)
    after = [asyncio.create_task(one.get(shelf)) for _ in range(10)]
    await eventually(lambda: one.counted("waits", "this process") == 10)
    gate.open.set()

    assert await before == Thing(1, 1)
    assert await asyncio.gather(*after) == [Thing(1, 2)] * 10
    assert shelf.loads == [1, 1]


async def test_nothing_is_kept_between_the_announcement_and_the_commit(one: Process, other: Process) -> None:
    shelf = Shelf({1: 1})

    await one.cache.changing(1)
    before = await other.get(shelf)
    shelf.versions[1] = 2

    assert before == Thing(1, 1)
    assert await other.get(shelf) == Thing(1, 2)


async def test_a_writer_that_dies_after_its_commit_leaves_no_old_value_and_later_the_new_one_is_kept(
    one: Process, other: Process
) -> None:
    shelf = Shelf({1: 1})
    await other.get(shelf)

    await one.cache.changing(1)
    shelf.versions[1] = 2  # and nothing more is heard of it

    async def kept() -> bool:
        assert await other.get(shelf) == Thing(1, 2)
        return other.counted("reads", "hit") > 0

    await eventually(kept)


async def test_a_change_that_has_ended_does_not_end_the_announcement_of_the_next(one: Process, other: Process) -> None:
    shelf = Shelf({1: 1})
    await one.cache.changing(1)
    shelf.versions[1] = 2
    await other.cache.changing(1)

    await one.cache.changed(1)
    await one.get(shelf)
    shelf.versions[1] = 3

    assert await one.get(shelf) == Thing(1, 3)


async def test_a_server_that_is_full_forgets_nevertheless(one: Process, other: Process) -> None:
    shelf = Shelf({1: 1})
    await one.get(shelf)
    await one.valkey.call("CONFIG", "SET", "maxmemory", 1)
    try:
        await other.cache.changing(1)
        shelf.versions[1] = 2

        assert await one.get(shelf) == Thing(1, 2)
    finally:
        await one.valkey.call("CONFIG", "SET", "maxmemory", 0)


RACES = 5_000


@pytest.mark.parametrize("announced", [True, False])
async def test_of_races_between_readers_and_writers_none_leaves_an_old_value(
    covey_engines: Engines, system_name: str, announced: bool
) -> None:
    async with (
        process(covey_engines.valkey_url, system_name, LONGER) as one,
        process(covey_engines.valkey_url, system_name, LONGER) as other,
    ):
        await races(one, other, announced)


async def races(one: Process, other: Process, announced: bool) -> None:
    chance = random.Random(7)
    shelf = Shelf(dict.fromkeys(range(RACES), 1), pause=lambda: turns(chance.randrange(12)))

    async def race(id_: int) -> int:
        readers = [read(shelf, chance.choice((one, other)), id_, chance.randrange(6)) for _ in range(3)]
        await asyncio.gather(*readers, write(shelf, other, id_, announced, chance.randrange(12)))
        return sum([await each.get(shelf, id_) != Thing(id_, 2) for each in (one, other)])

    wrong_at_once = 0
    for first in range(0, RACES, 100):
        wrong_at_once += sum(await asyncio.gather(*map(race, range(first, first + 100))))

    await eventually(lambda: gone(one, RACES - 1))
    wrong_later = sum([await one.get(shelf, id_) != Thing(id_, 2) for id_ in range(RACES)])
    assert (wrong_at_once, wrong_later) == (0, 0)
    assert one.counted("troubles", "overtaken") + other.counted("troubles", "overtaken") > RACES / 50


async def turns(number: int) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


async def read(shelf: Shelf, process: Process, id_: int, pause: int) -> None:
    await turns(pause)
    await process.get(shelf, id_)


async def write(shelf: Shelf, process: Process, id_: int, announced: bool, pause: int) -> None:
    await turns(pause)
    if announced:
        await process.cache.changing(id_)
        await turns(pause)
    shelf.versions[id_] = 2
    await turns(pause)
    if not announced:
        await process.cache.changed(id_)


async def gone(process: Process, id_: int) -> bool:
    """Tell whether the announcement of a change has run out."""
    return await process.raw(id_) != MARKED
