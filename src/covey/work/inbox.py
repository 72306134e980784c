"""The inbox: messages stored before they are handled, once each.

Its rows are written by whoever reads the broker (`covey.messaging.ingest`), and by a service that sends itself
something in a transaction. Idempotent receiver (Hohpe and Woolf, *Enterprise Integration Patterns*): the primary
key on the message's id is what makes a second arrival nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from covey.ids import derived_id
from covey.message import Envelope
from covey.work.unit_of_work import Work

REPLY_TO = "reply-to"
COMMAND_ID = "command-id"
DEADLINE = "deadline"

_ENQUEUE = "SELECT covey.enqueue($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)"


def enqueue(work: Work, envelope: Envelope) -> None:
    """Put a message of the service to itself into its own inbox, if and when `work` commits."""
    work.defer(_ENQUEUE, *inbox_columns([envelope]))
    work.enqueued = True


def inbox_columns(envelopes: Sequence[Envelope]) -> tuple[list[object], ...]:
    """Turn envelopes into arrays, one a column of the inbox."""
    return (
        [e.id for e in envelopes],
        [e.stream for e in envelopes],
        [e.kind for e in envelopes],
        [e.type for e in envelopes],
        [e.key for e in envelopes],
        [e.source for e in envelopes],
        [e.time for e in envelopes],
        [json.dumps(e.headers) for e in envelopes],
        [e.body for e in envelopes],
        [command_id_of(e) for e in envelopes],
        [_deadline(e) for e in envelopes],
    )


def _deadline(envelope: Envelope) -> datetime | None:
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
    except ValueError:
        return None
    return at if at is None or at.tzinfo is not None else None
