"""Valkey away, silent, or back with what it had: slower, never wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from covey.cache.caches import Caches
from covey.errors import ValkeyUnavailable
from covey.local.engines.embedded import Engines
from covey.telemetry.metrics import Metrics
from covey.testing.cable import Cable
from covey.testing.eventually import eventually
from tests.cache.shelf import Gate, Process, Shelf, Thing, declared, kept_again, process

BRIEFLY = declared(hold=timedelta(milliseconds=500))


@pytest.fixture
async def cable(covey_engines: Engines) -> AsyncIterator[Cable]:
    """The line over which processes reach Valkey."""
    async with Cable.to(covey_engines.valkey_url) as laid:
        yield laid


@pytest.fixture
async def one(cable: Cable, system_name: str) -> AsyncIterator[Process]:
    """A process that may be cut off."""
    async with process(cable.url, system_name, BRIEFLY) as opened:
        yield opened


@pytest.fixture
async def other(cable: Cable, system_name: str) -> AsyncIterator[Process]:
    """Another one, cut off with it."""
    async with process(cable.url, system_name) as opened:
        yield opened


@pytest.fixture
async def near(covey_engines: Engines, system_name: str) -> AsyncIterator[Process]:
    """A process that is never cut off."""
    async with process(covey_engines.valkey_url, system_name) as opened:
        yield opened


async def cut(cable: Cable, *processes: Process) -> None:
    cable.cut()
    await eventually(lambda: not any(each.valkey.is_connected for each in processes))


async def mend(cable: Cable, *processes: Process) -> None:
    cable.mend()
    await eventually(lambda: all(each.valkey.is_connected for each in processes))


async def test_while_it_is_away_reads_are_loaded_without_waiting_for_it(cable: Cable, one: Process) -> None:
    shelf = Shelf({1: 7})
    await cut(cable, one)
    begun = asyncio.get_running_loop().time()

    found = [await one.get(shelf) for _ in range(200)]

    assert asyncio.get_running_loop().time() - begun < 2
    assert found == [Thing(1, 7)] * 200
    assert len(shelf.loads) == one.counted("reads", "away") == 200


async def test_while_it_is_away_one_of_many_loads_and_no_more_than_a_few_things_at_a_time(
    cable: Cable, one: Process
) -> None:
    shelf = Shelf(dict.fromkeys(range(100), 7))
    await cut(cable, one)

    await asyncio.gather(*(one.get(shelf, id_) for id_ in range(100) for _ in range(5)))

    assert len(shelf.loads) == 100
    assert shelf.most_at_once == 8


async def test_while_it_is_away_nobody_shares_what_was_loaded_before_he_asked(cable: Cable, one: Process) -> None:
    gate, shelf = Gate(), Shelf({1: 1})
    shelf.pause = gate
    await cut(cable, one)
    before = asyncio.create_task(one.get(shelf))
    await gate.waiting.wait()

    shelf.versions[1] = 2
    after = [asyncio.create_task(one.get(shelf)) for _ in range(10)]
    await eventually(lambda: one.counted("waits", "this process") == 10)
    gate.open.set()

    assert await before == Thing(1, 1)
    assert await asyncio.gather(*after) == [Thing(1, 2)] * 10
    assert len(shelf.loads) == 2


async def test_it_is_used_again_when_it_is_back(cable: Cable, one: Process) -> None:
    shelf = Shelf({1: 7})
    await cut(cable, one)
    await one.get(shelf)
    await mend(cable, one)

    found = [await one.get(shelf) for _ in range(3)]

    assert found == [Thing(1, 7)] * 3
    assert len(shelf.loads) == 2
    assert one.counted("reads", "hit") == 2


async def test_one_that_falls_silent_costs_a_read_the_time_for_an_answer_once(cable: Cable, system_name: str) -> None:
    shelf = Shelf({1: 7})
    async with process(cable.url, system_name, answer=timedelta(milliseconds=300)) as one:
        await one.get(shelf)
        cable.freeze()
        begun = asyncio.get_running_loop().time()

        found = await asyncio.gather(*(one.get(shelf) for _ in range(10)))
        found += [await one.get(shelf) for _ in range(10)]

        assert asyncio.get_running_loop().time() - begun < 2
        assert found == [Thing(1, 7)] * 20
        cable.thaw()
        await eventually(lambda: one.valkey.is_connected)
        await one.get(shelf)
        assert await one.get(shelf) == Thing(1, 7)


async def test_what_was_changed_while_it_was_away_is_not_believed_when_it_is_back_with_the_old_value(
    cable: Cable, one: Process, other: Process, near: Process
) -> None:
    shelf = Shelf({1: 1})
    await one.get(shelf)
    await cut(cable, one, other)
    await one.cache.changing(1)
    shelf.versions[1] = 2
    await mend(cable, one, other)

    assert b'"version":1' in (await near.raw() or b"")
    assert await other.get(shelf) == await one.get(shelf) == Thing(1, 2)
    assert one.counted("troubles", "unannounced") == 1


async def test_what_was_read_when_it_was_back_and_before_the_commit_of_a_change_is_not_believed_after_it(
    cable: Cable, one: Process
) -> None:
    shelf = Shelf({1: 1})
    await cut(cable, one)
    await one.cache.changing(1)
    await mend(cable, one)
    await one.get(shelf)
    shelf.versions[1] = 2

    await kept_again(one, shelf, Thing(1, 2))


async def test_who_was_not_cut_off_hears_of_the_change_by_its_event(cable: Cable, one: Process, near: Process) -> None:
    shelf = Shelf({1: 1})
    await near.get(shelf)
    await cut(cable, one)
    await one.cache.changing(1)
    shelf.versions[1] = 2

    with pytest.raises(ValkeyUnavailable):
        await one.cache.changed(1)  # the event comes again, here or where Valkey can be reached
    await near.cache.changed(1)

    assert await near.get(shelf) == Thing(1, 2)


async def test_what_is_kept_under_a_lease_of_before_is_not_believed_by_who_was_cut_off_since(
    cable: Cable, one: Process, near: Process
) -> None:
    gate, shelf = Gate(), Shelf({1: 1})
    shelf.pause = gate
    await one.get(Shelf({2: 1}), 2)
    slow = asyncio.create_task(near.get(shelf))
    await gate.waiting.wait()
    await cut(cable, one)
    await one.cache.changing(1)
    shelf.versions[1] = 2
    await mend(cable, one)
    await kept_again(one, Shelf({2: 1}), Thing(2, 1))  # it has begun an epoch
    gate.open.set()
    await slow

    assert await one.get(shelf) == Thing(1, 2)


async def test_a_server_that_begins_another_life_may_have_lost_a_change_and_is_not_believed(
    covey_engines: Engines, system_name: str, near: Process
) -> None:
    shelf = Shelf({1: 1})
    await near.get(shelf)
    shelf.versions[1] = 2  # the announcement was acknowledged, and is lost with the server
    epoch_key = f"{system_name}:shelf:cache-epoch"
    epoch = await near.valkey.call("GET", epoch_key)
    await near.valkey.call("SET", epoch_key, epoch[:16] + b"0" * 40)

    async with process(covey_engines.valkey_url, system_name) as fresh:
        assert await fresh.get(shelf) == Thing(1, 2)
        assert await near.valkey.call("GET", epoch_key) > epoch


async def test_a_process_that_comes_new_finds_what_the_others_keep(
    covey_engines: Engines, system_name: str, near: Process
) -> None:
    await near.get(Shelf({1: 7}))

    async with process(covey_engines.valkey_url, system_name) as fresh:
        assert await fresh.get(Shelf()) == Thing(1, 7)


async def test_an_epoch_that_was_lost_is_followed_by_another(near: Process, system_name: str) -> None:
    shelf = Shelf(dict.fromkeys(range(4), 7))
    await near.get(shelf, 0)
    await near.valkey.call("DEL", f"{system_name}:shelf:cache-epoch")

    for id_ in (1, 2, 2, 0, 0):
        assert await near.get(shelf, id_) == Thing(id_, 7)

    assert shelf.loads == [0, 1, 2, 0]


async def test_a_service_without_one_loads_once_at_a_time() -> None:
    cache = Caches(None, "system", "shelf", Metrics()).of(declared())
    shelf = Shelf({1: 7})

    found = await asyncio.gather(*(cache.get(1, lambda: shelf.read(1)) for _ in range(20)))
    await cache.changing(1)
    await cache.changed(1)

    assert found == [Thing(1, 7)] * 20
    assert shelf.loads == [1]
