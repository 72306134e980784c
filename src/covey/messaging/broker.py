"""The broker as covey sees it: an ordered log for each service, read from a position that the reader keeps.

There are no acknowledgements and no redelivery: a consumer stores what it reads together with its position,
in one transaction of its own database, and after a crash reads on from there. What a broker must promise is
therefore little: to store in order, to confirm, to read from a sequence number without holes.
`covey.testing.broker_contract` is the suite that every backend must pass.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol

from covey.message import Envelope, Kind

STREAM_MAX_AGE = timedelta(days=7)
"""So long a stream that covey makes keeps a message; what outboxes and inboxes remember follows from it."""


@dataclass(frozen=True, slots=True)
class Topic:
    """A kind of messages in a stream, and a name without its version; no name is all of that kind.

    The version is left out on purpose: a version that the consumer does not know must reach it, to be seen.
    """

    kind: Kind
    name: str = ""

    def __str__(self) -> str:
        return f"{self.kind}.{self.name}" if self.name else self.kind

    def matches(self, envelope: Envelope) -> bool:
        """Tell whether this topic holds the message."""
        return self.kind == envelope.kind and self.name in ("", name_of(envelope.type))


@dataclass(frozen=True, slots=True)
class Entry:
    """A message and its place in the stream. Sequences never fall, and a filtered reader sees gaps between them.

    Commands, or replies, that were published together may be stored as one: then they have one sequence.
    """

    sequence: int
    envelope: Envelope


@dataclass(frozen=True, slots=True)
class Extent:
    """The sequences that a stream holds now; an empty stream has `first == last + 1`.

    `incarnation` tells apart the streams that have had this name: it stays for as long as the stream exists, and one
    that was deleted and made again has another. A sequence means nothing without it.

    `gaps` are sequences that hold nothing any more and never will again, as `(after, upto)`, `upto` included: where a
    broker may have lost what it had handed out, it goes on behind one.
    """

    first: int
    last: int
    incarnation: str = field(default="", compare=False)
    gaps: tuple[tuple[int, int], ...] = field(default=(), compare=False)

    def continues(self, position: int) -> bool:
        """Tell whether a reader that has read this stream up to `position` can go on here and miss nothing.

        It cannot when later messages were dropped, nor when what it has read is `lost`. Both are HistoryLost, which the
        caller raises, as it does for another incarnation.
        """
        return self.first - 1 <= position and not self.lost(position)

    def lost(self, position: int) -> bool:
        """Tell whether the stream no longer reaches up to `position`, or did not once: it has lost what it had handed
        out, or was restored.
        """
        return position > self.last or any(after < position <= upto for after, upto in self.gaps)


class Reader(Protocol):
    """One position in one stream, moving forward."""

    @property
    def position(self) -> int:
        """The sequence up to which `next` has returned everything that matches.

        It moves also when nothing matches, within seconds. A consumer of rare messages in a busy stream stores it
        now and then; else it would seem to lag, and to lose history when the stream drops what it never asked for.
        """
        ...

    async def next(self, limit: int) -> list[Entry]:
        """Wait for at least one message, then return what has arrived, in order, at most `limit`.

        Messages of one sequence come together, be they more than that: a position stands behind all of them.
        Raises BrokerUnavailable when the connection or the stream is lost or a message was missed; open a new reader
        then.
        Cancelling it loses nothing. One task at a time may wait. Who calls it again says that what it returned before
        is stored: a backend may drop that now.
        """
        ...


class Broker(Protocol):
    """An ordered, durable log for each service."""

    async def ensure_stream(self, stream: str) -> None:
        """Create the stream of that service if there is none; several processes may do so at once."""
        ...

    async def publish(self, envelopes: Sequence[Envelope]) -> None:
        """Store each envelope in its stream; return when all are stored, in the given order for each key.

        Raises BrokerUnavailable when that is not certain: of each key some first part may then be stored, never
        a later message without an earlier one. Publishing the same ids again is safe: a backend may drop what
        it recognizes, and consumers drop the rest. Raises TooLarge for a message over the backend's limit.
        """
        ...

    def read(self, stream: str, topics: Collection[Topic], after: int) -> AbstractAsyncContextManager[Reader]:
        """Open a reader of those topics that begins behind sequence `after` (0: at the first message held).

        A stored message that is no envelope is not skipped: it arrives with a header `unreadable` that says why.
        """
        ...

    async def extent(self, stream: str) -> Extent:
        """Return the sequences that the stream holds, and which stream of that name it is."""
        ...

    async def close(self) -> None:
        """Close the connection; publishing and reading under way raise BrokerUnavailable."""
        ...


def name_of(message_type: str) -> str:
    """Return what the type says between its stream and its version: `order.placed.v1` gives `placed`."""
    return message_type.partition(".")[2].rpartition(".")[0]
