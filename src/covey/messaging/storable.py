"""What of a message PostgreSQL can hold. The rest must not stop a stream: it becomes a dead letter, with a reason.

Brokers carry any bytes; `text` holds no NUL and only Unicode, an index no long key, `timestamptz` no year 0.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from covey.message import Envelope
from covey.messaging.delivery import UNREADABLE
from covey.work.outbox import MAX_KEY_LENGTH

_NEVER = datetime(1970, 1, 1, tzinfo=UTC)


def storable(envelope: Envelope) -> Envelope:
    """Return the envelope as it is, or what can be kept of it with a header `unreadable` that says what cannot."""
    reason = _obstacle(envelope)
    if reason is None:
        return envelope
    return replace(
        envelope,
        type=clean(envelope.type),
        key=clean(envelope.key)[:MAX_KEY_LENGTH],
        source=clean(envelope.source),
        time=envelope.time if _fits(envelope.time) else _NEVER,
        headers={clean(name): clean(value) for name, value in envelope.headers.items()} | {UNREADABLE: reason},
    )


def clean(text: str) -> str:
    """Return the text with what PostgreSQL cannot hold made visible: NUL characters and lone surrogates."""
    return text.replace("\x00", "␀").encode(errors="replace").decode()


def cleaned(value: Any) -> Any:
    """Return a JSON value of which each text is `clean`."""
    match value:
        case str():
            return clean(value)
        case list():
            return [cleaned(item) for item in value]
        case dict():
            return {clean(name): cleaned(item) for name, item in value.items()}
        case _:
            return value


def _obstacle(envelope: Envelope) -> str | None:
    text = "".join((envelope.type, envelope.key, envelope.source, *envelope.headers, *envelope.headers.values()))
    if "\x00" in text:
        return "a header contains a NUL character"
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return "a header contains what is not Unicode"
    if len(envelope.key) > MAX_KEY_LENGTH:
        return f"the key has {len(envelope.key):,} characters, {MAX_KEY_LENGTH:,} are allowed"
    return None if _fits(envelope.time) else "the time is no instant that a clock could show"


def _fits(time: datetime) -> bool:
    try:
        return time.tzinfo is not None and time.astimezone(UTC).year > 1
    except OverflowError:
        return False
