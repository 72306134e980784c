"""The NATS proxy: covey's broker notices nothing, and the tap sees publications, confirmations and deliveries."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from urllib.parse import urlsplit

import pytest

from covey.errors import BrokerUnavailable
from covey.ids import new_id
from covey.local.engines.embedded import Engines
from covey.message import Envelope
from covey.messaging.broker import Entry, Topic
from covey.messaging.brokers.nats import NatsBroker
from tests.wire.exchange import Arrival, Exchange, Publication, Stage
from tests.wire.nats import Frames, speak_nats, with_headers
from tests.wire.proxy import Proxy


class Keeping:
    """Keeps what passes, and refuses one stage of publications."""

    def __init__(self) -> None:
        self.passed: list[tuple[Stage, Exchange]] = []
        self.refuse: Stage | None = None

    async def passes(self, stage: Stage, exchange: Exchange) -> bool:
        """See Tap."""
        self.passed.append((stage, exchange))
        return not (stage is self.refuse and isinstance(exchange, Publication))


@pytest.fixture
async def proxy(covey_engines: Engines) -> AsyncIterator[Proxy]:
    """A proxy in front of the session's NATS."""
    port = urlsplit(covey_engines.nats_url).port
    assert port
    proxy = await Proxy.open("127.0.0.1", port, speak_nats)
    proxy.tap = Keeping()
    yield proxy
    await proxy.close()


@pytest.fixture
async def broker(proxy: Proxy, covey_engines: Engines, system_name: str) -> AsyncIterator[NatsBroker]:
    """A broker that speaks through the proxy."""
    login = urlsplit(covey_engines.nats_url).netloc.rpartition("@")[0]
    broker = await NatsBroker.open(f"nats://{login}@127.0.0.1:{proxy.port}", system_name)
    await broker.ensure_stream("crm")
    yield broker
    await broker.close()


def envelope(key: str) -> Envelope:
    """Return a message of that key."""
    return Envelope(
        id=new_id(), type="crm.found.v1", key=key, source="crm", time=datetime.now(UTC), body=b"{}\r\n", stream="crm"
    )


def passed(proxy: Proxy) -> list[tuple[Stage, Exchange]]:
    """Return what the tap has seen."""
    assert isinstance(proxy.tap, Keeping)
    return proxy.tap.passed


async def test_a_bundle_is_seen_as_one_with_all_its_types(proxy: Proxy, broker: NatsBroker) -> None:
    types = ["crm.find.v1", "crm.greet.v1", "crm.find.v1"]
    messages = [replace(envelope(str(n)), kind="command", type=one) for n, one in enumerate(types)]

    await broker.publish(messages)
    async with broker.read("crm", [Topic("command")], 0) as reader:
        assert len(await reader.next(100)) == 3

    seen = [one for stage, one in passed(proxy) if stage is Stage.REQUEST or isinstance(one, Arrival)]
    assert {type(one) for one in seen} == {Publication, Arrival}
    for one in seen:
        assert isinstance(one, Publication | Arrival)
        assert one.headers["ce-type"] == "crm.find.v1 + crm.greet.v1"
        assert one.headers["ce-id"] == str(messages[0].id)


@pytest.mark.parametrize("number", [1, 3, 40], ids=["one", "a round", "an atomic batch"])
async def test_publications_and_deliveries_are_seen(proxy: Proxy, broker: NatsBroker, number: int) -> None:
    messages = [envelope(str(n)) for n in range(number)]
    ids = [str(one.id) for one in messages]

    await broker.publish(messages)
    async with broker.read("crm", [Topic("event")], 0) as reader:
        entries: list[Entry] = []
        while len(entries) < number:
            entries += await reader.next(100)

    asked = [one for stage, one in passed(proxy) if stage is Stage.REQUEST and isinstance(one, Publication)]
    confirmed = [one for stage, one in passed(proxy) if stage is Stage.DELIVERED and isinstance(one, Publication)]
    arrived = [one for stage, one in passed(proxy) if stage is Stage.DELIVERED and isinstance(one, Arrival)]
    assert [one.headers["ce-id"] for one in asked] == ids
    assert len(confirmed) == (1 if number == 40 else number)
    assert [one.headers["ce-id"] for one in arrived] == ids
    assert [entry.envelope.body for entry in entries] == [b"{}\r\n"] * number


@pytest.mark.parametrize(("stage", "stored"), [(Stage.REQUEST, 0), (Stage.ANSWER, 1)])
async def test_a_publication_is_stored_only_if_its_request_passes(
    proxy: Proxy, broker: NatsBroker, stage: Stage, stored: int
) -> None:
    assert isinstance(proxy.tap, Keeping)
    proxy.tap.refuse = stage

    with pytest.raises(BrokerUnavailable):
        await broker.publish([envelope("a")])

    proxy.tap.refuse = None
    await broker.close()
    assert len([one for at, one in passed(proxy) if at is Stage.ANSWER and isinstance(one, Publication)]) == stored


def test_frames_are_cut_wherever_the_bytes_are_divided() -> None:
    head = b"NATS/1.0\r\nce-id: 7\r\n\r\n"
    whole = (
        b"PING\r\nHPUB shop.a _INBOX.1 " + f"{len(head)} {len(head) + 4}\r\n".encode() + head + b"a\r\nb\r\nPONG\r\n"
    )

    frames = Frames()
    found = [one for byte in whole for one in frames.feed(bytes([byte]))]

    assert [one.verb for one in found] == [b"PING", b"HPUB", b"PONG"]
    assert (found[1].subject, found[1].reply) == ("shop.a", "_INBOX.1")
    assert (found[1].headers, found[1].payload) == ({"ce-id": "7"}, b"a\r\nb")


def test_a_publication_can_be_given_other_headers() -> None:
    head = b"NATS/1.0\r\nce-id: 7\r\nNats-Msg-Id: 7\r\n\r\n"
    (frame,) = Frames().feed(b"HPUB s r " + f"{len(head)} {len(head) + 2}\r\n".encode() + head + b"{}\r\n")

    (changed,) = Frames().feed(with_headers(frame, {"ce-id": "7"}))

    assert (changed.headers, changed.payload, changed.subject, changed.reply) == ({"ce-id": "7"}, b"{}", "s", "r")
