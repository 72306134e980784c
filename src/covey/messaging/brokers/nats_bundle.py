"""Bundles: commands, or answers to them, of any keys, stored as one message of the log.

What one service is asked in one moment is written, synced, confirmed and delivered once, all or nothing, in its order:
a message costs the server 0.16 ms where each is synced to disk, and nats-py, which parses headers in Python, almost as
much (docs/decisions/0012). Events are never bundled: others too read them, each by its subject, as CloudEvents.

A bundle's body is a JSON array of `[headers, body in base64]`, the headers those that the message would have by itself.
Its subject is the kind's with the name `$bundle`, which no type has, so that whoever reads the kind gets it.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import orjson

from covey.errors import Unreadable
from covey.ids import derived_id

BUNDLE = "$bundle"

MOST = 100
"""So many messages at most: a service handles what it has read together in one turn, and a turn should be short."""

MOST_BYTES = 256 * 2**10
"""So much at most, before base64 makes it a third larger; what is larger goes by itself."""

MOST_READ = 100 * MOST
"""What holds more is no bundle: a megabyte of somebody else's brackets would be 130,000 messages, read as one."""


class Outgoing(NamedTuple):
    """A message as it is sent. `size_bytes` counts headers and body."""

    subject: str
    key: str
    headers: dict[str, str]
    body: bytes
    size_bytes: int


def bundled(subject: str, messages: Sequence[Outgoing], limit_bytes: int) -> Iterator[Outgoing]:
    """Make bundles of messages, to be stored one after the other under the subject. A message alone stays as it is."""
    for few in _cut(messages, min(MOST_BYTES, limit_bytes // 2)):
        bundle = few[0] if len(few) == 1 else _bundle(subject, few)
        if bundle.size_bytes > limit_bytes:  # JSON doubles a backslash, and the server would not answer but hang up
            yield from few
        else:
            yield bundle


def unbundled(body: bytes) -> list[tuple[dict[str, str], bytes]]:
    """Return the headers and the body of each message, at least one. Raises Unreadable."""
    try:
        parts = orjson.loads(body)
        if not isinstance(parts, list) or not 0 < len(parts) <= MOST_READ:
            raise ValueError(f"it is no array of 1 to {MOST_READ} messages")
        return [(_text(headers), b64decode(text, validate=True)) for headers, text in parts]
    except (ValueError, TypeError) as error:
        raise Unreadable(f"the bundle is malformed: {error}") from None


def _text(headers: object) -> dict[str, str]:
    if not isinstance(headers, dict) or not all(isinstance(value, str) for value in headers.values()):
        raise TypeError("what stands for headers is no object of texts")  # not shown: its depth may be beyond repr
    return headers


def _bundle(subject: str, messages: Sequence[Outgoing]) -> Outgoing:
    body = orjson.dumps([[message.headers, b64encode(message.body).decode()] for message in messages])
    # The same messages have the same id, so that the server recognizes a bundle that is sent again as it was.
    identity = str(derived_id(*(message.headers["ce-id"] for message in messages)))
    headers = {"Nats-Msg-Id": identity, "Content-Type": "application/vnd.covey.bundle+json"}
    return Outgoing(subject, "", headers, body, len(body) + 150)


def _cut(messages: Sequence[Outgoing], most_bytes: int) -> Iterator[Sequence[Outgoing]]:
    first, size = 0, 0
    for number, message in enumerate(messages):
        if number - first == MOST or (number > first and size + message.size_bytes > most_bytes):
            yield messages[first:number]
            first, size = number, 0
        size += message.size_bytes
    if first < len(messages):
        yield messages[first:]
