"""The broker on NATS JetStream: one stream for each service, published in order, read by ordered push consumers.

A message is stored under `<system>.<stream>.<kind>.<name>.<version>` as a CloudEvent (covey.messaging.cloud_events).
Its key is a header: keys may be any text, and their number costs the server nothing. Commands, and replies, that are
published together are stored as bundles (covey.messaging.brokers.nats_bundle). Server 2.12 or later.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from functools import lru_cache
from itertools import groupby
from typing import Self

from nats.js.api import DiscardPolicy, StorageType, StreamConfig
from nats.js.errors import BadRequestError

from covey.errors import BrokerUnavailable, ConfigurationError, DefinitionError, TooLarge
from covey.message import Envelope
from covey.messaging.broker import STREAM_MAX_AGE, Extent, Reader, Topic
from covey.messaging.brokers.nats_bundle import BUNDLE, Outgoing, bundled
from covey.messaging.brokers.nats_connection import Connection, address_of, translated
from covey.messaging.brokers.nats_publisher import BATCH_HEADER_BYTES, Publisher
from covey.messaging.brokers.nats_reader import NatsReader
from covey.messaging.cloud_events import to_headers
from covey.messaging.ending import end

_log = logging.getLogger(__name__)

_LONGEST_BACKOFF_SECONDS = 2.0
_LASTING_SECONDS = 5.0
_STREAM_NAME_TAKEN = 10058
_WORD = re.compile(r"[A-Za-z0-9_-]+")


class NatsBroker:
    """A Broker on a NATS server or cluster. Open it with `NatsBroker.open`, `close` it when the service stops."""

    def __init__(self, urls: Sequence[str], system: str) -> None:
        self._urls = urls
        self._system = system
        self._problem = "not tried yet"
        self._publisher: Publisher | None = None
        self._tried = asyncio.Event()
        self._keeper = asyncio.create_task(self._keep_connected(), name="nats")

    @classmethod
    async def open(cls, url: str, system: str) -> Self:
        """Connect to a server of `url` (several are separated by commas), for the streams of `system`.

        Returns when each was tried once, also in vain, for a service must start while its broker is down: until there
        is a connection everything raises BrokerUnavailable, and connecting goes on for ever, with backoff.
        Raises ConfigurationError for a malformed url or system.
        """
        urls = [part.strip() for part in url.split(",")]
        for part in urls:
            address_of(part)
        if not _WORD.fullmatch(system):
            raise ConfigurationError(f"the system name {system!r} may have letters, digits and dashes only")
        broker = cls(urls, system)
        try:
            await broker._tried.wait()
        except BaseException:
            await broker.close()
            raise
        return broker

    async def ensure_stream(self, stream: str) -> None:
        """Create the stream of that service if there is none; one that exists keeps its configuration.

        So an operator may give it replicas or a size. Raises ConfigurationError when its name or its subjects belong
        to a stream of another kind.
        """
        name, subjects = self._name(stream), [f"{self._system}.{stream}.>"]
        config = StreamConfig(
            name=name,
            subjects=subjects,
            storage=StorageType.FILE,
            discard=DiscardPolicy.NEW,
            max_age=STREAM_MAX_AGE.total_seconds(),
            duplicate_window=timedelta(minutes=2).total_seconds(),
            allow_atomic=True,
        )
        jetstream = self._connection().jetstream
        with translated(f"creating the stream {name}"):
            try:
                await jetstream.add_stream(config)
            except BadRequestError as refusal:
                if refusal.err_code != _STREAM_NAME_TAKEN:
                    raise ConfigurationError(f"NATS makes no stream {name} for {subjects}: {refusal}") from None
                stored = (await jetstream.stream_info(name)).config.subjects
                if stored != subjects:
                    raise ConfigurationError(f"the stream {name} exists and stores {stored}, not {subjects}") from None

    async def publish(self, envelopes: Sequence[Envelope]) -> None:
        """See Broker.publish. Each stream is published at the same time as, and independently of, the others.

        Without any confirmation for 5 s it gives the connection up and raises BrokerUnavailable.
        """
        publisher = self._connected()
        streams: dict[str, list[Envelope]] = {}
        for envelope in envelopes:
            streams.setdefault(envelope.stream, []).append(envelope)
        with translated("publishing"):
            outcomes = await asyncio.gather(
                *(self._publish(publisher, stream, of_it) for stream, of_it in streams.items()), return_exceptions=True
            )
            for failure in filter(None, outcomes):
                raise failure

    @asynccontextmanager
    async def read(self, stream: str, topics: Collection[Topic], after: int) -> AsyncIterator[Reader]:
        """See Broker.read. The reader keeps at most what the server sends ahead, 32 MB, in memory.

        A server that is silent for 3 s, no matter why, ends the reader.
        """
        connection, name = self._connection(), self._name(stream)
        with translated(f"reading {name}"):
            reader = await NatsReader.open(connection, name, stream, topics, self._filters(stream, topics), after)
        try:
            yield reader
        finally:
            await reader.close()

    async def extent(self, stream: str) -> Extent:
        """See Broker.extent."""
        jetstream, name = self._connection().jetstream, self._name(stream)
        with translated(f"asking for the extent of {name}"):
            info = await jetstream.stream_info(name)
        state, created = info.state, str(info.created)  # an instant that a restart or a restored backup leaves as it is
        return Extent(state.first_seq if state.messages else state.last_seq + 1, state.last_seq, created)

    async def close(self) -> None:
        """Close the connection; whatever waits for it raises BrokerUnavailable. Closing twice is harmless."""
        self._problem = "the broker is closed"
        await end([self._keeper])

    def _connected(self) -> Publisher:
        if self._publisher is None or self._publisher.connection.lost.is_set():
            raise BrokerUnavailable(f"no connection to NATS: {self._problem}")
        return self._publisher

    def _connection(self) -> Connection:
        return self._connected().connection

    def _name(self, stream: str) -> str:
        return f"{self._system}-{_word(stream)}"

    async def _publish(self, publisher: Publisher, stream: str, envelopes: Sequence[Envelope]) -> None:
        """Publish to one stream: in bundles, where none of them is an event."""
        name, limit = self._name(stream), publisher.connection.client.max_payload - BATCH_HEADER_BYTES
        messages = [self._outgoing(envelope, limit) for envelope in envelopes]
        if len(messages) > 1 and not any(envelope.kind == "event" for envelope in envelopes):
            with suppress(TooLarge):  # for this stream, but not each of its messages is
                await publisher.publish(name, self._bundles(stream, envelopes, messages, limit))
                return
        await publisher.publish(name, messages)

    def _bundles(
        self, stream: str, envelopes: Sequence[Envelope], messages: Sequence[Outgoing], limit: int
    ) -> list[Outgoing]:
        """Return the messages in bundles of one kind each, with one key: each is stored before the next is sent."""
        bundles: list[Outgoing] = []
        for kind, of_it in groupby(zip(envelopes, messages, strict=True), lambda pair: pair[0].kind):
            subject = f"{self._system}.{stream}.{kind}.{BUNDLE}"
            bundles += bundled(subject, [message for _, message in of_it], limit)
        return [bundle._replace(key="") for bundle in bundles]

    def _outgoing(self, envelope: Envelope, limit: int) -> Outgoing:
        subject = f"{self._system}.{_subject_in_system(envelope.stream, envelope.kind, envelope.type)}"
        headers = to_headers(envelope)
        headers["Nats-Msg-Id"] = headers["ce-id"]
        size = len(envelope.body) + sum(map(len, headers)) + sum(map(len, headers.values())) + 4 * len(headers) + 12
        if size > limit:  # the server would not answer but hang up
            raise TooLarge(f"message {envelope.id} ({envelope.type}) has {size} bytes, NATS takes {limit}")
        return Outgoing(subject, envelope.key, headers, envelope.body, size)

    def _filters(self, stream: str, topics: Collection[Topic]) -> list[str]:
        """Return the subjects of the topics. The server refuses overlaps: a whole kind covers its names."""
        if not topics:
            raise DefinitionError(f"reading {stream} takes at least one topic")
        whole = {topic.kind for topic in topics if not topic.name}
        named = {f"{topic.kind}.{topic.name}.*" for topic in topics if topic.kind not in whole}
        named |= {f"{topic.kind}.{BUNDLE}" for topic in topics if topic.kind not in whole | {"event"}}
        return [f"{self._system}.{stream}.{words}" for words in sorted(named | {f"{kind}.>" for kind in whole})]

    async def _keep_connected(self) -> None:
        attempts = 0
        while True:
            lasted = await self._be_connected(self._urls[attempts % len(self._urls)])
            attempts = 0 if lasted > _LASTING_SECONDS else attempts + 1
            if attempts % len(self._urls) == 0:
                self._tried.set()
                await asyncio.sleep(_backoff_seconds(attempts // len(self._urls)))

    async def _be_connected(self, url: str) -> float:
        """Have a connection to that server for as long as it lasts; return how many seconds it did."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        try:
            connection = await Connection.open(url)
            try:
                with translated("listening for confirmations"):
                    self._publisher = await Publisher.open(connection)
                _log.info("connected to NATS at %s", connection.address)
                self._tried.set()
                await connection.until_lost()
                raise BrokerUnavailable(connection.problem)
            finally:
                connection.lose(self._problem)
                await connection.abandon()
        except BrokerUnavailable as error:
            self._tell(str(error))
        except (
            Exception
        ) as error:  # whatever it is: who stops trying here leaves the service without its broker for good
            self._tell(f"{type(error).__name__}: {error}")
        return loop.time() - begun

    def _tell(self, problem: str) -> None:
        if problem != self._problem:
            _log.warning("NATS: %s", problem)
        self._problem = problem


def _backoff_seconds(failures: int) -> float:
    longest: float = min(_LONGEST_BACKOFF_SECONDS, 0.05 * 2.0 ** min(failures, 10))
    return longest * random.uniform(0.5, 1.0)


@lru_cache(maxsize=1024)
def _word(text: str) -> str:
    if not _WORD.fullmatch(text):
        raise DefinitionError(f"{text!r} names no stream: it may have letters, digits and dashes only")
    return text


@lru_cache(maxsize=1024)
def _subject_in_system(stream: str, kind: str, message_type: str) -> str:
    words = message_type.split(".")[1:]
    if not words or not all(map(_WORD.fullmatch, words)):
        raise DefinitionError(f"the type {message_type!r} must read like 'order.placed.v1'")
    return ".".join([stream, kind, *words])
