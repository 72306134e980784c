"""Reading a stream in order: an ephemeral push consumer without acknowledgements, watched for holes.

The server numbers what it delivers; a number that is missing, here or as told by a heartbeat, a heartbeat that does
not come, or a lost connection ends the reader, and the caller opens another behind what it has stored. Source: the
ordered consumer of https://github.com/nats-io/nats-architecture-and-design (ADR-17), of which nats-py's own version
goes on by itself, where we must not: the position is the caller's.

Flow control bounds memory: a request of the server is answered only when the caller has come back for more than was
delivered before the request, and unanswered the server sends at most 32 MB ahead.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Self

import nats.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from covey.errors import BrokerUnavailable
from covey.messaging.broker import Entry, Topic
from covey.messaging.brokers.nats_connection import Connection
from covey.messaging.brokers.nats_entries import entries_of

HEARTBEAT_SECONDS = 1.0
"""How often an idle server says that it is there."""

SILENT_HEARTBEATS = 3
"""After so many that did not come, the reader is lost."""

_DELIVERED = "$JS.ACK."
_FLOW_CONTROL = "$JS.FC."


class NatsReader:
    """A Reader on one connection."""

    def __init__(self, connection: Connection, stream: str, topics: Collection[Topic], after: int) -> None:
        self._connection = connection
        self._stream = stream
        self._topics = topics
        self._position = after
        self._arrived: deque[tuple[int, Msg] | str] = deque()  # a string is a flow control request
        self._delivered = 0
        self._problem = ""
        self._silent_ticks = 0
        self._more: asyncio.Future[None] | None = None
        self._subscription: Subscription | None = None
        self._timer: asyncio.TimerHandle | None = None

    @classmethod
    async def open(
        cls,
        connection: Connection,
        name: str,
        stream: str,
        topics: Collection[Topic],
        filters: Sequence[str],
        after: int,
    ) -> Self:
        """Create the consumer on the stream `name` and wait until it delivers to this reader."""
        reader = cls(connection, stream, topics, after)
        connection.on_loss(reader._fail)
        inbox = connection.client.new_inbox()
        try:
            reader._subscription = await connection.subscribe(inbox, reader._receive)
            await connection.jetstream.add_consumer(
                name,
                ConsumerConfig(
                    deliver_subject=inbox,
                    filter_subjects=list(filters),
                    deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
                    opt_start_seq=after + 1,
                    ack_policy=AckPolicy.NONE,
                    max_deliver=1,
                    flow_control=True,
                    idle_heartbeat=HEARTBEAT_SECONDS,
                    mem_storage=True,
                    num_replicas=1,
                ),
            )
        except BaseException:
            await reader.close()
            raise
        reader._tick()
        return reader

    @property
    def position(self) -> int:
        """See Reader.position. Moves over messages of other topics with the heartbeats of an idle stream."""
        return self._position

    async def next(self, limit: int) -> list[Entry]:
        """See Reader.next. Cancelling it loses nothing."""
        while True:
            await self._answer_flow_control()
            if entries := self._take(limit):
                return entries
            if self._arrived:  # a request for flow control, behind what was not for us
                continue
            if self._problem:
                raise BrokerUnavailable(f"reading {self._stream} ended: {self._problem}")
            self._more = asyncio.get_running_loop().create_future()
            await self._more

    async def close(self) -> None:
        """Stop; the server removes a consumer that nobody listens to."""
        self._connection.forget(self._fail)
        self._fail("the reader was closed")
        if self._subscription is not None:
            await self._connection.unsubscribe(self._subscription)

    async def _receive(self, message: Msg) -> None:
        self._silent_ticks = 0
        reply = message.reply
        if reply.startswith(_DELIVERED):
            sequence, delivered = _sequences(reply)
            if self._counted(delivered - 1):
                self._delivered = delivered
                self._arrived.append((sequence, message))
                self._wake()
        elif reply.startswith(_FLOW_CONTROL):
            self._arrived.append(reply)
            self._wake()
        elif message.headers:
            self._heard(message.headers)

    def _heard(self, heartbeat: dict[str, str]) -> None:
        if not self._counted(int(heartbeat.get("Nats-Last-Consumer", self._delivered))) or self._arrived:
            return
        self._position = max(self._position, int(heartbeat.get("Nats-Last-Stream", 0)))
        if stalled := heartbeat.get("Nats-Consumer-Stalled"):
            self._arrived.append(stalled)
            self._wake()

    def _counted(self, delivered: int) -> bool:
        """Tell whether so many messages are what has arrived; otherwise this reader is over."""
        if delivered != self._delivered:
            self._fail(f"after {self._delivered} messages the server counts {delivered}")
        return not self._problem

    def _take(self, limit: int) -> list[Entry]:
        entries: list[Entry] = []
        while self._arrived:
            head = self._arrived[0]
            if isinstance(head, str):
                break
            sequence, message = head
            found = entries_of(self._stream, sequence, message, self._topics)
            if entries and len(entries) + len(found) > limit:
                break
            self._arrived.popleft()
            self._position = sequence
            entries += found
        return entries

    async def _answer_flow_control(self) -> None:
        while self._arrived and isinstance(request := self._arrived[0], str):
            with suppress(nats.errors.Error):  # on a lost connection, where `_problem` says more
                await self._connection.client.publish(request)
            self._arrived.popleft()

    def _tick(self) -> None:
        """Count heartbeats that did not come. Ticks, not time: after a pause of our own the server is not late."""
        self._silent_ticks += 1
        if self._silent_ticks > SILENT_HEARTBEATS:
            self._fail(f"no sign of the server or the consumer for {SILENT_HEARTBEATS * HEARTBEAT_SECONDS:g} s")
        else:
            self._timer = asyncio.get_running_loop().call_later(HEARTBEAT_SECONDS, self._tick)

    def _fail(self, problem: str) -> None:
        self._problem = self._problem or problem
        if self._timer is not None:
            self._timer.cancel()
        self._wake()

    def _wake(self) -> None:
        if self._more is not None and not self._more.done():
            self._more.set_result(None)


def _sequences(reply: str) -> tuple[int, int]:
    """Return the sequence in the stream and the count of deliveries from `$JS.ACK.….<stream>.<consumer>.…`.

    The subject has nine words, or twelve where the server names its domain, account and a random word at the end.
    """
    words = reply.split(".")
    offset = 0 if len(words) == 9 else 2
    return int(words[5 + offset]), int(words[6 + offset])
