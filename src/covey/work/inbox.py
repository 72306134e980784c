"""The inbox: messages stored before they are handled, once each.

Its rows are written by whoever reads the broker (`covey.messaging.ingest`), and by a service that sends itself
something in a transaction. Idempotent receiver (Hohpe and Woolf, *Enterprise Integration Patterns*): the primary
key on the message's id is what makes a second arrival nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from covey.ids import derived_id
from covey.message import Envelope
from covey.work.outbox import headers_as_json
from covey.work.unit_of_work import Work

REPLY_TO = "reply-to"
COMMAND_ID = "command-id"
DEADLINE = "deadline"


def enqueue(work: Work, envelope: Envelope) -> None:
    """Put a message of the service to itself into its own inbox, if and when `work` commits."""
    work.collect("enqueue", *inbox_row(envelope))
    work.enqueued = True


def inbox_columns(envelopes: Iterable[Envelope]) -> list[list[Any]]:
    """Turn envelopes into arrays, one a column of the inbox."""
    columns = [list(column) for column in zip(*map(inbox_row, envelopes), strict=True)]
    return columns or [[] for _ in range(11)]


def inbox_row(envelope: Envelope) -> tuple[Any, ...]:
    """Return an envelope as a row of the inbox."""
    return (
        envelope.id,
        envelope.stream,
        envelope.kind,
        envelope.type,
        envelope.key,
        envelope.source,
        envelope.time,
        headers_as_json(envelope.headers),
        envelope.body,
        command_id_of(envelope),
        waited_until(envelope),
    )


def waited_until(envelope: Envelope) -> datetime | None:
    """Return the instant after which nobody waits for this message: only a command may have one."""
    return deadline_of(envelope) if envelope.kind == "command" else None


def command_id_of(envelope: Envelope) -> UUID | None:
    """Return what identifies the command through all its sendings: a header, or else the message's own id."""
    if envelope.kind != "command":
        return None
    text = envelope.headers.get(COMMAND_ID)
    try:
        return UUID(text) if text else envelope.id
    except ValueError:
        return derived_id(text)


def deadline_of(envelope: Envelope) -> datetime | None:
    """Return the instant after which nobody waits for the command; a header that is no instant is none."""
    text = envelope.headers.get(DEADLINE)
    try:
        at = datetime.fromisoformat(text) if text else None
        return at.astimezone(UTC) if at is not None and at.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None
