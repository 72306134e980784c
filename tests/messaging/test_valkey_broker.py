"""What the broker on Valkey promises beyond the contract: what it knows again, what it drops, what others wrote."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from covey.errors import BrokerUnavailable, ConfigurationError, DefinitionError, TooLarge
from covey.local.engines.embedded import Engines
from covey.messaging.broker import Extent, Topic
from covey.messaging.brokers.valkey import APPEND_MOST, ValkeyBroker
from covey.messaging.brokers.valkey_entries import MOST_BYTES
from covey.messaging.brokers.valkey_streams import Keeping
from covey.messaging.delivery import UNREADABLE
from covey.testing.broker_contract import EVENTS, PATIENCE_SECONDS, event, events, everything, read, read_ids
from covey.testing.eventually import eventually
from covey.valkey.client import Valkey

NOTHING = timedelta(0)
AT_ONCE = Keeping(read=NOTHING, marks=NOTHING, told=NOTHING)

Open = Callable[..., Any]


@pytest.fixture
async def valkey(covey_engines: Engines) -> AsyncIterator[Valkey]:
    async with Valkey.open(covey_engines.valkey_url) as opened:
        yield opened


@pytest.fixture
async def open_broker(covey_engines: Engines, system_name: str) -> AsyncIterator[Open]:
    """A function that opens a broker with the stream `order`."""
    async with AsyncExitStack() as stack:

        async def open_(**options: Any) -> ValkeyBroker:
            broker = await ValkeyBroker.open(covey_engines.valkey_url, system_name, **options)
            stack.push_async_callback(broker.close)
            await broker.ensure_stream("order")
            return broker

        yield open_


@pytest.fixture
async def broker(open_broker: Open) -> ValkeyBroker:
    opened: ValkeyBroker = await open_broker()
    return opened


@pytest.fixture
def log(system_name: str) -> str:
    """The key of the stream `order`."""
    return f"{{{system_name}:order}}:log"


class TestPublishing:
    async def test_the_same_ids_again_stores_nothing_again(self, broker: ValkeyBroker) -> None:
        published = events(30, keys=3)

        await broker.publish(published[:20])
        await broker.publish(published)

        assert [entry.envelope for entry in await everything(broker)] == published

    async def test_many_messages_keep_their_order_over_several_steps(self, broker: ValkeyBroker) -> None:
        published = events(3 * APPEND_MOST, keys=2)

        await broker.publish(published)

        assert [entry.envelope for entry in await everything(broker)] == published

    async def test_ids_are_known_for_as_many_messages_as_was_said_and_not_for_ever(
        self, open_broker: Open, valkey: Valkey, log: str
    ) -> None:
        broker = await open_broker(keeping=Keeping(known_ids=10))
        published = events(40, keys=1)
        for one in published:
            await broker.publish([one])

        await broker.publish(published[-10:])
        assert await broker.extent("order") == Extent(1, 40)

        known = [await valkey.call("SCARD", log.replace("log", of)) for of in ("ids", "ids-before")]
        assert sum(known) <= 20

    async def test_an_id_is_not_known_for_longer_than_its_message_is_there(self, open_broker: Open) -> None:
        keeping = Keeping(max_age=timedelta(milliseconds=80), marks=NOTHING, known=timedelta(milliseconds=10))
        broker = await open_broker(keeping=keeping)
        published = [event()]
        await broker.publish(published)
        await eventually(lambda: _is_empty(broker))

        await broker.publish(published)

        assert await broker.extent("order") == Extent(2, 2)

    async def test_a_message_over_the_limit_is_too_large_and_nothing_is_stored(self, broker: ValkeyBroker) -> None:
        with pytest.raises(TooLarge):
            await broker.publish([event(), replace(event(), body=bytes(MOST_BYTES))])

        assert await broker.extent("order") == Extent(1, 0)

    async def test_a_type_or_stream_that_cannot_be_is_a_mistake(self, broker: ValkeyBroker) -> None:
        with pytest.raises(DefinitionError):
            await broker.publish([replace(event(), type="order")])
        with pytest.raises(DefinitionError):
            await broker.publish([replace(event(), stream="two words")])

    async def test_behind_what_somebody_else_has_written_is_refused_and_says_so(
        self, broker: ValkeyBroker, valkey: Valkey, log: str
    ) -> None:
        await broker.publish([event()])
        await valkey.call("XADD", log, "*", "a", "b")

        with pytest.raises(BrokerUnavailable):
            await broker.publish([event()])
        with pytest.raises(BrokerUnavailable, match="somebody else has written"):
            await broker.extent("order")


class TestReading:
    @pytest.mark.parametrize(
        ("fields", "reason"),
        [
            (("kind", "event", "headers", "{}", "body", "x"), "ce-id"),
            (("kind", "event", "headers", "[1]", "body", "x"), "no object"),
            (("kind", "event", "headers", "{", "body", "x"), "malformed"),
            (("kind", "event", "body", "x"), "its fields are"),
            (("kind", "thing", "headers", "{}", "body", "x"), "its fields are"),
            (("a", "b"), "its fields are"),
        ],
    )
    async def test_what_is_no_envelope_arrives_and_says_why(
        self, broker: ValkeyBroker, valkey: Valkey, log: str, fields: tuple[str, ...], reason: str
    ) -> None:
        await valkey.call("XADD", log, "0-*", *fields)
        last = event()
        await broker.publish([last])

        unreadable, readable = await everything(broker)

        assert reason in unreadable.envelope.headers[UNREADABLE]
        assert (unreadable.sequence, readable.envelope) == (1, last)

    async def test_begins_with_little_whatever_the_size_of_messages(self, broker: ValkeyBroker, valkey: Valkey) -> None:
        large = [replace(one, body=b'"%b"' % (b"x" * 200_000)) for one in events(40, keys=1)]
        await broker.publish(large)
        before = await _sent(valkey)

        async with broker.read("order", EVENTS, 0) as reader:
            first = await reader.next(1)
            sent = await _sent(valkey) - before
            rest = await read(reader, 39)

        assert sent < 1_000_000
        assert [entry.envelope for entry in [*first, *rest]] == large

    async def test_a_kind_that_nobody_asked_for_is_passed_over_unread(
        self, broker: ValkeyBroker, valkey: Valkey, log: str
    ) -> None:
        await valkey.call("XADD", log, "0-*", "kind", "command", "headers", "{", "body", "")
        last = event()
        await broker.publish([last])

        assert await read_ids(broker, 1) == [last.id]

    async def test_a_stream_that_was_thrown_away_ends_its_readers_and_is_no_stream(
        self, broker: ValkeyBroker, valkey: Valkey, log: str
    ) -> None:
        await broker.publish(events(3, keys=1))
        before = await broker.extent("order")
        async with broker.read("order", EVENTS, 0) as reader:
            await read(reader, 3)
            await valkey.call("DEL", log)

            with pytest.raises(BrokerUnavailable):
                await broker.publish([event()])
            with pytest.raises(BrokerUnavailable):
                await broker.extent("order")
            await broker.ensure_stream("order")
            async with asyncio.timeout(PATIENCE_SECONDS):
                with pytest.raises(BrokerUnavailable):
                    await reader.next(1)
        assert (await broker.extent("order")).incarnation != before.incarnation

    async def test_a_stream_of_which_only_the_messages_are_left_is_another(
        self, broker: ValkeyBroker, valkey: Valkey, log: str
    ) -> None:
        published = events(3, keys=1)
        await broker.publish(published)
        before = await broker.extent("order")

        await valkey.call("DEL", log.replace("log", "meta"))

        after = await broker.extent("order")
        assert after.incarnation != before.incarnation
        assert await read_ids(broker, 3) == [one.id for one in published]


class TestOvertaken:
    async def test_a_reader_of_which_trimming_has_taken_what_it_had_not_read_ends(self, open_broker: Open) -> None:
        """Or it would go on behind the hole, and nobody would ever know."""
        broker = await open_broker(keeping=Keeping(max_age=NOTHING, marks=NOTHING))
        await broker.publish([event()])
        async with broker.read("order", EVENTS, 0) as reader:
            assert [entry.sequence for entry in await reader.next(10)] == [1]
            await broker.publish([event(), event()])
            await eventually(lambda: _is_trimmed(broker))
            await broker.publish([event()])

            with pytest.raises(BrokerUnavailable, match="dropped what was not read yet"):
                while not await reader.next(10):
                    pass


class TestTrimming:
    """By the server's clock; with ages of nothing, all that is to go goes at once."""

    async def test_what_reached_the_greatest_age_goes_and_who_has_not_read_it_is_told(self, open_broker: Open) -> None:
        broker = await open_broker(keeping=Keeping(max_age=NOTHING, marks=NOTHING), reader="slow")
        await broker.publish(events(5, keys=1))
        async with broker.read("order", EVENTS, 2):
            assert await eventually(lambda: broker.trim("order")) == 6

        extent = await broker.extent("order")
        assert extent == Extent(6, 5)
        assert [extent.continues(position) for position in (2, 5)] == [False, True]

    async def test_what_is_younger_stays(self, open_broker: Open) -> None:
        broker = await open_broker(keeping=Keeping(max_age=timedelta(minutes=1), marks=NOTHING))
        await broker.publish(events(5, keys=1))

        assert [await broker.trim("order") for _ in range(3)] == [0, 0, 0]
        assert await broker.extent("order") == Extent(1, 5)

    async def test_what_a_known_reader_has_not_read_stays_though_others_have(self, open_broker: Open) -> None:
        broker, other = await open_broker(keeping=AT_ONCE, reader="slow"), await open_broker(reader="quick")
        await broker.publish(events(10, keys=1))
        async with broker.read("order", EVENTS, 3):
            pass  # and then it is away
        async with other.read("order", EVENTS, 10):
            assert await eventually(lambda: broker.trim("order")) == 4
        assert await broker.extent("order") == Extent(4, 10)

    async def test_nothing_goes_early_while_no_reader_is_known(self, open_broker: Open) -> None:
        broker = await open_broker(keeping=AT_ONCE)
        await broker.publish(events(10, keys=1))
        async with broker.read("order", EVENTS, 10):
            assert [await broker.trim("order") for _ in range(3)] == [0, 0, 0]

    async def test_a_reader_that_asks_for_more_has_stored_what_it_got_before_and_not_what_it_gets(
        self, open_broker: Open
    ) -> None:
        broker = await open_broker(keeping=AT_ONCE, reader="shop")
        await broker.publish(events(10, keys=1))

        async with broker.read("order", EVENTS, 0) as reader:
            assert len(await reader.next(4)) == 1  # it begins with little
            assert await broker.trim("order") == 0
            assert len(await reader.next(4)) == 2
            assert await eventually(lambda: broker.trim("order")) == 2
            await reader.next(4)
            assert await eventually(lambda: _trimmed(broker, 4))

    async def test_an_idle_stream_grows_old_too(self, open_broker: Open, valkey: Valkey, log: str) -> None:
        broker = await open_broker(keeping=Keeping(max_age=timedelta(milliseconds=50), marks=NOTHING))
        await broker.publish(events(5, keys=1))

        assert await eventually(lambda: broker.trim("order")) == 6
        assert await valkey.call("XLEN", log) == 0


class TestOpening:
    @pytest.mark.parametrize("system", ["", "two words", "a.b", "a:b", "{a}"])
    async def test_with_a_name_of_the_system_that_cannot_be_is_a_mistake(
        self, covey_engines: Engines, system: str
    ) -> None:
        with pytest.raises(ConfigurationError):
            await ValkeyBroker.open(covey_engines.valkey_url, system)

    async def test_with_an_age_that_is_no_number_is_a_mistake(self, covey_engines: Engines) -> None:
        with pytest.raises(ConfigurationError, match="keep_read_hours"):
            await ValkeyBroker.open(f"{covey_engines.valkey_url}?keep_read_hours=long", "shop")

    async def test_with_a_wrong_password_is_a_mistake(self, covey_engines: Engines) -> None:
        url = covey_engines.valkey_url.replace("//:", "//:not-")

        with pytest.raises(ConfigurationError):
            await ValkeyBroker.open(url, "shop")

    async def test_where_nobody_listens_is_no_mistake_and_says_so_when_it_is_used(self) -> None:
        broker = await ValkeyBroker.open("valkey://127.0.0.1:1", "shop")

        with pytest.raises(BrokerUnavailable):
            await broker.ensure_stream("order")
        with pytest.raises(BrokerUnavailable):
            async with broker.read("order", [Topic("event")], 0):
                pytest.fail("there is nothing to read")
        await broker.close()


async def _is_trimmed(broker: ValkeyBroker) -> bool:
    await broker.trim("order")
    return await _is_empty(broker)


async def _is_empty(broker: ValkeyBroker) -> bool:
    await broker.trim("order")
    extent = await broker.extent("order")
    return extent.first > extent.last


async def _sent(valkey: Valkey) -> int:
    """Return how many bytes the server has sent to whomever."""
    info: bytes = await valkey.call("INFO", "stats")
    return next(
        int(line.partition(b":")[2]) for line in info.splitlines() if line.startswith(b"total_net_output_bytes")
    )


async def _trimmed(broker: ValkeyBroker, first: int) -> bool:
    return await broker.trim("order") == first
