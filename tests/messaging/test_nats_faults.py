"""What is promised when the server dies, freezes or hangs up, and when the network loses a message."""

from __future__ import annotations

import asyncio
import json
import time
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Awaitable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from signal import SIGCONT, SIGHUP, SIGSTOP
from urllib.parse import urlsplit
from uuid import UUID

import psutil
import pytest
import uvloop

from covey.errors import BrokerUnavailable, TooLarge
from covey.local.engines.embedded import Engines
from covey.local.engines.engine import RunningEngine, start
from covey.local.engines.nats import NatsServer
from covey.local.state import StateFolder, open_state
from covey.message import Envelope
from covey.messaging.broker import Entry
from covey.messaging.brokers.nats import NatsBroker
from covey.messaging.brokers.nats_connection import _hang_up
from covey.testing.broker_contract import EVENTS, by_key, event, events, everything, firsts, read
from covey.testing.eventually import eventually


def _stopped(pid: int) -> bool:
    """Tell whether every thread of a process has stopped, where /proc says so."""
    states = [stat.read_text().rpartition(")")[2].split()[0] for stat in Path(f"/proc/{pid}/task").glob("*/stat")]
    return all(state == "T" for state in states)


class BreakableNats:
    """A NATS server of this test alone, which acknowledges only what is on the disk."""

    def __init__(self, state: StateFolder, engine: RunningEngine) -> None:
        self._state = state
        self._engine = engine

    @property
    def url(self) -> str:
        """Its address, which stays the same."""
        return self._engine.url

    async def kill(self) -> None:
        """End it with SIGKILL and wait until it is gone."""
        self._engine.process.kill()
        await self._engine.process.wait()

    async def start(self) -> None:
        """Start it again on the same store and port."""
        self._engine = await _started(self._state)

    def freeze(self) -> None:
        """Stop its execution: it answers nothing, and its connections stay open."""
        self._engine.process.signal(SIGSTOP)
        deadline = time.monotonic() + 5
        while not _stopped(self._engine.process.pid):  # until then it may answer, on another CPU
            assert time.monotonic() < deadline, "it has not stopped in time"

    def thaw(self) -> None:
        """Let it go on."""
        self._engine.process.signal(SIGCONT)

    def configure(self, **settings: object) -> None:
        """Change its configuration while it runs."""
        file = self._state.path / "nats" / "server.conf"
        file.write_text(json.dumps(json.loads(file.read_text()) | settings))
        self._engine.process.signal(SIGHUP)

    async def stop(self) -> None:
        """End it for good."""
        self.thaw()
        await self._engine.stop()


async def _started(state: StateFolder) -> RunningEngine:
    return await start(
        state, "nats", lambda port: NatsServer(state.path / "nats", port, state.secret("nats"), "always")
    )


@pytest.fixture
async def breakable_nats(tmp_path: Path) -> AsyncIterator[BreakableNats]:
    """A NATS server of this test alone, to kill, freeze and start again."""
    state = await open_state(tmp_path / "engines")
    server = BreakableNats(state, await _started(state))
    yield server
    await server.stop()
    await state.close()


class LossyNetwork:
    """The way to a NATS server, on which a message of a consumer can get lost (which TCP alone would not do)."""

    def __init__(self, target: str) -> None:
        self._target = urlsplit(target)
        self._lost_count = -1
        self._ways: set[asyncio.Task[None]] = set()
        self.swallowed = 0

    async def open(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)

    @property
    def url(self) -> str:
        """The address of the server by this way."""
        host, port = self._server.sockets[0].getsockname()
        return f"nats://{self._target.username}:{self._target.password}@{host}:{port}"

    def swallow_delivery(self, count: int) -> None:
        """Lose what a consumer delivers as its message of that number."""
        self._lost_count = count

    async def close(self) -> None:
        """Hang up."""
        self._server.close()
        for way in self._ways:
            way.cancel()
        await asyncio.gather(*self._ways, return_exceptions=True)
        await self._server.wait_closed()

    async def _accept(self, reader: StreamReader, writer: StreamWriter) -> None:
        there, thither = await asyncio.open_connection(self._target.hostname, self._target.port)
        for way in (self._outbound(reader, thither), self._inbound(there, writer)):
            self._ways.add(asyncio.create_task(way))

    async def _outbound(self, client: StreamReader, server: StreamWriter) -> None:
        try:
            while data := await client.read(65_536):
                server.write(data)
        finally:
            server.close()

    async def _inbound(self, server: StreamReader, client: StreamWriter) -> None:
        try:
            with suppress(asyncio.IncompleteReadError):
                while line := await server.readline():
                    words = line.split()
                    if words[0] in (b"MSG", b"HMSG"):
                        line += await server.readexactly(int(words[-1]) + 2)
                    if self._is_to_lose(words):
                        self.swallowed += 1
                    else:
                        client.write(line)
        finally:
            client.close()

    def _is_to_lose(self, words: list[bytes]) -> bool:
        delivery = next((word.split(b".") for word in words if word.startswith(b"$JS.ACK.")), None)
        return delivery is not None and int(delivery[6]) == self._lost_count


@pytest.fixture
async def lossy_network(covey_engines: Engines) -> AsyncIterator[LossyNetwork]:
    """The way to the session's NATS, on which messages can get lost."""
    network = LossyNetwork(covey_engines.nats_url)
    await network.open()
    yield network
    await network.close()


@pytest.fixture
async def broker(breakable_nats: BreakableNats) -> AsyncIterator[NatsBroker]:
    """A broker on the server to break, with the stream of the service `order`."""
    opened = await NatsBroker.open(breakable_nats.url, "shop")
    await opened.ensure_stream("order")
    yield opened
    await opened.close()


async def published_in_the_end(broker: NatsBroker, envelopes: list[Envelope]) -> bool:
    """Publish, as the relay does: again until it is confirmed."""
    try:
        await broker.publish(envelopes)
    except BrokerUnavailable:
        return False
    return True


async def seconds_until_unavailable(work: Awaitable[object]) -> float:
    """Return how long it took to fail."""
    begun = asyncio.get_running_loop().time()
    with pytest.raises(BrokerUnavailable):
        await work
    return asyncio.get_running_loop().time() - begun


def sockets_to(url: str) -> int:
    """Return how many connections this process has to that server."""
    port = urlsplit(url).port
    return sum(one.raddr[1:] == (port,) for one in psutil.Process().net_connections("tcp"))


class TestLosses:
    """A message that the server has delivered does not arrive: TCP loses none, a client in need may drop one."""

    @pytest.fixture
    async def broker(self, nats_broker: NatsBroker) -> NatsBroker:
        await nats_broker.ensure_stream("order")
        return nats_broker

    async def test_a_missing_message_ends_the_reader_after_what_came_before_it(
        self, broker: NatsBroker, lossy_network: LossyNetwork, system_name: str
    ) -> None:
        published = events(6, keys=1)
        await broker.publish(published)
        lossy_network.swallow_delivery(4)
        reading = await NatsBroker.open(lossy_network.url, system_name)

        async with reading.read("order", EVENTS, 0) as reader:
            entries = await read(reader, 3, limit=1)
            with pytest.raises(BrokerUnavailable, match="after 3 messages the server counts 4"):
                await read(reader, 1)

        assert [entry.envelope.id for entry in entries] == [one.id for one in published[:3]]
        assert lossy_network.swallowed == 1
        await reading.close()

    async def test_a_missing_last_message_ends_the_reader_with_the_next_heartbeat(
        self, broker: NatsBroker, lossy_network: LossyNetwork, system_name: str
    ) -> None:
        await broker.publish(events(6, keys=1))
        lossy_network.swallow_delivery(6)
        reading = await NatsBroker.open(lossy_network.url, system_name)

        async with reading.read("order", EVENTS, 0) as reader:
            await read(reader, 5)
            with pytest.raises(BrokerUnavailable, match="after 5 messages the server counts 6"):
                await read(reader, 1)

        await reading.close()


class TestKilled:
    """The server is killed, and started again on the same store."""

    @pytest.mark.parametrize("size", [1, 20, 300])
    async def test_what_was_confirmed_is_there_and_each_key_has_a_first_part(
        self, breakable_nats: BreakableNats, broker: NatsBroker, size: int
    ) -> None:
        published = events(30_000, keys=11)
        confirmed: list[Envelope] = []

        async def publish() -> None:
            for first in range(0, len(published), size):
                await broker.publish(published[first : first + size])
                confirmed.extend(published[first : first + size])

        publishing = asyncio.create_task(publish())
        await eventually(lambda: len(confirmed) >= 5 * size)
        await breakable_nats.kill()
        assert await seconds_until_unavailable(publishing) < 2
        assert len(confirmed) < len(published), "it was killed while publishing"

        await breakable_nats.start()
        async with asyncio.timeout(20):
            stored = await eventually(lambda: _everything(broker))
        bodies, expected = firsts(stored), by_key(published)
        assert {entry.envelope.id for entry in stored} >= {one.id for one in confirmed}
        assert all(found == expected[key][: len(found)] for key, found in bodies.items())

    async def test_a_publisher_that_tries_again_and_a_reader_that_reads_on_get_all_in_order(
        self, breakable_nats: BreakableNats, broker: NatsBroker
    ) -> None:
        published = events(3_000, keys=7)
        found: list[Entry] = []

        async def publish() -> None:
            for first in range(0, len(published), 100):
                part = published[first : first + 100]
                await eventually(lambda part=part: published_in_the_end(broker, part))

        async def consume() -> None:
            while len(firsts_of(found)) < len(published):
                with suppress(BrokerUnavailable):
                    async with broker.read("order", EVENTS, found[-1].sequence if found else 0) as reader:
                        while len(firsts_of(found)) < len(published):
                            found.extend(await reader.next(50))
                await asyncio.sleep(0.01)

        async def damage() -> None:
            for part in (1, 2, 3):
                await eventually(lambda part=part: len(found) > part * 600)
                await breakable_nats.kill()
                await breakable_nats.start()

        async with asyncio.timeout(60):
            await asyncio.gather(publish(), consume(), damage())

        assert firsts(found) == by_key(published)
        sequences = [entry.sequence for entry in found]
        assert sequences == sorted(set(sequences))

    async def test_publishing_and_reading_fail_at_once_and_work_again_afterwards(
        self, breakable_nats: BreakableNats, broker: NatsBroker
    ) -> None:
        await broker.publish([event()])
        async with broker.read("order", EVENTS, 1) as reader:
            waiting = asyncio.create_task(reader.next(1))
            await breakable_nats.kill()

            assert await seconds_until_unavailable(waiting) < 2
        for _ in range(3):
            assert await seconds_until_unavailable(broker.publish([event()])) < 0.5
            assert await seconds_until_unavailable(broker.extent("order")) < 0.5

        await breakable_nats.start()
        again = event()
        await eventually(lambda: published_in_the_end(broker, [again]))
        assert (await everything(broker))[-1].envelope == again

    async def test_closing_while_it_is_down_does_not_hang(
        self, breakable_nats: BreakableNats, broker: NatsBroker
    ) -> None:
        await breakable_nats.kill()

        async with asyncio.timeout(2):
            await broker.close()


class TestFrozen:
    """The server is stopped by SIGSTOP: its connections stay open, and it answers nothing."""

    async def test_publishing_fails_within_its_time_and_works_after_the_thaw(
        self, breakable_nats: BreakableNats, broker: NatsBroker
    ) -> None:
        breakable_nats.freeze()
        published = events(101, keys=3)

        one, many = await asyncio.gather(
            seconds_until_unavailable(broker.publish(published[:1])),
            seconds_until_unavailable(broker.publish(published[1:])),
        )
        assert 4 < one < 7
        assert 4 < many < 7
        assert await seconds_until_unavailable(broker.publish(published)) < 0.5

        breakable_nats.thaw()
        await eventually(lambda: published_in_the_end(broker, published))
        assert firsts(await everything(broker)) == by_key(published)

    async def test_publishing_much_fails_within_its_time_too(
        self, breakable_nats: BreakableNats, broker: NatsBroker
    ) -> None:
        breakable_nats.freeze()
        published = [replace(event(key=f"k{n}"), body=bytes(900_000)) for n in range(40)]

        assert await seconds_until_unavailable(broker.publish(published)) < 7

        await eventually(lambda: sockets_to(breakable_nats.url) == 0, because="the one that hangs is let go")

    async def test_a_reader_ends_within_its_time(self, breakable_nats: BreakableNats, broker: NatsBroker) -> None:
        async with broker.read("order", EVENTS, 0) as reader:
            breakable_nats.freeze()

            assert 1 < await seconds_until_unavailable(reader.next(1)) < 5

    async def test_an_idle_connection_is_given_up(self, breakable_nats: BreakableNats, broker: NatsBroker) -> None:
        breakable_nats.freeze()

        async def given_up() -> bool:
            try:
                async with asyncio.timeout(0.2):
                    await broker.extent("order")
            except BrokerUnavailable as error:
                return "no connection" in str(error)
            except TimeoutError:
                pass
            return False

        await eventually(given_up, timedelta(seconds=15))

    async def test_closing_does_not_hang(self, breakable_nats: BreakableNats, broker: NatsBroker) -> None:
        large = [replace(event(key=f"k{n}"), body=bytes(900_000)) for n in range(9)]
        breakable_nats.freeze()
        publishing = asyncio.create_task(broker.publish(large))
        await asyncio.wait([publishing], timeout=0.2)  # until the server's buffers are full, and ours are not empty

        async with asyncio.timeout(3):
            await broker.close()
        assert await seconds_until_unavailable(publishing) < 0.1
        assert sockets_to(breakable_nats.url) == 0


class TestHungUp:
    """The server ends a connection with an error, after which nats-py alone would never connect again."""

    async def test_the_broker_connects_again_and_keeps_to_what_the_server_says_now(
        self, breakable_nats: BreakableNats, broker: NatsBroker
    ) -> None:
        await broker.publish([replace(event(), body=bytes(20_000))])

        breakable_nats.configure(max_payload=10_000)

        async def refused_clearly() -> bool:
            try:
                await broker.publish([replace(event(), body=bytes(20_000))])
            except TooLarge:
                return True
            except BrokerUnavailable:  # hung up on
                hung_up.append(True)
            return False

        hung_up: list[bool] = []
        await eventually(refused_clearly, timedelta(seconds=15))
        assert hung_up
        await broker.publish([event()])


def firsts_of(entries: list[Entry]) -> set[UUID]:
    """Return the ids that have come."""
    return {entry.envelope.id for entry in entries}


async def _everything(broker: NatsBroker) -> list[Entry]:
    try:
        return await everything(broker)
    except BrokerUnavailable:
        return []


def test_a_socket_that_is_cut_in_the_middle_of_writing_leaves_nobody_without_a_connection(
    covey_engines: Engines, system_name: str
) -> None:
    """On uvloop, whose error for it is no OSError: taken for a defect, it would end the task that connects again."""

    async def scenario() -> None:
        broker = await NatsBroker.open(covey_engines.nats_url, system_name)
        await broker.ensure_stream("order")
        for _ in range(4):
            publishing = asyncio.create_task(broker.publish(events(40, keys=5)))
            await asyncio.sleep(0)
            await _hang_up(broker._connected().connection.client)
            with suppress(BrokerUnavailable):
                await publishing
            await eventually(lambda: _published(broker))
        await broker.close()

    async def _published(broker: NatsBroker) -> bool:
        try:
            await broker.publish([event()])
        except BrokerUnavailable:
            return False
        return True

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())
