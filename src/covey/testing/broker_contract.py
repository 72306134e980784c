"""What every broker must do, as tests that any backend can run.

    class TestMyBroker(BrokerContract):
        @pytest.fixture
        async def broker(self) -> AsyncIterator[Broker]:
            broker = await MyBroker.open(...)      # on streams that no other test uses
            yield broker
            await broker.close()

        @pytest.fixture
        def drop_before(self) -> DropBefore:       # what retention does to old messages
            async def drop(stream: str, sequence: int) -> None: ...
            return drop

        @pytest.fixture
        def delete(self) -> Delete:                # what an operator, or the loss of a disk, does to a stream
            async def delete(stream: str) -> None: ...
            return delete

Needs pytest-asyncio. What only a broker across a network can get wrong (a server that dies, freezes, or holds
what others have stored) is tested beside the backend.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from covey.errors import BrokerUnavailable, DefinitionError
from covey.ids import new_id
from covey.message import Envelope, Kind
from covey.messaging.broker import Broker, Entry, Extent, Reader, Topic
from covey.testing.eventually import eventually

PATIENCE_SECONDS = 20.0
EVENTS = [Topic("event")]

DropBefore = Callable[[str, int], Awaitable[None]]
"""Takes a stream and the first sequence that stays."""

Delete = Callable[[str], Awaitable[None]]
"""Takes a stream, of which nothing stays."""


def event(
    name: str = "placed", key: str = "k", *, stream: str = "order", kind: Kind = "event", version: int = 1
) -> Envelope:
    """Return a new message of that name, with every field filled."""
    return Envelope(
        id=new_id(),
        type=f"{stream}.{name}.v{version}",
        key=key,
        source=stream,
        time=datetime.now(UTC),  # noqa: TID251 - no test depends on which instant it is
        body=b'{"a": 1}',
        kind=kind,
        stream=stream,
        headers={"correlation-id": "c-1", "traceparent": "00-" + "1" * 32 + "-" + "2" * 16 + "-01"},
    )


def events(number: int, keys: int) -> list[Envelope]:
    """Return so many events whose keys take turns; the body tells their order."""
    return [replace(event(key=f"key {n % keys}"), body=str(n).encode()) for n in range(number)]


async def read(reader: Reader, number: int, limit: int = 1_000) -> list[Entry]:
    """Return the next so many entries; fail when they do not come."""
    entries: list[Entry] = []
    async with asyncio.timeout(PATIENCE_SECONDS):
        while len(entries) < number:
            entries += await reader.next(min(limit, number - len(entries)))
    return entries


async def read_ids(broker: Broker, number: int, after: int = 0, topics: Sequence[Topic] = EVENTS) -> list[UUID]:
    """Return the ids of the next so many messages of the stream `order` behind `after`."""
    async with broker.read("order", topics, after) as reader:
        return [entry.envelope.id for entry in await read(reader, number)]


def firsts(entries: Iterable[Entry]) -> dict[str, list[bytes]]:
    """Return for each key the bodies in the order in which they came first, as a consumer with an inbox sees them."""
    seen: set[UUID] = set()
    bodies: dict[str, list[bytes]] = {}
    for entry in entries:
        if entry.envelope.id not in seen:
            seen.add(entry.envelope.id)
            bodies.setdefault(entry.envelope.key, []).append(entry.envelope.body)
    return bodies


def by_key(envelopes: Iterable[Envelope]) -> dict[str, list[bytes]]:
    """Return for each key the bodies in the order in which they were given."""
    bodies: dict[str, list[bytes]] = {}
    for envelope in envelopes:
        bodies.setdefault(envelope.key, []).append(envelope.body)
    return bodies


async def everything(broker: Broker, stream: str = "order", topics: Sequence[Topic] = EVENTS) -> list[Entry]:
    """Return all that the stream holds of the topics, which the last message must be of."""
    last, entries = (await broker.extent(stream)).last, list[Entry]()
    async with asyncio.timeout(PATIENCE_SECONDS), broker.read(stream, topics, 0) as reader:
        while reader.position < last:
            entries += await reader.next(1_000)
    return entries


@pytest.mark.asyncio
class BrokerContract:
    """Subclass it as the module says; each test gets a fresh `broker` in which no stream exists."""

    @pytest.fixture
    def broker(self) -> Broker:
        """Return an open broker without streams."""
        raise NotImplementedError("a subclass of BrokerContract provides the fixture `broker`")

    @pytest.fixture
    def drop_before(self) -> DropBefore:
        """Return what makes a stream of that broker forget its messages before a sequence, as its retention does."""
        raise NotImplementedError("a subclass of BrokerContract provides the fixture `drop_before`")

    @pytest.fixture
    def delete(self) -> Delete:
        """Return what deletes a stream of that broker with all that it holds."""
        raise NotImplementedError("a subclass of BrokerContract provides the fixture `delete`")

    @pytest.mark.parametrize("number", [1, 2, 31, 32, 1_000, 2_100])
    @pytest.mark.parametrize("keys", [1, 7, 1_000])
    async def test_all_is_stored_when_publish_returns_in_order_for_each_key(
        self, broker: Broker, number: int, keys: int
    ) -> None:
        await broker.ensure_stream("order")
        published = events(number, keys)

        await broker.publish(published)

        assert await broker.extent("order") == Extent(1, number)
        entries = await everything(broker)
        assert len(entries) == number
        assert firsts(entries) == by_key(published)

    async def test_publishing_nothing_stores_nothing(self, broker: Broker) -> None:
        await broker.ensure_stream("order")

        await broker.publish([])

        assert await broker.extent("order") == Extent(1, 0)

    async def test_a_message_arrives_as_it_was_published(self, broker: Broker) -> None:
        await broker.ensure_stream("order")
        published = event()

        await broker.publish([published])

        assert [entry.envelope for entry in await everything(broker)] == [published]

    @pytest.mark.parametrize(
        "text",
        [
            "",
            " ",
            "a b",
            "ключ-鍵-🔑",
            "two\nlines\r\nand: more",
            "100%",
            "%41",
            "\u2028\x85\x1f\x00\x7f",
            '"',
            "é" * 500,
        ],
        ids=ascii,
    )
    async def test_a_key_and_a_header_may_hold_any_text(self, broker: Broker, text: str) -> None:
        await broker.ensure_stream("order")
        published = replace(event(), key=text, source=text, headers={"note": text, f"x{text}": "y"})

        await broker.publish([published])

        assert [entry.envelope for entry in await everything(broker)] == [published]

    async def test_a_header_may_have_the_name_of_one_of_the_brokers_own(self, broker: Broker) -> None:
        await broker.ensure_stream("order")
        names = ["ce-id", "ce-subject", "CE-Type", "Nats-Msg-Id", "nats-msg-id", "Status", "covey-key", "", "%63e-id"]
        published = replace(event(), headers={name: f"mine {name}" for name in names})

        await broker.publish([published])

        assert [entry.envelope for entry in await everything(broker)] == [published]

    async def test_a_body_may_be_any_bytes_up_to_a_million(self, broker: Broker) -> None:
        await broker.ensure_stream("order")
        bodies = [b"", bytes(range(256)), b"\r\n\r\nPUB x 0\r\n", bytes(1_000_000)]
        published = [replace(event(), body=body) for body in bodies]

        await broker.publish(published)

        assert [entry.envelope.body for entry in await everything(broker)] == bodies

    async def test_many_large_bodies_pass(self, broker: Broker) -> None:
        await broker.ensure_stream("order")
        published = [replace(event(key=f"k{n}"), body=bytes([n]) * 900_000) for n in range(40)]

        await broker.publish(published)

        assert [entry.envelope.id for entry in await everything(broker)] == [one.id for one in published]

    async def test_times_keep_their_offset_and_microseconds(self, broker: Broker) -> None:
        await broker.ensure_stream("order")
        time = datetime.fromisoformat("2026-03-01T01:02:03.000001+05:45")

        await broker.publish([replace(event(), time=time)])

        (entry,) = await everything(broker)
        assert entry.envelope.time == time
        assert entry.envelope.time.utcoffset() == timedelta(hours=5, minutes=45)

    @pytest.mark.parametrize("number", [10, 500])
    async def test_publishing_the_same_again_never_reorders(self, broker: Broker, number: int) -> None:
        await broker.ensure_stream("order")
        published = events(number, keys=5)
        await broker.publish(published[: number // 2])

        await broker.publish(published[number // 4 :])  # some known, some new
        await broker.publish(published)  # all known
        await broker.publish([*published, *events(1, 1)])

        expected = by_key(published)
        expected["key 0"].append(b"0")
        assert firsts(await everything(broker)) == expected

    async def test_an_id_twice_in_one_call_is_no_mistake(self, broker: Broker) -> None:
        await broker.ensure_stream("order")
        published = events(50, keys=3)

        await broker.publish([*published, *published])

        assert firsts(await everything(broker)) == by_key(published)

    async def test_one_call_may_publish_into_several_streams(self, broker: Broker) -> None:
        for stream in ("order", "payment", "inventory"):
            await broker.ensure_stream(stream)
        published = [event(stream=("order", "payment", "inventory")[n % 3]) for n in range(120)]

        await broker.publish(published)

        for stream in ("order", "payment", "inventory"):
            found = [entry.envelope for entry in await everything(broker, stream)]
            assert found == [one for one in published if one.stream == stream]

    async def test_several_may_publish_at_once(self, broker: Broker) -> None:
        await broker.ensure_stream("order")
        publishers = [[replace(one, key=f"{p} {one.key}") for one in events(70, keys=4)] for p in range(5)]

        await asyncio.gather(*(broker.publish(one) for one in publishers))

        assert firsts(await everything(broker)) == by_key(one for publisher in publishers for one in publisher)

    async def test_publishing_where_there_is_no_stream_fails(self, broker: Broker) -> None:
        with pytest.raises(BrokerUnavailable):
            await broker.publish([event()])

    async def test_reading_where_there_is_no_stream_fails(self, broker: Broker) -> None:
        with pytest.raises(BrokerUnavailable):
            async with broker.read("order", EVENTS, 0):
                pytest.fail("there is nothing to read")

    async def test_asking_for_the_extent_of_no_stream_fails(self, broker: Broker) -> None:
        with pytest.raises(BrokerUnavailable):
            await broker.extent("order")

    async def test_several_may_ensure_a_stream_at_once_and_again(self, broker: Broker) -> None:
        await asyncio.gather(*(broker.ensure_stream("order") for _ in range(20)))
        await broker.publish(events(3, 1))

        await broker.ensure_stream("order")

        assert await broker.extent("order") == Extent(1, 3)

    async def test_reading_begins_behind_any_position(self, broker: Broker) -> None:
        await broker.ensure_stream("order")
        published = events(20, keys=1)
        await broker.publish(published)

        for after in (0, 1, 10, 19):
            assert await read_ids(broker, 20 - after, after) == [one.id for one in published[after:]]

    async def test_an_entry_tells_the_position_to_go_on_from(self, broker: Broker) -> None:
        await broker.ensure_stream("order")
        published = events(20, keys=1)
        await broker.publish(published)

        async with broker.read("order", EVENTS, 0) as reader:
            entries = await read(reader, 7)

        assert reader.position == entries[-1].sequence
        assert await read_ids(broker, 13, entries[-1].sequence) == [one.id for one in published[7:]]

    async def test_next_returns_at_most_the_limit(self, broker: Broker) -> None:
        await broker.ensure_stream("order")
        published = events(50, keys=1)
        await broker.publish(published)

        async with broker.read("order", EVENTS, 0) as reader:
            batches = [await reader.next(7) for _ in range(5)]
            rest = await read(reader, 50 - sum(map(len, batches)))

        assert all(1 <= len(batch) <= 7 for batch in batches)
        ids = [entry.envelope.id for entry in [*(entry for batch in batches for entry in batch), *rest]]
        assert ids == [one.id for one in published]

    async def test_a_topic_holds_every_version_of_its_name_and_nothing_else(self, broker: Broker) -> None:
        await broker.ensure_stream("order")
        wanted = [event("placed"), event("placed", version=2), event("placed", version=99)]
        others = [
            event("placed.twice"),
            event("placed-late"),
            event("place"),
            event("placed", kind="command"),
            event("paid"),
        ]
        await broker.publish([others[0], wanted[0], *others[1:3], wanted[1], *others[3:], wanted[2]])

        entries = await everything(broker, topics=[Topic("event", "placed")])

        assert [entry.envelope for entry in entries] == wanted
        assert [entry.sequence for entry in entries] == [2, 5, 8]

    @pytest.mark.parametrize("number", [2, 100, 250])
    @pytest.mark.parametrize("limit", [1, 7, 1_000])
    async def test_commands_published_together_come_once_and_in_order_whatever_is_read_at_once(
        self, broker: Broker, number: int, limit: int
    ) -> None:
        await broker.ensure_stream("order")
        published = [
            replace(
                event(f"do-{n % 3}", kind="reply" if 40 <= n < 60 else "command", key=f"key {n % 7}"), body=bytes(n)
            )
            for n in range(number)
        ]
        await broker.publish(published)

        entries: list[Entry] = []
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(entries) < number:  # a reader that begins where another has stopped
                position = entries[-1].sequence if entries else 0
                async with broker.read("order", [Topic("command"), Topic("reply")], position) as reader:
                    entries += await reader.next(limit)

        assert len(entries) == number
        assert firsts(entries) == by_key(published)
        assert {entry.envelope.id: entry.envelope for entry in entries} == {one.id: one for one in published}

    async def test_a_named_command_is_found_among_those_published_with_it(self, broker: Broker) -> None:
        await broker.ensure_stream("order")
        published = [event(name, kind="command") for name in ("pack", "ship", "pack-twice", "ship", "pack")]
        await broker.publish(published)

        ids = await read_ids(broker, 2, topics=[Topic("command", "pack")])

        assert ids == [published[0].id, published[4].id]

    async def test_several_topics_are_read_in_one_order_even_if_they_overlap(self, broker: Broker) -> None:
        await broker.ensure_stream("order")
        published = [event(), event("confirm", kind="command"), event("paid"), event("reply", kind="reply"), event()]
        await broker.publish(published)

        every_event = [
            Topic("event"),
            Topic("event", "placed"),
            Topic("command", "confirm"),
            Topic("command", "confirm"),
        ]
        assert await read_ids(broker, 4, topics=every_event) == [published[n].id for n in (0, 1, 2, 4)]
        assert await read_ids(broker, 2, topics=[Topic("reply"), Topic("command")]) == [published[n].id for n in (1, 3)]

    async def test_a_name_may_have_several_words(self, broker: Broker) -> None:
        await broker.ensure_stream("order")
        published = [event("stock.reserved"), event("stock"), event("stock.reserved", version=2)]
        await broker.publish(published)

        ids = await read_ids(broker, 2, topics=[Topic("event", "stock.reserved")])

        assert ids == [published[0].id, published[2].id]

    async def test_reading_no_topic_is_a_mistake(self, broker: Broker) -> None:
        await broker.ensure_stream("order")

        with pytest.raises(DefinitionError):
            async with broker.read("order", [], 0):
                pytest.fail("there is nothing to read")

    async def test_readers_do_not_disturb_each_other(self, broker: Broker) -> None:
        await broker.ensure_stream("order")
        published = events(30, keys=3)
        await broker.publish(published)

        async with broker.read("order", EVENTS, 0) as one, broker.read("order", EVENTS, 10) as other:
            first, second, third = await read(one, 10), await read(other, 20), await read(one, 20)

        assert [entry.envelope.id for entry in first + third] == [one.id for one in published]
        assert second == third

    async def test_a_waiting_reader_gets_what_is_published(self, broker: Broker) -> None:
        await broker.ensure_stream("order")

        async with broker.read("order", EVENTS, 0) as reader:
            waiting = asyncio.create_task(reader.next(10))
            await asyncio.wait([waiting], timeout=0.05)
            assert not waiting.done()
            published = event()
            await broker.publish([published])
            async with asyncio.timeout(PATIENCE_SECONDS):
                entries = await waiting

        assert [entry.envelope for entry in entries] == [published]

    async def test_what_is_written_while_reading_arrives_in_order(self, broker: Broker) -> None:
        await broker.ensure_stream("order")
        published = events(2_000, keys=9)

        async def write() -> None:
            sizes, first = [1, 5, 40, 200], 0
            while first < len(published):
                size = sizes[first % len(sizes)]
                await broker.publish(published[first : first + size])
                first += size

        async with broker.read("order", EVENTS, 0) as reader:
            entries, _ = await asyncio.gather(read(reader, 2_000, limit=100), write())

        assert firsts(entries) == by_key(published)
        assert [entry.sequence for entry in entries] == list(range(1, 2_001))

    async def test_cancelling_next_loses_nothing(self, broker: Broker) -> None:
        await broker.ensure_stream("order")
        published = events(300, keys=1)

        async def write() -> None:
            for one in published:
                await broker.publish([one])

        found: list[UUID] = []
        async with broker.read("order", EVENTS, 0) as reader, asyncio.timeout(PATIENCE_SECONDS):
            writing = asyncio.create_task(write())
            while len(found) < len(published):
                waiting = asyncio.create_task(reader.next(3))
                await asyncio.wait([waiting], timeout=0.0005)
                waiting.cancel()
                await asyncio.wait([waiting])
                if not waiting.cancelled():
                    found += [entry.envelope.id for entry in waiting.result()]
            await writing

        assert found == [one.id for one in published]

    async def test_a_reader_advances_over_what_it_did_not_ask_for(self, broker: Broker) -> None:
        await broker.ensure_stream("order")
        await broker.publish([event("paid"), event("placed")])

        async with broker.read("order", [Topic("event", "placed")], 0) as reader:
            (entry,) = await read(reader, 1)
            await broker.publish([event("paid") for _ in range(5)])
            waiting = asyncio.create_task(reader.next(10))
            await eventually(lambda: reader.position == 7)
            waiting.cancel()

        assert entry.sequence == 2

    async def test_a_position_never_runs_ahead_of_what_was_returned(self, broker: Broker) -> None:
        await broker.ensure_stream("order")
        await broker.publish(events(20, keys=1))

        async with broker.read("order", EVENTS, 0) as reader, broker.read("order", [Topic("command")], 0) as idle:
            (entry,) = await read(reader, 1)
            waiting = asyncio.create_task(idle.next(1))
            await eventually(lambda: idle.position == 20, because="this one may advance, nothing is for it")
            waiting.cancel()

            assert reader.position == entry.sequence == 1

    async def test_a_stream_without_messages_has_an_empty_extent(self, broker: Broker) -> None:
        await broker.ensure_stream("order")

        assert await broker.extent("order") == Extent(1, 0)

    async def test_the_extent_shows_what_is_held_when_old_messages_are_gone(
        self, broker: Broker, drop_before: DropBefore
    ) -> None:
        await broker.ensure_stream("order")
        await broker.publish(events(10, keys=1))

        await drop_before("order", 6)

        extent = await broker.extent("order")
        assert extent == Extent(6, 10)
        assert [extent.continues(position) for position in (4, 5, 10, 11)] == [False, True, True, False]

    async def test_the_extent_of_a_stream_that_lost_all_still_ends_where_it_was(
        self, broker: Broker, drop_before: DropBefore
    ) -> None:
        await broker.ensure_stream("order")
        await broker.publish(events(10, keys=1))

        await drop_before("order", 11)

        extent = await broker.extent("order")
        assert extent == Extent(11, 10)
        assert [extent.continues(position) for position in (9, 10, 11)] == [False, True, False]

    async def test_reading_from_before_what_is_held_begins_with_the_oldest(
        self, broker: Broker, drop_before: DropBefore
    ) -> None:
        await broker.ensure_stream("order")
        published = events(10, keys=1)
        await broker.publish(published)
        await drop_before("order", 6)

        assert await read_ids(broker, 5, after=2) == [one.id for one in published[5:]]

    async def test_a_stream_keeps_its_incarnation(self, broker: Broker, drop_before: DropBefore) -> None:
        await broker.ensure_stream("order")
        first = (await broker.extent("order")).incarnation

        await broker.publish(events(10, keys=1))
        await drop_before("order", 11)
        await broker.ensure_stream("order")

        assert first
        assert (await broker.extent("order")).incarnation == first

    async def test_a_stream_that_is_made_anew_is_another_though_it_holds_as_much(
        self, broker: Broker, delete: Delete
    ) -> None:
        await broker.ensure_stream("order")
        await broker.publish(events(10, keys=1))
        before = await broker.extent("order")

        await delete("order")
        await broker.ensure_stream("order")
        await broker.publish(events(10, keys=1))

        after = await broker.extent("order")
        assert after == before
        assert after.incarnation != before.incarnation

    async def test_a_reader_never_goes_on_in_a_stream_that_was_made_anew(self, broker: Broker, delete: Delete) -> None:
        await broker.ensure_stream("order")
        await broker.publish(events(10, keys=1))

        async with broker.read("order", EVENTS, 0) as reader:
            await read(reader, 10)
            await delete("order")
            await broker.ensure_stream("order")
            await broker.publish(events(20, keys=1))
            async with asyncio.timeout(PATIENCE_SECONDS):
                with pytest.raises(BrokerUnavailable):
                    await reader.next(10)

    async def test_closing_ends_a_waiting_reader(self, broker: Broker) -> None:
        await broker.ensure_stream("order")

        async with broker.read("order", EVENTS, 0) as reader:
            waiting = asyncio.create_task(reader.next(10))
            await asyncio.wait([waiting], timeout=0.05)
            await broker.close()
            async with asyncio.timeout(PATIENCE_SECONDS):
                with pytest.raises(BrokerUnavailable):
                    await waiting

    async def test_closing_while_publishing_ends_it_stored_or_unavailable(self, broker: Broker) -> None:
        await broker.ensure_stream("order")
        publishing = [asyncio.create_task(broker.publish(events(n, keys=3))) for n in (5, 500, 20)]
        await asyncio.sleep(0)

        await broker.close()
        async with asyncio.timeout(PATIENCE_SECONDS):
            outcomes = await asyncio.gather(*publishing, return_exceptions=True)

        assert all(outcome is None or isinstance(outcome, BrokerUnavailable) for outcome in outcomes), outcomes

    async def test_a_closed_broker_is_unavailable(self, broker: Broker) -> None:
        await broker.ensure_stream("order")
        await broker.close()
        await broker.close()

        with pytest.raises(BrokerUnavailable):
            await broker.publish([event()])
        with pytest.raises(BrokerUnavailable):
            await broker.extent("order")
        with pytest.raises(BrokerUnavailable):
            await broker.ensure_stream("order")
        with pytest.raises(BrokerUnavailable):
            async with broker.read("order", EVENTS, 0):
                pytest.fail("there is nothing to read")
