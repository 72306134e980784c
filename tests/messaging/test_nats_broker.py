"""What NATS in particular can refuse, lose, or hold that others have stored there. The server stays well here."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import nats
import nats.errors
import nats.js.errors
import pytest
from nats.aio.client import Client
from nats.js.api import ConsumerInfo

from covey.errors import BrokerUnavailable, ConfigurationError, DefinitionError, TooLarge
from covey.ids import derived_id
from covey.local.engines.embedded import Engines
from covey.message import Envelope
from covey.messaging.broker import STREAM_MAX_AGE, Extent, Topic
from covey.messaging.brokers.nats import NatsBroker
from covey.messaging.brokers.nats_bundle import MOST, Outgoing, bundled
from covey.messaging.brokers.nats_connection import address_of, translated
from covey.messaging.cloud_events import to_headers
from covey.testing.broker_contract import EVENTS, PATIENCE_SECONDS, by_key, event, events, everything, firsts, read
from covey.testing.eventually import eventually

COMMANDS = [Topic("command")]


def commands(number: int) -> list[Envelope]:
    """Return so many commands, each with a key of its own."""
    return [event("pack", kind="command", key=f"key {n}") for n in range(number)]


@pytest.fixture
async def client(covey_engines: Engines) -> AsyncIterator[Client]:
    """What an operator, or a foreign service, connects with."""
    connected = await nats.connect(covey_engines.nats_url)
    yield connected
    await connected.close()


@pytest.fixture
def name(system_name: str) -> str:
    """What the stream of the service `order` is called."""
    return f"{system_name}-order"


@pytest.fixture
async def broker(nats_broker: NatsBroker) -> NatsBroker:
    """A broker in which the stream of the service `order` exists."""
    await nats_broker.ensure_stream("order")
    return nats_broker


@pytest.fixture
def consumers(client: Client, name: str) -> Callable[[], Awaitable[list[ConsumerInfo]]]:
    """What reads the stream."""

    async def ask() -> list[ConsumerInfo]:
        return list(await client.jetstream().consumers_info(name))

    return ask


class TestForeignMessages:
    """Others can write into a stream; whatever they write is seen, and stops nobody."""

    @pytest.mark.parametrize(
        ("headers", "reason"),
        [
            (None, "ce-id"),
            ({"x": "y"}, "ce-id"),
            ({**to_headers(event()), "ce-id": "seventeen"}, "malformed"),
            ({**to_headers(event()), "ce-time": "noon"}, "noon"),
            ({**to_headers(event()), "ce-subject": "%FF"}, "malformed"),
        ],
    )
    async def test_an_unreadable_message_arrives_with_its_reason(
        self, broker: NatsBroker, client: Client, system_name: str, headers: dict[str, str] | None, reason: str
    ) -> None:
        before = datetime.now(UTC)
        subject = f"{system_name}.order.command.pay-out.v3"
        await client.jetstream().publish(subject, b"\xff\x00", headers=headers)
        await broker.publish([event("pay-out", kind="command")])

        unreadable, good = await everything(broker, topics=[Topic("command", "pay-out")])

        found = unreadable.envelope
        assert (found.id, found.key) == (derived_id("order", 1), str(derived_id("order", 1)))
        assert (found.type, found.kind, found.stream) == ("order.pay-out.v3", "command", "order")
        assert found.body == b"\xff\x00"
        assert reason in found.headers["unreadable"]
        assert before - timedelta(seconds=1) < found.time < datetime.now(UTC) + timedelta(seconds=1)
        assert "unreadable" not in good.envelope.headers

    async def test_an_unreadable_message_is_the_same_whenever_it_is_read(
        self, broker: NatsBroker, client: Client, system_name: str
    ) -> None:
        for _ in range(2):
            await client.jetstream().publish(f"{system_name}.order.event.placed.v1", b"?")

        once, again = await everything(broker), await everything(broker)

        assert once == again
        assert once[0].envelope.id != once[1].envelope.id

    async def test_a_cloud_event_of_somebody_else_is_read(
        self, broker: NatsBroker, client: Client, system_name: str
    ) -> None:
        headers = {
            "ce-specversion": "1.0",
            "ce-id": "0f7d0e6a-6f53-4f8e-8d4a-3b7d4c7e6f10",
            "ce-source": "https://elsewhere.example/orders",
            "ce-type": "order.placed.v1",
            "ce-time": "2026-05-06T07:08:09Z",
            "ce-datacontenttype": "application/json",
        }
        await client.jetstream().publish(f"{system_name}.order.event.placed.v1", b"{}", headers=headers)

        (entry,) = await everything(broker)

        assert entry.envelope.source == "https://elsewhere.example/orders"
        assert entry.envelope.time == datetime(2026, 5, 6, 7, 8, 9, tzinfo=UTC)
        assert "unreadable" not in entry.envelope.headers

    async def test_a_message_under_our_subject_arrives_whatever_its_type_says(
        self, broker: NatsBroker, client: Client, system_name: str
    ) -> None:
        foreign = {**to_headers(event()), "ce-type": "com.example.order-placed"}
        await client.jetstream().publish(f"{system_name}.order.event.placed.v1", b"{}", headers=foreign)
        await broker.publish([event("placed")])

        first, _ = await everything(broker, topics=[Topic("event", "placed")])

        assert first.envelope.type == "com.example.order-placed"


class TestRefusals:
    """What cannot be stored is refused, in words."""

    @pytest.mark.parametrize("others", [0, 50])
    async def test_a_message_over_the_servers_limit_is_refused_before_anything_is_sent(
        self, broker: NatsBroker, others: int
    ) -> None:
        large = replace(event(), body=bytes(2**20))

        with pytest.raises(TooLarge, match=rf"{large.id}.*bytes"):
            await broker.publish([*events(others, 3), large])

        assert await broker.extent("order") == Extent(1, 0)
        await broker.publish([event()])

    async def test_headers_count_towards_the_limit(self, broker: NatsBroker) -> None:
        large = replace(event(), body=bytes(2**20 - 2_000), headers={"note": "x" * 3_000})

        with pytest.raises(TooLarge):
            await broker.publish([large])

        await broker.publish([event()])

    async def test_the_largest_message_passes_alone_and_in_a_batch(self, broker: NatsBroker) -> None:
        size, step = 2**20, 2**19
        while step:  # find the limit by asking
            try:
                await broker.publish([replace(event(), body=bytes(size))])
                size += step
            except TooLarge:
                size -= step
            step //= 2
        largest = replace(event(), body=bytes(size - 1))

        await broker.publish([largest, *events(40, 3)])

        assert (await broker.extent("order")).last > 40

    @pytest.mark.parametrize("number", [3, 100])
    async def test_a_full_stream_refuses_and_takes_again_when_there_is_room(
        self, broker: NatsBroker, client: Client, name: str, number: int
    ) -> None:
        config = (await client.jetstream().stream_info(name)).config
        await client.jetstream().update_stream(config, max_msgs=5)
        published = events(number, keys=1)
        await broker.publish(events(4, keys=1))

        with pytest.raises(BrokerUnavailable, match="maximum messages"):
            await broker.publish(published)
        assert await broker.extent("order") == Extent(1, 5)  # a prefix, and nothing was dropped for it

        await client.jetstream().update_stream(config, max_msgs=-1)
        await broker.publish(published)
        assert firsts((await everything(broker))[4:]) == by_key(published)

    @pytest.mark.parametrize("number", [10, 100])
    async def test_behind_a_refused_message_nothing_of_its_key_is_stored(
        self, broker: NatsBroker, client: Client, name: str, number: int
    ) -> None:
        config = (await client.jetstream().stream_info(name)).config
        await client.jetstream().update_stream(config, max_msg_size=2_000)
        published = events(number, keys=4)
        published[5] = replace(published[5], body=bytes(3_000))

        with pytest.raises(TooLarge, match="message size"):
            await broker.publish(published)

        stored = firsts(await everything(broker))
        assert stored["key 1"] == by_key(published)["key 1"][:1]
        assert all(bodies == by_key(published)[key][: len(bodies)] for key, bodies in stored.items())

    async def test_without_atomic_batches_many_messages_go_out_in_rounds(
        self, broker: NatsBroker, client: Client, name: str
    ) -> None:
        config = (await client.jetstream().stream_info(name)).config
        await client.jetstream().update_stream(config, allow_atomic=False)
        published = events(300, keys=7)

        await broker.publish(published)

        assert firsts(await everything(broker)) == by_key(published)

    async def test_a_message_that_another_stream_takes_is_not_stored(
        self, nats_broker: NatsBroker, client: Client, system_name: str
    ) -> None:
        await client.jetstream().add_stream(name=f"{system_name}-thief", subjects=[f"{system_name}.order.>"])

        with pytest.raises(BrokerUnavailable, match="thief has taken"):
            await nats_broker.publish([event()])

    async def test_a_stream_that_confirms_nothing_is_unavailable(
        self, broker: NatsBroker, client: Client, name: str
    ) -> None:
        config = (await client.jetstream().stream_info(name)).config
        await client.jetstream().update_stream(config, no_ack=True)

        with pytest.raises(BrokerUnavailable, match="confirmed nothing for 5 s"):
            await asyncio.wait_for(broker.publish([event()]), timeout=8)

    @pytest.mark.parametrize(
        "kind", ["order", "order.", "order.a b.v1", "order.*.v1", "order.>", "order..v1", "order.\r\n"]
    )
    async def test_a_type_that_is_no_subject_is_a_mistake(self, broker: NatsBroker, kind: str) -> None:
        with pytest.raises(DefinitionError):
            await broker.publish([replace(event(), type=kind)])

    @pytest.mark.parametrize("stream", ["", "a.b", "*", ">", "a b"])
    async def test_a_stream_that_is_no_word_is_a_mistake(self, broker: NatsBroker, stream: str) -> None:
        with pytest.raises(DefinitionError):
            await broker.ensure_stream(stream)
        with pytest.raises(DefinitionError):
            await broker.publish([replace(event(), stream=stream)])


class TestBundles:
    """Commands, and replies, that are published together are stored as one."""

    async def test_many_commands_are_one_message_of_the_log(self, broker: NatsBroker) -> None:
        await broker.publish(commands(MOST))
        await broker.publish(commands(2 * MOST + 1))

        assert await broker.extent("order") == Extent(1, 4)

    async def test_the_same_bundle_is_stored_once(self, broker: NatsBroker) -> None:
        published = commands(5)

        await broker.publish(published)
        await broker.publish(published)

        assert await broker.extent("order") == Extent(1, 1)

    async def test_events_are_stored_each_by_its_subject(self, broker: NatsBroker, client: Client, name: str) -> None:
        await broker.publish([*commands(2), event(), *commands(2)])

        assert await broker.extent("order") == Extent(1, 5)
        assert (await client.jetstream().get_msg(name, 3)).subject.endswith("order.event.placed.v1")

    async def test_what_is_too_large_for_one_bundle_goes_in_several(self, broker: NatsBroker) -> None:
        published = [replace(one, body=bytes(100_000)) for one in commands(4)]

        await broker.publish(published)

        assert await broker.extent("order") == Extent(1, 2)
        assert [entry.envelope for entry in await everything(broker, topics=COMMANDS)] == published

    async def test_a_stream_that_takes_no_such_bundle_gets_each_message(
        self, broker: NatsBroker, client: Client, name: str
    ) -> None:
        config = (await client.jetstream().stream_info(name)).config
        await client.jetstream().update_stream(config, max_msg_size=2_000)
        published = commands(20)

        await broker.publish(published)

        assert [entry.envelope for entry in await everything(broker, topics=COMMANDS)] == published

    @pytest.mark.parametrize(
        "body",
        [
            *(b"", b"[]", b"{}", b'""', b"[1]", b'{"a": 1}', b'[["no headers", ""]]', b'[[{"a": 1}, ""]]'),
            *(b'[[{}, "?"]]', b'[[{},""]' + b',[{},""]' * 100_000 + b"]"),
            *(b"[[" + b"[" * 1_000 + b"]" * 1_000 + b',""]]', b'[[{"a":' + b"[" * 1_000 + b"]" * 1_000 + b'},""]]'),
        ],
        ids=range(12),
    )
    async def test_a_malformed_bundle_arrives_and_says_so(
        self, broker: NatsBroker, client: Client, system_name: str, body: bytes
    ) -> None:
        await client.jetstream().publish(f"{system_name}.order.command.$bundle", body)

        (entry,) = await everything(broker, topics=COMMANDS)

        assert "the bundle is malformed" in entry.envelope.headers["unreadable"]
        assert (entry.envelope.kind, entry.envelope.body) == ("command", body)

    async def test_behind_a_bundle_that_is_refused_nothing_of_its_keys_is_stored_first(
        self, broker: NatsBroker, client: Client, name: str
    ) -> None:
        config = (await client.jetstream().stream_info(name)).config
        await client.jetstream().update_stream(config, max_msg_size=2_000)
        published = [replace(one, key="k", body=str(n).encode()) for n, one in enumerate(commands(MOST + 1))]

        await broker.publish(published)

        assert firsts(await everything(broker, topics=COMMANDS)) == by_key(published)

    def test_what_grows_beyond_the_limit_as_json_goes_by_itself(self) -> None:
        headers = {"ce-id": "1", "ce-subject": "\\" * 1_000}
        messages = [Outgoing("subject", "key", headers, b"", 1_050) for _ in range(9)]

        bundles = list(bundled("$bundle", messages, 4_200))

        assert all(one.size_bytes <= 4_200 for one in bundles)
        assert bundles == messages

    async def test_many_that_are_for_others_keep_nobody_from_reading_on(self, broker: NatsBroker) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS), broker.read("order", [Topic("command", "pack")], 0) as reader:
            for _ in range(10):  # until the server asks whether to go on, and waits for the answer
                await broker.publish([replace(event("ship", kind="command"), body=bytes(9_000)) for _ in range(100)])
            await broker.publish([wanted := event("pack", kind="command"), event("ship", kind="command")])

            (entry,) = await reader.next(1_000)

        assert entry.envelope == wanted

    async def test_a_malformed_message_in_a_bundle_spoils_no_other(
        self, broker: NatsBroker, client: Client, system_name: str, name: str
    ) -> None:
        published = commands(3)
        await broker.publish(published)
        parts = json.loads((await client.jetstream().get_msg(name, 1)).data or b"")
        del parts[0][0]["ce-id"], parts[1][0]["ce-id"]
        await client.jetstream().publish(f"{system_name}.order.command.$bundle", json.dumps(parts).encode())

        first, second, third = (await everything(broker, topics=COMMANDS))[3:]

        assert [("unreadable" in one.envelope.headers) for one in (first, second, third)] == [True, True, False]
        assert first.envelope.id != second.envelope.id
        assert third.envelope == published[2]


class TestStreams:
    """The stream of a service and its configuration."""

    async def test_a_stream_refuses_when_full_keeps_a_week_and_knows_duplicates(
        self, broker: NatsBroker, client: Client, name: str, system_name: str
    ) -> None:
        config = (await client.jetstream().stream_info(name)).config

        assert config.subjects == [f"{system_name}.order.>"]
        assert (config.storage, config.discard, config.allow_atomic) == ("file", "new", True)
        assert (config.max_age, config.duplicate_window) == (STREAM_MAX_AGE.total_seconds(), 120)

    async def test_a_message_is_stored_under_its_kind_name_and_version(
        self, broker: NatsBroker, client: Client, name: str, system_name: str
    ) -> None:
        await broker.publish([event("stock.reserved", key="a.b *", version=3, kind="command")])

        stored = await client.jetstream().get_msg(name, 1)

        assert stored.subject == f"{system_name}.order.command.stock.reserved.v3"

    async def test_an_operators_configuration_is_kept(self, broker: NatsBroker, client: Client, name: str) -> None:
        config = (await client.jetstream().stream_info(name)).config
        await client.jetstream().update_stream(config, max_bytes=10**9, max_age=86_400)

        await broker.ensure_stream("order")

        kept = (await client.jetstream().stream_info(name)).config
        assert (kept.max_bytes, kept.max_age) == (10**9, 86_400)

    async def test_a_stream_of_that_name_with_other_subjects_is_a_mistake(
        self, nats_broker: NatsBroker, client: Client, name: str
    ) -> None:
        await client.jetstream().add_stream(name=name, subjects=[f"{name}.else.>"])

        with pytest.raises(ConfigurationError, match="else"):
            await nats_broker.ensure_stream("order")

    async def test_subjects_that_another_stream_stores_are_a_mistake(
        self, nats_broker: NatsBroker, client: Client, system_name: str
    ) -> None:
        await client.jetstream().add_stream(name=f"{system_name}-all", subjects=[f"{system_name}.>"])

        with pytest.raises(ConfigurationError, match="overlap"):
            await nats_broker.ensure_stream("order")

    async def test_a_stored_duplicate_is_dropped_by_the_server(self, broker: NatsBroker) -> None:
        published = events(100, keys=3)

        await broker.publish(published)
        await broker.publish(published[:10])
        await broker.publish(published)

        assert await broker.extent("order") == Extent(1, 100)


class TestReading:
    """A reader that has missed something says so; what it holds is bounded."""

    async def test_a_deleted_consumer_ends_the_reader(
        self, broker: NatsBroker, client: Client, consumers: Callable[[], Awaitable[list[ConsumerInfo]]], name: str
    ) -> None:
        async with broker.read("order", EVENTS, 0) as reader:
            (consumer,) = await consumers()
            await client.jetstream().delete_consumer(name, consumer.name)

            with pytest.raises(BrokerUnavailable, match="no sign"):
                await read(reader, 1)

    async def test_a_deleted_stream_ends_the_reader(self, broker: NatsBroker, client: Client, name: str) -> None:
        async with broker.read("order", EVENTS, 0) as reader:
            await client.jetstream().delete_stream(name)

            with pytest.raises(BrokerUnavailable, match="no sign"):
                await read(reader, 1)

    async def test_an_idle_reader_lasts(self, broker: NatsBroker) -> None:
        async with broker.read("order", EVENTS, 0) as reader:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(reader.next(1), timeout=5)  # longer than silence would be taken
            published = event()
            await broker.publish([published])

            assert [entry.envelope for entry in await read(reader, 1)] == [published]

    async def test_a_reader_that_is_not_asked_holds_no_more_than_the_server_sends_ahead(
        self, broker: NatsBroker, consumers: Callable[[], Awaitable[list[ConsumerInfo]]]
    ) -> None:
        published = [replace(event(key=f"k{n}"), body=bytes([n]) * 500_000) for n in range(160)]
        await broker.publish(published)

        async def sent() -> int:
            (consumer,) = await consumers()
            assert consumer.delivered
            return consumer.delivered.consumer_seq

        async with broker.read("order", EVENTS, 0) as reader:
            entries = await read(reader, 1)
            before = 0
            while (now := await sent()) != before:  # until it sends no more
                before = now
                await asyncio.sleep(2)  # heartbeats of a stalled consumer come each second
            held = before

            while len(entries) < len(published):
                entries += await reader.next(10)

        assert held * 500_000 < 40e6
        assert [entry.envelope.id for entry in entries] == [one.id for one in published]

    async def test_a_closed_reader_leaves_no_consumer(
        self, broker: NatsBroker, consumers: Callable[[], Awaitable[list[ConsumerInfo]]]
    ) -> None:
        async with broker.read("order", EVENTS, 0):
            assert len(await consumers()) == 1

        async def gone() -> bool:
            return not await consumers()

        await eventually(gone, timedelta(seconds=30), because="the server forgets a consumer that nobody listens to")


class TestOpening:
    """Addresses, names and what is said of them."""

    @pytest.mark.parametrize("url", ["", "nats://", "nats://host:port", "nats://a:secret@:4222", "nats://ok:4222,"])
    async def test_a_malformed_url_is_a_mistake(self, url: str) -> None:
        with pytest.raises(ConfigurationError) as raised:
            await NatsBroker.open(url, "shop")

        assert "secret" not in str(raised.value)

    @pytest.mark.parametrize("system", ["", "a.b", "a b", "*"])
    async def test_a_malformed_system_is_a_mistake(self, covey_engines: Engines, system: str) -> None:
        with pytest.raises(ConfigurationError):
            await NatsBroker.open(covey_engines.nats_url, system)

    async def test_a_service_may_start_while_its_broker_is_down(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)

        broker = await NatsBroker.open("nats://user:secret@127.0.0.1:9", "shop")

        with pytest.raises(BrokerUnavailable, match=r"127\.0\.0\.1:9") as raised:
            await broker.publish([event()])
        await broker.close()
        assert "secret" not in str(raised.value)
        assert "secret" not in caplog.text

    async def test_a_wrong_password_is_reported_without_it(self, covey_engines: Engines) -> None:
        broker = await NatsBroker.open(f"nats://covey:wrong-secret@{address_of(covey_engines.nats_url)}", "shop")

        async def told() -> str:
            with pytest.raises(BrokerUnavailable) as raised:
                await broker.extent("order")
            assert "uthorization" in str(raised.value)  # a server that hangs up may cut its reason off
            return str(raised.value)

        assert "wrong-secret" not in await eventually(told)
        await broker.close()

    async def test_any_of_several_servers_will_do(self, covey_engines: Engines, system_name: str) -> None:
        url = f"nats://127.0.0.1:9, {covey_engines.nats_url}"

        broker = await NatsBroker.open(url, system_name)

        await broker.ensure_stream("order")
        await broker.close()


def _made(kind: type[BaseException]) -> BaseException:
    if not inspect.isfunction(kind.__init__):
        return kind()
    return kind(*(1 for one in inspect.signature(kind).parameters.values() if one.kind == one.POSITIONAL_OR_KEYWORD))


def _errors_of_nats() -> list[type[BaseException]]:
    modules = [nats.errors, nats.js.errors]
    return [
        kind
        for module in modules
        for _, kind in inspect.getmembers(module, inspect.isclass)
        if issubclass(kind, BaseException)
    ]


@pytest.mark.parametrize(
    "kind", [*_errors_of_nats(), OSError, ConnectionResetError, TimeoutError], ids=lambda k: k.__name__
)
def test_no_error_of_nats_leaks(kind: type[BaseException]) -> None:
    with pytest.raises(BrokerUnavailable, match="asking"), translated("asking"):
        raise _made(kind)


def test_the_walk_finds_the_errors_of_nats() -> None:
    assert {nats.errors.NoRespondersError, nats.js.errors.APIError} <= set(_errors_of_nats())
