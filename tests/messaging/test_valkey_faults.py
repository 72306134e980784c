"""What is promised when Valkey dies, freezes, or comes back with less than it had."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

import pytest

from covey.errors import BrokerUnavailable
from covey.message import Envelope
from covey.messaging.broker import Entry
from covey.messaging.brokers.valkey import ValkeyBroker
from covey.messaging.brokers.valkey_streams import Keeping
from covey.testing.broker_contract import EVENTS, by_key, event, events, everything, firsts, read, read_ids
from covey.testing.eventually import eventually
from covey.testing.replica import replica
from covey.valkey.client import Valkey
from tests.harness.breakable_valkey import BreakableValkey, breakable_valkey
from tests.messaging.feed import Feed, effects, handled, keeping


@pytest.fixture
def appendfsync() -> str:
    """When what it confirms is on the disk."""
    return "always"


@pytest.fixture
async def valkey(tmp_path: Path, appendfsync: str) -> AsyncIterator[BreakableValkey]:
    """A server of this test alone."""
    async with breakable_valkey(tmp_path / "engines", appendfsync) as server:
        yield server


@pytest.fixture
async def broker(valkey: BreakableValkey) -> AsyncIterator[ValkeyBroker]:
    """A broker on the server to break, with the stream of the service `order`."""
    opened = await ValkeyBroker.open(valkey.url, "shop")
    await opened.ensure_stream("order")
    yield opened
    await opened.close()


@pytest.fixture
async def stranger(valkey: BreakableValkey, broker: ValkeyBroker) -> AsyncIterator[ValkeyBroker]:
    """Another process's broker, which has seen nothing confirmed."""
    opened = await ValkeyBroker.open(valkey.url, "shop")
    yield opened
    await opened.close()


async def published(broker: ValkeyBroker, envelopes: list[Envelope]) -> bool:
    """Publish, as the relay does: again until it is confirmed."""
    try:
        await broker.publish(envelopes)
    except BrokerUnavailable:
        return False
    return True


async def incarnation(broker: ValkeyBroker) -> str:
    """Return that of the stream, or nothing while it cannot be had."""
    with suppress(BrokerUnavailable):
        return (await broker.extent("order")).incarnation
    return ""


async def five_of_ten_are_lost(valkey: BreakableValkey, broker: ValkeyBroker) -> str:
    """Have a server come back without half of what it has confirmed; return the stream's incarnation before."""
    await broker.publish(events(5, keys=1))
    size, before = valkey.size(), await incarnation(broker)
    await broker.publish(events(5, keys=1))
    await valkey.kill()
    valkey.cut(size)
    await valkey.start()
    return before


async def could_trim(broker: ValkeyBroker) -> bool:
    """Trim, as each broker does every minute; tell whether it could."""
    with suppress(BrokerUnavailable):
        await broker.trim("order")
        return True
    return False


async def _trimmed(broker: ValkeyBroker) -> bool:
    """Trim, and tell whether nothing is left."""
    await broker.trim("order")
    extent = await broker.extent("order")
    return extent.first > extent.last


async def _caught_up(replica: Valkey) -> bool:
    return b"master_link_status:up" in await replica.call("INFO", "replication")


async def seconds_until_unavailable(work: Awaitable[object]) -> float:
    """Return how long it took to fail."""
    begun = asyncio.get_running_loop().time()
    with pytest.raises(BrokerUnavailable):
        await work
    return asyncio.get_running_loop().time() - begun


class TestKilled:
    """The server is killed, and started again on its data. It syncs before it confirms."""

    @pytest.mark.parametrize("size", [1, 20, 300])
    async def test_what_was_confirmed_is_there_and_each_key_has_a_first_part(
        self, valkey: BreakableValkey, broker: ValkeyBroker, size: int
    ) -> None:
        offered = events(30_000, keys=11)
        confirmed: list[Envelope] = []

        async def publish() -> None:
            for first in range(0, len(offered), size):
                await broker.publish(offered[first : first + size])
                confirmed.extend(offered[first : first + size])

        publishing = asyncio.create_task(publish())
        await eventually(lambda: len(confirmed) >= 5 * size)
        await valkey.kill()
        assert await seconds_until_unavailable(publishing) < 2
        assert len(confirmed) < len(offered), "it was killed while publishing"

        await valkey.start()
        await eventually(lambda: incarnation(broker))
        stored = await everything(broker)
        bodies, expected = firsts(stored), by_key(offered)
        assert {entry.envelope.id for entry in stored} >= {one.id for one in confirmed}
        assert all(found == expected[key][: len(found)] for key, found in bodies.items())

    async def test_a_publisher_that_tries_again_and_a_reader_that_reads_on_get_all_in_order(
        self, valkey: BreakableValkey, broker: ValkeyBroker
    ) -> None:
        offered = events(3_000, keys=7)
        found: list[Entry] = []

        def distinct() -> set[UUID]:
            return {entry.envelope.id for entry in found}

        async def publish() -> None:
            for first in range(0, len(offered), 100):
                part = offered[first : first + 100]
                await eventually(lambda part=part: published(broker, part))

        async def consume() -> None:
            while len(distinct()) < len(offered):
                with suppress(BrokerUnavailable):
                    position = found[-1].sequence if found else 0
                    async with broker.read("order", EVENTS, position) as reader:
                        assert (await broker.extent("order")).continues(position)
                        while len(distinct()) < len(offered):
                            found.extend(await reader.next(50))
                await asyncio.sleep(0.01)

        async def damage() -> None:
            for part in (1, 2, 3):
                await eventually(lambda part=part: len(found) > part * 600)
                await valkey.restart()

        async with asyncio.timeout(60):
            await asyncio.gather(publish(), consume(), damage())

        assert firsts(found) == by_key(offered)
        sequences = [entry.sequence for entry in found]
        assert sequences == sorted(set(sequences))

    async def test_publishing_and_reading_fail_at_once_and_work_again_afterwards(
        self, valkey: BreakableValkey, broker: ValkeyBroker
    ) -> None:
        await broker.publish([event()])
        async with broker.read("order", EVENTS, 1) as reader:
            waiting = asyncio.create_task(reader.next(1))
            await valkey.kill()

            assert await seconds_until_unavailable(waiting) < 2
        for _ in range(3):
            assert await seconds_until_unavailable(broker.publish([event()])) < 0.5
            assert await seconds_until_unavailable(broker.extent("order")) < 0.5

        await valkey.start()
        again = event()
        await eventually(lambda: published(broker, [again]))
        assert (await everything(broker))[-1].envelope == again

    async def test_the_stream_stays_what_it_was_and_goes_on_with_sequences_that_none_had(
        self, valkey: BreakableValkey, broker: ValkeyBroker
    ) -> None:
        first, second, third = events(3, keys=1)
        await broker.publish([first])
        before = await broker.extent("order")

        await valkey.restart()
        await eventually(lambda: published(broker, [second]))
        await valkey.restart()
        await valkey.restart()  # and nothing was published in between
        await eventually(lambda: published(broker, [third]))

        after = await broker.extent("order")
        entries = await everything(broker)
        assert after.incarnation == before.incarnation
        assert [entry.envelope for entry in entries] == [first, second, third]
        places = [entry.sequence for entry in entries]
        assert [after.continues(place) for place in places] == [True] * 3
        assert [after.continues(place + 1) for place in places] == [False] * 3
        assert len(after.gaps) == 2
        assert await read_ids(broker, 2, after=places[0]) == [second.id, third.id]

    async def test_a_gap_at_an_end_of_what_is_held_loses_nobody(
        self, valkey: BreakableValkey, broker: ValkeyBroker
    ) -> None:
        await broker.publish(events(5, keys=1))
        await valkey.restart()

        await eventually(lambda: incarnation(broker))
        behind = await broker.extent("order")
        assert (behind.first, behind.last) == (1, 5)

        await broker.publish(events(1, keys=1))
        async with broker.read("order", EVENTS, 5) as reader:
            (entry,) = await read(reader, 1)
        await broker._valkey.call("XTRIM", "{shop:order}:log", "MINID", f"0-{entry.sequence}")
        before = await broker.extent("order")
        assert (before.first, before.last) == (6, entry.sequence)
        assert [before.continues(position) for position in (4, 5, 6, entry.sequence)] == [False, True, False, True]

    async def test_gaps_are_forgotten_when_what_came_behind_them_has_gone_and_nobody_goes_on_in_one(
        self, valkey: BreakableValkey
    ) -> None:
        keeping = Keeping(max_age=timedelta(milliseconds=20), marks=timedelta(0))
        broker = await ValkeyBroker.open(valkey.url, "shop", keeping=keeping)
        await broker.ensure_stream("order")
        ends = []
        for one in events(3, keys=1):
            await eventually(lambda: published(broker, [one]))  # noqa: B023 - awaited
            ends.append((await broker.extent("order")).last)
            await valkey.restart()
        await eventually(lambda: incarnation(broker))
        assert len((await broker.extent("order")).gaps) == 3

        await eventually(lambda: _trimmed(broker))

        extent = await broker.extent("order")
        assert [after for after, _ in extent.gaps] == ends[2:]  # behind which nothing has come
        assert [extent.continues(end) for end in ends] == [False, False, True]
        assert [extent.continues(end + 1) for end in ends] == [False] * 3
        await broker.close()

    async def test_a_write_that_was_torn_was_not_confirmed_and_harms_nothing(
        self, valkey: BreakableValkey, broker: ValkeyBroker
    ) -> None:
        one, other, last = events(3, keys=1)
        await broker.publish([one])
        begun = valkey.size()
        await broker.publish([other])
        whole = valkey.size()

        await valkey.kill()
        valkey.cut(begun + (whole - begun) // 2)
        await valkey.start()
        await eventually(lambda: published(broker, [last]))

        assert [entry.envelope for entry in await everything(broker)] == [one, last]

    async def test_closing_while_it_is_down_does_not_hang(self, valkey: BreakableValkey, broker: ValkeyBroker) -> None:
        await valkey.kill()

        async with asyncio.timeout(2):
            await broker.close()


class TestLess:
    """The server comes back with less than it had confirmed."""

    async def test_a_reader_that_had_read_it_is_told_also_when_the_stream_has_grown_past_it(
        self, valkey: BreakableValkey, broker: ValkeyBroker, stranger: ValkeyBroker
    ) -> None:
        await broker.publish(events(5, keys=1))
        size = valkey.size()
        await broker.publish(events(5, keys=1))
        await valkey.kill()
        await broker.close()  # nobody is left who has seen it confirmed
        valkey.cut(size)
        await valkey.start()

        later = events(20, keys=1)
        await eventually(lambda: published(stranger, later))

        extent = await stranger.extent("order")
        assert [extent.continues(position) for position in (4, 5, 6, 10, 11)] == [True, True, False, False, False]
        assert await read_ids(stranger, 20, after=5) == [one.id for one in later]

    async def test_a_reader_that_had_read_what_a_backup_does_not_have_is_told_however_many_starts_ago_that_was(
        self, valkey: BreakableValkey, broker: ValkeyBroker, stranger: ValkeyBroker, tmp_path: Path
    ) -> None:
        backup = tmp_path / "backup"
        for lived in range(4):
            await eventually(lambda: published(broker, events(5, keys=1)))
            await valkey.kill()
            if lived == 1:
                shutil.copytree(valkey.folder, backup)
            await valkey.start()
        await eventually(lambda: published(broker, events(5, keys=1)))
        position = (await broker.extent("order")).last
        await broker.close()

        await valkey.kill()
        shutil.rmtree(valkey.folder)
        shutil.copytree(backup, valkey.folder)
        await valkey.start()
        await eventually(lambda: published(stranger, events(50, keys=1)))

        extent = await stranger.extent("order")
        assert position < extent.last
        assert not extent.continues(position)

    async def test_all_are_told_when_a_publisher_knows_that_more_was_confirmed(
        self, valkey: BreakableValkey, broker: ValkeyBroker
    ) -> None:
        before = await five_of_ten_are_lost(valkey, broker)

        assert await eventually(lambda: incarnation(broker)) != before

    async def test_all_are_told_by_a_publisher_that_publishes_nothing_more_when_it_trims(
        self, valkey: BreakableValkey, broker: ValkeyBroker, stranger: ValkeyBroker
    ) -> None:
        before = await five_of_ten_are_lost(valkey, broker)
        assert await eventually(lambda: incarnation(stranger)) == before

        await eventually(lambda: could_trim(broker))

        assert await incarnation(stranger) != before

    async def test_what_was_lost_is_stored_when_it_is_published_again(
        self, valkey: BreakableValkey, broker: ValkeyBroker
    ) -> None:
        offered = events(10, keys=1)
        await broker.publish(offered[:5])
        size = valkey.size()
        await broker.publish(offered[5:])

        await valkey.kill()
        valkey.cut(size)
        await valkey.start()
        await eventually(lambda: published(broker, offered))

        assert firsts(await everything(broker)) == by_key(offered)

    @pytest.mark.parametrize("appendfsync", ["everysec", "no"])
    async def test_one_that_does_not_sync_before_it_confirms_may_have_lost_and_all_are_told(
        self, valkey: BreakableValkey, broker: ValkeyBroker, stranger: ValkeyBroker
    ) -> None:
        await broker.publish(events(5, keys=1))
        before = await incarnation(stranger)

        await valkey.restart()
        after = await eventually(lambda: incarnation(stranger))

        assert after != before
        assert await eventually(lambda: incarnation(broker)) == after
        assert len(await everything(broker)) == 5, "what is there may be read by who accepts the loss"

    async def test_a_replica_that_takes_over_may_lack_what_was_confirmed_and_all_are_told(
        self, valkey: BreakableValkey, broker: ValkeyBroker, tmp_path: Path
    ) -> None:
        await broker.publish(events(5, keys=1))
        before, first = await incarnation(broker), urlsplit(valkey.url)
        async with breakable_valkey(tmp_path / "other") as other, Valkey.open(other.url) as replica:
            await replica.call("CONFIG", "SET", "masterauth", first.password or "")
            await replica.call("REPLICAOF", first.hostname or "", first.port or 0)
            await eventually(lambda: _caught_up(replica))
            await valkey.kill()
            await replica.call("REPLICAOF", "NO", "ONE")
            second = await ValkeyBroker.open(other.url, "shop")

            assert (await second.extent("order")).incarnation != before
            assert len(await everything(second)) == 5

            await second.close()

    async def test_one_that_forgot_all_has_no_stream_until_somebody_makes_one_which_is_another(
        self, valkey: BreakableValkey, broker: ValkeyBroker
    ) -> None:
        await broker.publish(events(5, keys=1))
        before = await incarnation(broker)

        await broker._valkey.call("FLUSHALL")
        assert not await published(broker, events(1, keys=1))
        await broker.ensure_stream("order")

        assert await incarnation(broker) != before
        assert await published(broker, events(1, keys=1))

    async def test_a_service_that_had_read_what_is_lost_says_so_and_handles_nothing_more(
        self, valkey: BreakableValkey, broker: ValkeyBroker, stranger: ValkeyBroker, shop_url: str
    ) -> None:
        await Feed(broker).add("a", range(5))
        size = valkey.size()
        async with replica("shop", shop_url, broker, [keeping()]) as shop:
            await Feed(broker).add("a", range(5, 10))
            await handled(shop, 10)
        await valkey.kill()
        await broker.close()
        valkey.cut(size)
        await valkey.start()
        again = Feed(stranger)
        await eventually(lambda: published(stranger, [again.envelope("a", n) for n in range(100, 120)]))

        async with replica("shop", shop_url, stranger, [keeping()]) as shop:
            told = await eventually(lambda: shop.messaging.observation.history_lost.get("feed"))

            assert "ends at 5, and this service has read up to 10: the broker has lost messages" in told
            assert await effects(shop) == list(range(10))


class TestFull:
    async def test_a_server_without_memory_refuses_and_takes_it_once_it_has_some(self, broker: ValkeyBroker) -> None:
        first, second = events(2, keys=1)
        await broker.publish([first])
        await broker._valkey.call("CONFIG", "SET", "maxmemory", 1)

        assert not await published(broker, [second])
        assert [entry.envelope for entry in await everything(broker)] == [first]

        await broker._valkey.call("CONFIG", "SET", "maxmemory", 0)
        assert await published(broker, [second])
        assert [entry.envelope for entry in await everything(broker)] == [first, second]


class TestFrozen:
    """The server is stopped by SIGSTOP: its connections stay open, and it answers nothing."""

    async def test_publishing_fails_within_its_time_and_works_after_the_thaw(
        self, valkey: BreakableValkey, broker: ValkeyBroker
    ) -> None:
        valkey.freeze()
        offered = events(101, keys=3)

        one, many = await asyncio.gather(
            seconds_until_unavailable(broker.publish(offered[:1])),
            seconds_until_unavailable(broker.publish(offered[1:])),
        )
        assert 4 < one < 7
        assert 4 < many < 7
        assert await seconds_until_unavailable(broker.publish(offered)) < 0.5

        valkey.thaw()
        await eventually(lambda: published(broker, offered))
        assert firsts(await everything(broker)) == by_key(offered)

    async def test_a_reader_ends_within_its_time(self, valkey: BreakableValkey, broker: ValkeyBroker) -> None:
        async with broker.read("order", EVENTS, 0) as reader:
            valkey.freeze()

            assert 1 < await seconds_until_unavailable(reader.next(1)) < 6

    async def test_closing_does_not_hang(self, valkey: BreakableValkey, broker: ValkeyBroker) -> None:
        valkey.freeze()
        publishing = asyncio.create_task(broker.publish(events(5, keys=1)))
        await asyncio.sleep(0)

        async with asyncio.timeout(3):
            await broker.close()
        assert await seconds_until_unavailable(publishing) < 0.1
