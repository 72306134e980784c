"""Valkey answers, and refuses what would change it: a full disk, too few replicas, a connection that is far behind."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from covey.errors import ValkeyUnavailable
from covey.local.engines.embedded import Engines
from covey.testing.cable import Cable
from covey.testing.eventually import eventually
from covey.valkey.connection import MOST_WAITING
from covey.valkey.together import Part
from tests.cache.shelf import Gate, Process, Shelf, Thing, declared, kept_again, process
from tests.harness.breakable_valkey import BreakableValkey, breakable_valkey

BRIEFLY = declared(hold=timedelta(milliseconds=500))


@pytest.fixture
async def valkey(tmp_path: Path) -> AsyncIterator[BreakableValkey]:
    """A server of its own, for what is set there is for all who use it."""
    async with breakable_valkey(tmp_path) as server:
        yield server


@pytest.fixture
async def one(valkey: BreakableValkey, system_name: str) -> AsyncIterator[Process]:
    """A process that changes things."""
    async with process(valkey.url, system_name, BRIEFLY) as opened:
        yield opened


@pytest.fixture
async def other(valkey: BreakableValkey, system_name: str) -> AsyncIterator[Process]:
    """Another process of the same service."""
    async with process(valkey.url, system_name, BRIEFLY) as opened:
        yield opened


NO_REPLICAS = (("CONFIG", "SET", "min-replicas-to-write", 1), ("CONFIG", "SET", "min-replicas-to-write", 0))
"""How a server comes to take no writes, and takes them again: it has no replica."""
READ_ONLY = (("REPLICAOF", "127.0.0.1", 1), ("REPLICAOF", "NO", "ONE"))
"""It is itself one, and keeps its connections."""


async def refuse(one: Process) -> None:
    """Have the server take no writes."""
    await one.valkey.call(*NO_REPLICAS[0])


async def accept(one: Process) -> None:
    """Have it take them again."""
    await one.valkey.call(*NO_REPLICAS[1])


@pytest.mark.parametrize(("refusing", "accepting"), [NO_REPLICAS, READ_ONLY])
async def test_who_could_not_announce_a_change_does_not_believe_the_old_value(
    one: Process, refusing: tuple[Part, ...], accepting: tuple[Part, ...]
) -> None:
    shelf = Shelf({1: 1})
    await one.get(shelf)
    await one.valkey.call(*refusing)
    await one.cache.changing(1)
    shelf.versions[1] = 2

    assert await one.get(shelf) == Thing(1, 2)
    assert b'"version":1' in (await one.raw() or b"")
    assert one.counted("troubles", "unannounced") == 1
    assert one.valkey.is_unbroken
    await one.valkey.call(*accepting)
    await kept_again(one, shelf, Thing(1, 2))


async def test_what_is_read_before_the_commit_of_such_a_change_is_not_believed_after_it(
    one: Process, other: Process
) -> None:
    shelf = Shelf({1: 1})
    await one.get(shelf)
    await refuse(one)
    await one.cache.changing(1)
    await accept(one)
    await one.get(shelf)
    await other.valkey.call("DEL", other.key())
    await other.get(shelf)
    shelf.versions[1] = 2

    assert b'"version":1' in (await one.raw() or b"")
    await kept_again(one, shelf, Thing(1, 2))


async def test_who_asks_after_such_a_change_shares_nothing_with_who_asked_before_it(
    one: Process, other: Process
) -> None:
    gate, shelf = Gate(), Shelf({1: 1})
    slow = asyncio.create_task(other.get(Shelf({1: 1}, pause=gate)))
    await gate.waiting.wait()
    before = asyncio.create_task(one.get(shelf))
    await eventually(lambda: one.counted("waits", "another process") > 0)

    await refuse(one)
    await one.cache.changing(1)
    await accept(one)
    shelf.versions[1] = 2
    after = asyncio.create_task(one.get(shelf))
    await eventually(lambda: one.counted("reads", "away") > 0)
    gate.open.set()

    assert await slow == await before == Thing(1, 1)
    assert await after == Thing(1, 2)


async def test_a_load_from_before_such_a_change_that_is_kept_is_for_nobody_who_asks_after_it(one: Process) -> None:
    gate, shelf = Gate(), Shelf({1: 1})
    shelf.pause = gate
    before = asyncio.create_task(one.get(shelf))
    await gate.waiting.wait()

    await refuse(one)
    await one.cache.changing(1)
    await accept(one)
    shelf.versions[1] = 2
    after = asyncio.create_task(one.get(shelf))
    await eventually(lambda: one.counted("reads", "away") > 0)
    gate.open.set()

    assert await before == Thing(1, 1)
    assert await after == Thing(1, 2)


async def test_a_change_that_is_not_announced_because_too_many_commands_wait_is_one_too(
    covey_engines: Engines, system_name: str
) -> None:
    shelf = Shelf({1: 1})
    async with Cable.to(covey_engines.valkey_url) as cable, process(cable.url, system_name) as one:
        await one.get(shelf)
        cable.freeze()
        waiting = [one.valkey.call("GET", "nothing") for _ in range(MOST_WAITING)]
        await one.cache.changing(1)
        shelf.versions[1] = 2
        cable.thaw()
        await asyncio.gather(*waiting)

        assert one.valkey.is_unbroken
        assert await one.get(shelf) == Thing(1, 2)


async def test_who_looked_before_such_a_change_and_loads_after_it_keeps_nothing(
    covey_engines: Engines, system_name: str
) -> None:
    gate = Gate()
    shelf = Shelf({1: 1}, pause=gate)
    async with Cable.to(covey_engines.valkey_url) as cable, process(cable.url, system_name) as one:
        await one.get(Shelf({2: 1}), 2)
        cable.freeze()
        before = asyncio.create_task(one.get(shelf))
        await asyncio.sleep(0)  # it has looked, and has no answer
        waiting = [one.valkey.call("GET", "nothing") for _ in range(MOST_WAITING - 1)]
        await one.cache.changing(1)
        cable.thaw()
        await asyncio.gather(*waiting)
        await gate.waiting.wait()
        shelf.versions[1] = 2
        after = asyncio.create_task(one.get(shelf))
        await eventually(lambda: one.counted("reads", "away") > 0)
        gate.open.set()

        assert await before == Thing(1, 1)
        assert await after == Thing(1, 2)
        assert await one.raw() is None


async def test_a_session_that_begins_while_a_change_cannot_be_announced_is_none(
    valkey: BreakableValkey, system_name: str, other: Process
) -> None:
    shelf = Shelf({1: 1})
    await other.get(shelf)
    async with Cable.to(valkey.url) as cable, process(cable.url, system_name) as one:
        cable.freeze()
        before = asyncio.create_task(one.get(shelf))  # asks the server which life it lives
        changing = asyncio.create_task(one.cache.changing(1))
        await refuse(other)
        cable.thaw()
        await changing
        shelf.versions[1] = 2
        await before

        assert await one.get(shelf) == Thing(1, 2)


async def test_who_could_not_forget_what_was_changed_does_not_believe_it(one: Process, other: Process) -> None:
    shelf = Shelf({1: 1})
    await other.get(shelf)
    await refuse(one)
    await one.cache.changing(1)
    shelf.versions[1] = 2

    with pytest.raises(ValkeyUnavailable):
        await other.cache.changed(1)  # the event comes again

    assert await other.get(shelf) == Thing(1, 2)


async def test_the_event_of_a_change_is_handled_as_soon_as_writes_are_taken(one: Process, other: Process) -> None:
    shelf = Shelf({1: 1})
    await other.get(shelf)
    await refuse(one)
    await one.cache.changing(1)
    shelf.versions[1] = 2
    await accept(one)

    await one.cache.changed(1)

    assert await other.get(shelf) == Thing(1, 2)


async def test_all_of_a_change_is_announced_that_can_be(one: Process, other: Process) -> None:
    shelf = Shelf({1: 1, 2: 1})
    for id_ in (1, 2):
        await other.get(shelf, id_)
    await one.valkey.call("CONFIG", "SET", "maxmemory", 1)

    await one.cache.changing(1, 2)

    assert [await one.raw(id_) for id_ in (1, 2)] == [None, None]
    assert one.counted("troubles", "unannounced") == 1


async def test_a_crowd_that_comes_then_loads_each_thing_once_and_does_not_ask_it_again_and_again(
    one: Process, valkey: BreakableValkey, system_name: str
) -> None:
    await refuse(one)
    shelf = Shelf(dict.fromkeys(range(100), 7))
    async with process(valkey.url, system_name) as fresh:
        before = await looks(one)

        await asyncio.gather(*(fresh.get(shelf, id_) for id_ in range(100) for _ in range(5)))

        assert len(shelf.loads) == 100
        assert shelf.most_at_once <= 8
        assert await looks(one) - before <= 3
        before = await looks(one)
        for _ in range(200):
            await fresh.get(shelf)
        assert await looks(one) - before < 50
        await accept(one)
        await kept_again(fresh, shelf, Thing(1, 7))


async def looks(one: Process) -> int:
    """Return how often the server was asked which life it lives; this asks it too."""
    told = re.search(rb"cmdstat_info:calls=(\d+)", await one.valkey.call("INFO", "commandstats"))
    return int(told[1]) if told else 0
