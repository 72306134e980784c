"""Confirmed publishing into JetStream streams, in order for each key.

Few messages go out as single publishes in rounds: a round holds at most one message of each key, is written in one
go, and is confirmed whole before the next begins. So whatever is lost, no key has a later message without an earlier.
Many go out as atomic batches (ADR-50): all or nothing, and one confirmation. On server 2.15.1 a batch of 8 to 32 takes
2.4 to 3.5 ms, and a round 0.16 ms for each message when each is synced to disk, else 0.02 to 0.03 ms. Only the server
knows its sync mode, so where the one becomes faster than the other is found from how long rounds have taken. (The
server's other batches, fast ingest, sync each message too: measured, as slow as a round.)

A batch that holds an id which the server has stored within its duplicate window is refused whole. It is then sent
in rounds, where such a message is confirmed as a duplicate. So is a batch refused for any other reason: rounds store
what can be stored, and name the message at fault.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import count
from typing import NamedTuple, Self

import orjson
from nats.aio.msg import Msg

from covey.errors import BrokerUnavailable, CoveyError, TooLarge
from covey.ids import new_id
from covey.messaging.brokers.nats_bundle import Outgoing
from covey.messaging.brokers.nats_connection import ANSWER_SECONDS, Connection

BATCH_SECONDS = 0.0025
"""How long an atomic batch takes, whatever it holds."""

TELLING = 8
"""A round of so many messages tells how long each takes; in a smaller one the way there and back counts most."""

BATCH_HEADER_BYTES = 128
"""What being in a batch adds to a message, at most."""

ATOMIC_MAX = 1_000
"""The server takes no larger batch."""

WINDOW = 256
"""At most so many single messages wait for their confirmation."""

CHUNK_BYTES = 8 * 2**20
"""At most so much is in flight: it is in memory here and, until a batch is whole, in the server."""

_NO_RESPONDERS = "503"
_MESSAGE_TOO_LARGE = 10054


class Publisher:
    """Publishes on one connection."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._inbox = f"{connection.client.new_inbox()}."
        self._tokens = count()
        self._rounds: dict[str, _Round] = {}
        self._each_seconds = 0.0001

    @classmethod
    async def open(cls, connection: Connection) -> Self:
        """Begin to listen for confirmations."""
        publisher = cls(connection)
        await connection.subscribe(f"{publisher._inbox}*", publisher._receive)
        connection.on_loss(publisher._lost)
        return publisher

    async def publish(self, stream: str, messages: Sequence[Outgoing]) -> None:
        """Store the messages in the stream of that name; return when all are stored.

        Raises BrokerUnavailable when that is not certain: of each key some first part may be stored then.
        """
        for chunk in chunks(messages):
            if not (self.batches_pay(len(chunk)) and await self._store_at_once(stream, chunk)):
                for window in windows(chunk):
                    await self._store_round(stream, window)

    def batches_pay(self, count: int) -> bool:
        """Tell whether an atomic batch of so many messages is faster than rounds."""
        return count * self._each_seconds > BATCH_SECONDS

    async def _store_round(self, stream: str, window: Sequence[Outgoing]) -> None:
        begun = time.monotonic()
        refusal = await self._send(stream, window, len(window))
        if refusal is not None:
            raise refusal.error(stream)
        if len(window) >= TELLING:
            self._each_seconds += ((time.monotonic() - begun) / len(window) - self._each_seconds) / 8

    async def _store_at_once(self, stream: str, chunk: Sequence[Outgoing]) -> bool:
        batch = {"Nats-Batch-Id": new_id().hex}
        numbered = [
            message._replace(headers=message.headers | batch | {"Nats-Batch-Sequence": str(number)})
            for number, message in enumerate(chunk, start=1)
        ]
        numbered[-1].headers["Nats-Batch-Commit"] = "1"
        return await self._send(stream, numbered, 1) is None

    async def _send(self, stream: str, messages: Sequence[Outgoing], confirmed: int) -> _Refusal | None:
        """Send all, wait until the last `confirmed` of them are; return what was refused."""
        if self.connection.lost.is_set():
            raise BrokerUnavailable(self.connection.problem)
        waiting = _Round(stream, confirmed)
        tokens = [str(next(self._tokens)) for _ in range(confirmed)]
        replies = [""] * (len(messages) - confirmed) + [self._inbox + token for token in tokens]
        self._rounds.update(dict.fromkeys(tokens, waiting))
        try:
            for message, reply in zip(messages, replies, strict=True):
                await self.connection.client.publish(message.subject, message.body, reply, message.headers)
            return await self._outcome(waiting)
        finally:
            for token in tokens:
                self._rounds.pop(token, None)

    async def _outcome(self, waiting: _Round) -> _Refusal | None:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                outcome = await waiting.ended
        except TimeoutError:
            problem = f"{self.connection.address} confirmed nothing for {ANSWER_SECONDS:g} s"
            self.connection.lose(problem)
            raise BrokerUnavailable(problem) from None
        if isinstance(outcome, str):
            raise BrokerUnavailable(outcome)
        return outcome

    async def _receive(self, message: Msg) -> None:
        waiting = self._rounds.pop(message.subject[len(self._inbox) :], None)
        if waiting is not None:
            waiting.confirm(message)

    def _lost(self, problem: str) -> None:
        for waiting in set(self._rounds.values()):
            waiting.end(problem)


class _Refusal(NamedTuple):
    """What the server answered instead of storing a message."""

    code: int
    text: str

    def error(self, stream: str) -> CoveyError:
        kind = TooLarge if self.code == _MESSAGE_TOO_LARGE else BrokerUnavailable
        return kind(f"NATS stored nothing in {stream}: {self.text}")


class _Round:
    """Messages in flight. `ended` is None when all are stored, the first refusal, or how the connection was lost."""

    def __init__(self, stream: str, confirmed: int) -> None:
        self._stream = stream
        self._missing = confirmed
        self.ended: asyncio.Future[_Refusal | str | None] = asyncio.get_running_loop().create_future()

    def confirm(self, answer: Msg) -> None:
        refusal = _refusal(answer, self._stream)
        self._missing -= 1
        if refusal is not None or self._missing == 0:
            self.end(refusal)

    def end(self, outcome: _Refusal | str | None) -> None:
        if not self.ended.done():
            self.ended.set_result(outcome)


def _refusal(answer: Msg, stream: str) -> _Refusal | None:
    """Read the server's answer to a publish. A duplicate is stored: it was, by an earlier publish of the same id."""
    if answer.headers and answer.headers.get("Status") == _NO_RESPONDERS:
        return _Refusal(0, "no stream takes this subject; ensure_stream makes one, if the server runs JetStream")
    try:
        said = orjson.loads(answer.data)
    except orjson.JSONDecodeError:
        return _Refusal(0, f"its answer is no confirmation: {answer.data[:80]!r}")
    if error := said.get("error"):
        return _Refusal(error.get("err_code", 0), f"{error.get('description')} (error {error.get('err_code')})")
    if said.get("stream") != stream:
        return _Refusal(0, f"the stream {said.get('stream')} has taken the message")
    return None


def chunks(messages: Sequence[Outgoing]) -> Iterator[Sequence[Outgoing]]:
    """Cut into what the server takes as one batch, and what is sensible to have in memory on both sides."""
    first, size = 0, 0
    for number, message in enumerate(messages):
        if number - first == ATOMIC_MAX or (number > first and size + message.size_bytes > CHUNK_BYTES):
            yield messages[first:number]
            first, size = number, 0
        size += message.size_bytes
    if first < len(messages):
        yield messages[first:]


def windows(messages: Sequence[Outgoing]) -> Iterator[Sequence[Outgoing]]:
    """Cut into rounds: the first message of each key, then the second of each, and so on."""
    rounds: list[list[Outgoing]] = []
    seen: Counter[str] = Counter()
    for message in messages:
        if seen[message.key] == len(rounds):
            rounds.append([])
        rounds[seen[message.key]].append(message)
        seen[message.key] += 1
    for one_of_each_key in rounds:
        for start in range(0, len(one_of_each_key), WINDOW):
            yield one_of_each_key[start : start + WINDOW]
