"""Cache-aside on a real Valkey: what is kept, who loads, who waits."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from covey.errors import DeadlineExceeded, DefinitionError
from covey.local.engines.embedded import Engines
from covey.resilience.bulkhead import BulkheadFull
from covey.testing.eventually import eventually
from tests.cache.shelf import Declaration, Gate, Process, Shelf, Thing, declared, process

MS = timedelta(milliseconds=1)


@pytest.fixture
async def one(covey_engines: Engines, system_name: str) -> AsyncIterator[Process]:
    """A process with the usual options."""
    async with process(covey_engines.valkey_url, system_name) as opened:
        yield opened


async def test_what_was_read_is_kept(one: Process) -> None:
    shelf = Shelf({1: 7})

    found = [await one.get(shelf) for _ in range(3)]

    assert found == [Thing(1, 7)] * 3
    assert shelf.loads == [1]
    assert one.counted("reads", "hit") == 2
    assert one.counted("reads", "miss") == one.counted("loads", "done") == 1


async def test_that_there_is_none_is_kept_too_and_for_a_shorter_time(one: Process, system_name: str) -> None:
    shelf = Shelf({2: 1})

    for id_ in (1, 1, 2):
        await one.get(shelf, id_)

    none, thing = [await one.valkey.call("PTTL", one.key(id_)) for id_ in (1, 2)]
    assert shelf.loads == [1, 2]
    assert one.counted("reads", "negative hit") == 1
    assert 0 < none <= 10_000 < 200_000 < thing <= 300_000


async def test_what_was_kept_long_enough_is_read_again(covey_engines: Engines, system_name: str) -> None:
    shelf = Shelf({1: 7})
    async with process(covey_engines.valkey_url, system_name, declared(ttl=20 * MS)) as one:
        await one.get(shelf)

        async def read_again() -> bool:
            await one.get(shelf)
            return len(shelf.loads) > 1

        await eventually(read_again)


async def test_what_was_kept_together_does_not_expire_together(one: Process, system_name: str) -> None:
    shelf = Shelf(dict.fromkeys(range(50), 1))

    for id_ in range(50):
        await one.get(shelf, id_)

    left = [await one.valkey.call("PTTL", one.key(id_)) for id_ in range(50)]
    assert max(left) - min(left) > 5_000
    assert min(left) > 265_000
    assert max(left) <= 300_000


async def test_of_80_who_ask_at_once_one_loads(one: Process) -> None:
    gate = Gate()
    shelf = Shelf({1: 7}, pause=gate)

    reads = [asyncio.create_task(one.get(shelf)) for _ in range(80)]
    await eventually(lambda: one.counted("waits", "this process") == 79)
    gate.open.set()

    assert await asyncio.gather(*reads) == [Thing(1, 7)] * 80
    assert shelf.loads == [1]


CROWD = """
import asyncio, sys
from covey.cache.caches import Caches
from covey.telemetry.metrics import Metrics
from covey.valkey.client import Valkey
from tests.cache.shelf import Thing, declared

async def main():
    async with Valkey.open(sys.argv[1]) as valkey:
        cache = Caches(valkey, sys.argv[2], "shelf", Metrics()).of(declared())

        async def load():
            await valkey.call("INCR", sys.argv[2] + ":loads")
            await asyncio.sleep(0.1)
            return Thing(1, 7)

        print("here", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        found = await asyncio.gather(*(cache.get(1, load) for _ in range(250)))
        print(sum(one == Thing(1, 7) for one in found))

asyncio.run(main())
"""


async def test_of_1_000_in_4_processes_who_ask_at_once_one_loads(
    covey_engines: Engines, system_name: str, one: Process
) -> None:
    command = [sys.executable, "-c", CROWD, covey_engines.valkey_url, system_name]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    crowd = [await asyncio.create_subprocess_exec(*command, **pipes) for _ in range(4)]
    for member in crowd:
        assert member.stdout is not None
        assert await member.stdout.readline() == b"here\n"

    outputs = await asyncio.gather(*(member.communicate(b"now\n") for member in crowd))

    assert [int(output) for output, _ in outputs] == [250] * 4
    assert await one.valkey.call("GET", f"{system_name}:loads") == b"1"


class TestWhoLoads:
    async def test_and_dies_leaves_a_lease_that_runs_out(self, covey_engines: Engines, system_name: str) -> None:
        gate, shelf = Gate(), Shelf({1: 7})
        read = declared(lease=300 * MS)
        async with (
            process(covey_engines.valkey_url, system_name, read) as other,
            process(covey_engines.valkey_url, system_name, read) as dying,
        ):
            loading = asyncio.create_task(dying.get(Shelf(pause=gate)))
            await gate.waiting.wait()
            dying.valkey.connection.close()  # whatever it says from now on, nobody hears
            loading.cancel()

            assert await other.get(shelf) == Thing(1, 7)
            assert await other.get(Shelf()) == Thing(1, 7)

        assert other.counted("waits", "another process") >= 1
        assert shelf.loads == [1]

    async def test_and_is_slow_is_waited_for(self, covey_engines: Engines, system_name: str, one: Process) -> None:
        gate = Gate()
        async with process(covey_engines.valkey_url, system_name) as other:
            slow = asyncio.create_task(one.get(Shelf({1: 7}, pause=gate)))
            await gate.waiting.wait()
            waiting = asyncio.create_task(other.get(shelf := Shelf({1: 7})))
            await eventually(lambda: other.counted("waits", "another process") >= 2)
            gate.open.set()

            assert await waiting == await slow == Thing(1, 7)
            assert shelf.loads == []

    async def test_and_hangs_is_not_waited_for_for_ever(self, covey_engines: Engines, system_name: str) -> None:
        read = declared(lease=300 * MS)
        gate = Gate()
        async with process(covey_engines.valkey_url, system_name, read) as one:
            hanging = asyncio.create_task(one.get(Shelf(pause=gate)))
            await gate.waiting.wait()
            async with process(covey_engines.valkey_url, system_name, read) as other:
                assert await other.get(Shelf({1: 7})) == Thing(1, 7)
            gate.open.set()
            await hanging

            assert await one.get(Shelf()) == Thing(1, 7)
            assert one.counted("troubles", "overtaken") == 1

    async def test_and_fails_fails_for_all_who_wait_and_keeps_nobody_from_trying_again(self, one: Process) -> None:
        attempts, gate = 0, Gate()

        async def load() -> Thing:
            nonlocal attempts
            attempts += 1
            await gate()
            raise RuntimeError("the database is gone")

        reads = [asyncio.create_task(one.cache.get(1, load)) for _ in range(20)]
        await eventually(lambda: one.counted("waits", "this process") == 19)
        gate.open.set()
        failed = await asyncio.gather(*reads, return_exceptions=True)

        assert [str(error) for error in failed] == ["the database is gone"] * 20
        assert attempts == one.counted("loads", "failed") == 1
        assert await asyncio.wait_for(one.get(Shelf({1: 7})), 1) == Thing(1, 7)

    @pytest.mark.parametrize("how", ["cancelled", "late"])
    async def test_and_gives_up_gives_up_for_nobody_else(self, one: Process, how: str) -> None:
        gate = Gate()

        async def late() -> Thing:
            await gate()
            raise DeadlineExceeded("the time of this request is over")

        leader = asyncio.create_task(one.cache.get(1, late))
        await gate.waiting.wait()
        shelf = Shelf({1: 7})
        others = [asyncio.create_task(one.get(shelf)) for _ in range(10)]
        await eventually(lambda: one.counted("waits", "this process") == 10)
        if how == "cancelled":
            leader.cancel()
        gate.open.set()

        assert await asyncio.wait_for(asyncio.gather(*others), 1) == [Thing(1, 7)] * 10
        assert shelf.loads == [1]
        assert isinstance((await asyncio.gather(leader, return_exceptions=True))[0], BaseException)

    async def test_and_gives_up_while_it_asks_for_a_lease_leaves_none(
        self, covey_engines: Engines, system_name: str
    ) -> None:
        async with process(covey_engines.valkey_url, system_name, declared(lease=timedelta(minutes=1))) as one:
            await one.get(Shelf({2: 7}), 2)
            asking = asyncio.create_task(one.get(Shelf({1: 7})))
            while one.counted("reads", "miss") < 2:  # noqa: ASYNC110 - it must be seen in the very turn of the loop
                await asyncio.sleep(0)  # in which the lease is asked for, so that no answer can have come
            asking.cancel()

            assert await asyncio.wait_for(one.get(Shelf({1: 7})), 10) == Thing(1, 7)
        assert asking.cancelled()

    async def test_is_not_stopped_by_one_who_waits_and_gives_up(self, one: Process) -> None:
        gate = Gate()
        shelf = Shelf({1: 7}, pause=gate)
        first, second, third = (asyncio.create_task(one.get(shelf)) for _ in range(3))
        await gate.waiting.wait()

        second.cancel()
        gate.open.set()

        assert await first == await third == Thing(1, 7)

    async def test_is_one_of_a_few(self, covey_engines: Engines, system_name: str) -> None:
        gate = Gate()
        shelf = Shelf(dict.fromkeys(range(6), 1), pause=gate)
        async with process(covey_engines.valkey_url, system_name, declared(most=2, waiting=3)) as one:
            reads = [asyncio.create_task(one.get(shelf, id_)) for id_ in range(6)]
            await eventually(lambda: any(read.done() for read in reads))
            gate.open.set()
            found = await asyncio.gather(*reads, return_exceptions=True)

        assert sum(isinstance(each, BulkheadFull) for each in found) == 1
        assert shelf.most_at_once == 2


class TestWhatCannotBeRead:
    @pytest.mark.parametrize("garbage", [b"", b"\x00\xff", b"0" * 500, b"{}"])
    async def test_is_replaced(self, one: Process, system_name: str, garbage: bytes) -> None:
        await one.valkey.call("SET", one.key(), garbage)
        shelf = Shelf({1: 7})

        found = [await one.get(shelf) for _ in range(3)]

        assert found == [Thing(1, 7)] * 3
        assert shelf.loads == [1]

    async def test_though_it_says_that_it_is_of_this_shape_is_replaced(self, one: Process, system_name: str) -> None:
        await one.get(Shelf({1: 7}))
        entry = await one.valkey.call("GET", one.key())
        await one.valkey.call("SET", one.key(), entry[:-5])
        shelf = Shelf({1: 8})

        found = [await one.get(shelf) for _ in range(3)]

        assert found == [Thing(1, 8)] * 3
        assert one.counted("troubles", "unreadable") == 1

    async def test_because_something_else_is_there_is_read_from_where_it_is(
        self, one: Process, system_name: str
    ) -> None:
        await one.valkey.call("HSET", one.key(), "field", "value")

        assert await one.get(Shelf({1: 7})) == Thing(1, 7)

    async def test_because_another_version_has_another_shape_is_replaced_and_both_hear_of_changes(
        self, covey_engines: Engines, system_name: str, one: Process
    ) -> None:
        later = Declaration(type=Thing | int | None)
        async with process(covey_engines.valkey_url, system_name, later) as other:
            await one.get(Shelf({1: 7}))
            found = await other.get(Shelf({1: 7}))
            await one.cache.changed(1)

            assert found == Thing(1, 7)
            assert other.counted("reads", "miss") == 1
            assert await other.get(Shelf({1: 8})) == Thing(1, 8)


async def test_what_is_not_of_the_declared_type_is_returned_and_not_kept(one: Process, system_name: str) -> None:
    async def load() -> str:
        return "no thing"

    assert await one.cache.get(1, load) == "no thing"
    assert await one.valkey.call("EXISTS", one.key()) == 0
    assert one.counted("troubles", "unwritable") == 1


async def test_systems_and_services_share_nothing_and_keys_hold_only_ids(
    covey_engines: Engines, system_name: str, one: Process
) -> None:
    async with (
        process(covey_engines.valkey_url, f"{system_name}-2") as other_system,
        process(covey_engines.valkey_url, system_name, service="box") as other_service,
    ):
        await one.get(Shelf({1: 7}))
        assert await other_system.get(Shelf({1: 8})) == Thing(1, 8)
        assert await other_service.get(Shelf({1: 9})) == Thing(1, 9)
        assert await one.get(Shelf()) == Thing(1, 7)

    _, keys = await one.valkey.call("SCAN", 0, "MATCH", f"{system_name}*", "COUNT", 100_000)
    assert {key.decode().removeprefix(system_name) for key in keys} == {
        f"{system}:{service}:cache{what}"
        for system, service in (("", "shelf"), ("-2", "shelf"), ("", "box"))
        for what in ("-epoch", ":thing:1")
    }


async def test_two_reads_of_one_name_are_a_mistake(one: Process) -> None:
    with pytest.raises(DefinitionError, match="two cached reads"):
        one.caches.of(declared())


@pytest.mark.parametrize("name", ["", "Thing", "a:b", "a b"])
async def test_a_name_that_would_not_keep_keys_apart_is_a_mistake(one: Process, name: str) -> None:
    with pytest.raises(DefinitionError, match="cannot name"):
        one.caches.of(Declaration(name=name))


async def test_a_span_that_is_none_is_a_mistake() -> None:
    with pytest.raises(DefinitionError, match="too short"):
        declared(ttl=timedelta(0))
