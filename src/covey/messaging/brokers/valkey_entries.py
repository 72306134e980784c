"""A message as an entry of a Valkey stream: its kind, its headers as a JSON object, and its body.

The headers are those of covey.messaging.cloud_events, so that who reads the stream with other tools finds a CloudEvent.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import cast, get_args

import orjson

from covey.errors import TooLarge, Unreadable
from covey.ids import derived_id
from covey.message import Envelope, Kind
from covey.messaging.broker import Entry, Topic
from covey.messaging.cloud_events import from_headers, to_headers
from covey.messaging.delivery import UNREADABLE

MOST_BYTES = 8 * 2**20
"""A message may have so much; it is in memory here, and twice in the server while it is stored."""

_KINDS = get_args(Kind)
_FIELDS = {b"kind", b"headers", b"body"}


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message as it is sent."""

    parts: tuple[str | bytes, ...]
    size_bytes: int


def outgoing(envelope: Envelope) -> Outgoing:
    """Return what valkey_append.lua wants of a message. Raises TooLarge, and Invalid for what is not Unicode."""
    headers = orjson.dumps(to_headers(envelope))
    size = len(headers) + len(envelope.body)
    if size > MOST_BYTES:
        raise TooLarge(f"message {envelope.id} ({envelope.type}) has {size} bytes, a Valkey stream takes {MOST_BYTES}")
    return Outgoing((envelope.id.bytes, envelope.kind, headers, envelope.body), size)


def entry_of(stream: str, sequence: int, fields: Sequence[bytes], topics: Collection[Topic]) -> Entry | None:
    """Return what a stored entry holds, None when it is of no topic. What is no envelope is an entry that says why."""
    told = dict(zip(fields[::2], fields[1::2], strict=True))
    name = told.get(b"kind", b"").decode(errors="replace")
    kind = cast(Kind, name) if name in _KINDS else None
    if kind is not None and not any(topic.kind == kind for topic in topics):
        return None
    try:
        if kind is None or told.keys() != _FIELDS:
            raise Unreadable(f"its fields are {sorted(told)}, not a kind, headers and a body")
        envelope = from_headers(_headers(told[b"headers"]), told[b"body"], kind, stream)
    except Unreadable as error:
        return Entry(sequence, _unreadable(stream, sequence, kind or "event", told, str(error)))
    return Entry(sequence, envelope) if any(topic.matches(envelope) for topic in topics) else None


def _headers(text: bytes) -> dict[str, str]:
    try:
        headers = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise Unreadable(f"its headers are malformed: {error}") from None
    if not isinstance(headers, dict) or not all(isinstance(value, str) for value in headers.values()):
        raise Unreadable("its headers are no object of texts")
    return headers


def _unreadable(stream: str, sequence: int, kind: Kind, told: Mapping[bytes, bytes], reason: str) -> Envelope:
    """Return what can be said of what somebody else has stored: an id and a key of its own, and why."""
    identity = derived_id(stream, sequence)
    headers: dict[str, str] = {}
    with suppress(Unreadable):  # the reason is known
        headers = _headers(told.get(b"headers", b"{}"))
    return Envelope(
        id=identity,
        type=headers.get("ce-type", f"{stream}.unreadable"),
        key=str(identity),
        source="",
        time=datetime.fromtimestamp(0, UTC),
        body=told.get(b"body", b""),
        kind=kind,
        stream=stream,
        headers={**headers, UNREADABLE: reason},
    )
