"""The outbox: messages written in the transaction of the effect that they tell of.

Order per key comes from the database: `covey.publish` takes a lock per key, draws positions under it, and the
lock is released after the commit is visible. So nothing may lock rows after the flush, or two transactions
could wait for each other; and a transaction publishes at most 1,000 keys, because lock tables are finite.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from covey.clock import Clock
from covey.context import current
from covey.errors import DefinitionError, TooLarge
from covey.ids import new_id
from covey.message import Command, Envelope, Event, Message, stream_of

MAX_BODY_BYTES = 900_000
PLENTY_BYTES = 8_000_000
MAX_KEYS = 1_000
MAX_KEY_LENGTH = 500
MAX_HEADERS_BYTES = 8_000

PUBLISH, PUBLISH_ONE = "publish", "publish_one"
"""The functions that write messages, and one message; the last of a transaction."""


WITHIN = "within"
"""The header of a message that is to expire so many seconds after it was written, by the database's clock."""


class Outgoing:
    """The messages that a transaction will publish, in the order in which it was asked to."""

    __slots__ = ("_clock", "_service", "envelopes", "keys", "size_bytes")

    def __init__(self, service: str, clock: Clock) -> None:
        self._service = service
        self._clock = clock
        self.envelopes: list[Envelope] = []
        self.keys: set[str] = set()
        self.size_bytes = 0

    def add(self, message: Message, headers: dict[str, str] | None) -> UUID:
        """Wrap a message and keep it; return its id."""
        envelope = wrap(message, self._service, self._clock.now(), headers)
        self.keep(envelope)
        return envelope.id

    def keep(self, envelope: Envelope) -> None:
        """Keep an envelope. Raises TooLarge here and now: one that no broker takes would stop its stream for ever."""
        _require_size(envelope)
        self.envelopes.append(envelope)
        self.keys.add(envelope.key)
        self.size_bytes += len(envelope.body)

    @property
    def plenty(self) -> bool:
        """Tell whether a batch of work should end here, well before what one transaction can carry."""
        return len(self.keys) >= MAX_KEYS // 2 or self.size_bytes >= PLENTY_BYTES

    def take(self) -> list[Envelope]:
        """Return what was kept, to be written now. Raises TooLarge for more keys than a transaction may lock."""
        envelopes, self.envelopes = self.envelopes, []
        if len(envelopes) > MAX_KEYS and len({envelope.key for envelope in envelopes}) > MAX_KEYS:
            raise TooLarge(f"a transaction may publish messages of at most {MAX_KEYS:,} keys: publish in several")
        return envelopes


def wrap(message: Message, service: str, at: datetime, headers: dict[str, str] | None = None) -> Envelope:
    """Put a message into its envelope: a new id, and the headers of the work that it comes from."""
    kind = type(message)
    if not kind.message_type:
        raise DefinitionError(f"{kind.__name__} declares no type, so it cannot be published: add type='…'")
    stream = stream_of(kind.message_type)
    if isinstance(message, Event) and stream != service:
        raise DefinitionError(
            f"{kind.message_type} is an event of the service {stream!r} and cannot be published by {service!r}:"
            " an event tells what happened in its own service; to ask another one for something, send a Command"
        )
    body = message.__pydantic_serializer__.to_json(message)
    return Envelope(
        id=new_id(),
        type=kind.message_type,
        key=message.key,
        source=service,
        time=at,
        body=body,
        kind="command" if isinstance(message, Command) else "event",
        stream=stream,
        headers=context_headers() | (headers or {}),
    )


def _require_size(envelope: Envelope) -> None:
    """Headers are counted in UTF-8, of which each byte may become three on the way; brokers take 64 KB of them."""
    if len(envelope.body) > MAX_BODY_BYTES:
        raise TooLarge(
            f"{envelope.type} has {len(envelope.body):,} bytes, {MAX_BODY_BYTES:,} are allowed: send a reference"
        )
    if len(envelope.key) > MAX_KEY_LENGTH:
        raise TooLarge(f"{envelope.type}: a key may have {MAX_KEY_LENGTH} characters, not {len(envelope.key):,}")
    if sum(_bytes(name) + _bytes(value) for name, value in envelope.headers.items()) > MAX_HEADERS_BYTES:
        raise TooLarge(f"{envelope.type}: its headers may have {MAX_HEADERS_BYTES:,} bytes together")


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))


def context_headers() -> dict[str, str]:
    """Return the headers by which the receiver continues the current piece of work."""
    context = current()
    headers = {"correlation-id": context.correlation_id, "traceparent": context.trace.traceparent()}
    if context.causation_id is not None:
        headers["causation-id"] = str(context.causation_id)
    return headers


def row_of(envelope: Envelope) -> tuple[Any, ...]:
    """Return an envelope as `covey.publish` takes it."""
    return (
        envelope.id,
        envelope.stream,
        envelope.kind,
        envelope.type,
        envelope.key,
        envelope.time,
        headers_as_json(envelope.headers),
        envelope.body,
    )


def headers_as_json(headers: dict[str, str]) -> str:
    """Return headers as a column has them."""
    return orjson.dumps(headers).decode()
