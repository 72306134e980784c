"""What a message that JetStream delivers holds: one entry, or those of a bundle. What is no envelope says why."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import cast, get_args

from nats.aio.msg import Msg

from covey.errors import Unreadable
from covey.ids import derived_id
from covey.message import Envelope, Kind
from covey.messaging.broker import Entry, Topic
from covey.messaging.brokers.nats_bundle import BUNDLE, unbundled
from covey.messaging.cloud_events import from_headers
from covey.messaging.delivery import UNREADABLE

_KINDS = get_args(Kind)


def entries_of(stream: str, sequence: int, message: Msg, topics: Collection[Topic]) -> list[Entry]:
    """Return the entries of a stored message, in order; all have its sequence.

    Of a bundle those of the topics. Of the rest the server has chosen, by subject: what says that it is of another
    type must be seen.
    """
    stored = _Stored(stream, sequence, message)
    headers = message.headers or {}
    if stored.name != BUNDLE:
        return [stored.entry(headers, message.data)]
    try:
        parts = unbundled(message.data)
    except Unreadable as error:
        return [stored.unreadable(headers, message.data, str(error))]
    entries = [stored.entry(*part, number) for number, part in enumerate(parts)]
    return [entry for entry in entries if _wanted(entry.envelope, topics)]


def _wanted(envelope: Envelope, topics: Collection[Topic]) -> bool:
    return UNREADABLE in envelope.headers or any(topic.matches(envelope) for topic in topics)


class _Stored:
    """A message of a stream: what its subject and its place tell."""

    def __init__(self, stream: str, sequence: int, message: Msg) -> None:
        kind, _, self.name = message.subject.split(".", 2)[2].partition(".")
        self._kind: Kind = cast(Kind, kind) if kind in _KINDS else "event"
        self._stream = stream
        self._sequence = sequence
        self._reply = message.reply

    def entry(self, headers: Mapping[str, str], body: bytes, *number: int) -> Entry:
        try:
            return Entry(self._sequence, from_headers(headers, body, self._kind, self._stream))
        except Unreadable as error:
            return self.unreadable(headers, body, str(error), *number)

    def unreadable(self, headers: Mapping[str, str], body: bytes, reason: str, *number: int) -> Entry:
        """Return what can be said of what somebody else has stored: an id and a key of its own, and why."""
        identity = derived_id(self._stream, self._sequence, *number)
        words = self._reply.split(".")
        stored = int(words[7 if len(words) == 9 else 9]) / 1e9
        envelope = Envelope(
            id=identity,
            type=f"{self._stream}.{self.name}",
            key=str(identity),
            source="",
            time=datetime.fromtimestamp(stored, UTC),
            body=body,
            kind=self._kind,
            stream=self._stream,
            headers={**headers, UNREADABLE: reason},
        )
        return Entry(self._sequence, envelope)
