"""A message as the inbox gives it to a handler, and what its headers say."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
import pydantic_core

from covey.context import Context, Trace, new_context, new_span_id
from covey.ids import new_id
from covey.message import Envelope, Refused, Reply
from covey.work.inbox import REPLY_TO, command_id_of, inbox_columns, waited_until
from covey.work.outbox import context_headers

IN_REPLY_TO = "in-reply-to"
UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message to be handled now, with its place in the inbox.

    `attempts` counts failures so far; `expired`: its deadline has passed by the database's clock; `answer` is
    the reply that this command has been given before.
    """

    lane: int
    position: int
    envelope: Envelope
    command_id: UUID | None
    deadline: datetime | None
    expired: bool
    answer: bytes | None
    attempts: int

    def context(self) -> Context:
        """Return the context in which this message is handled: the sender's, with a new span in its trace."""
        headers = self.envelope.headers
        sent = new_context(headers.get("correlation-id"), headers.get("traceparent"))
        trace = Trace(sent.trace.trace_id, new_span_id(), sent.trace.sampled)
        return Context(sent.correlation_id, trace, self.deadline, None, self.envelope.id)

    def parent_span(self) -> str | None:
        """Return the sender's traceparent, if it gave one."""
        return self.envelope.headers.get("traceparent")


def delivery_of(row: Any) -> Delivery:
    """Build a delivery from a row of `covey.take`."""
    return Delivery(
        lane=row[0],
        position=row[1],
        envelope=Envelope(
            id=row[2],
            stream=row[3],
            kind=row[4],
            type=row[5],
            key=row[6],
            source=row[7],
            time=row[8],
            headers=orjson.loads(row[9]),
            body=row[10],
        ),
        command_id=row[11],
        deadline=row[12],
        expired=row[13],
        answer=row[14],
        attempts=row[15],
    )


@dataclass(frozen=True, slots=True)
class Received:
    """What was read from a stream in one go: everything behind `after`, up to `upto`."""

    stream: str
    after: int
    upto: int
    envelopes: list[Envelope]

    def columns(self) -> list[Any]:
        """Return the arguments of `covey.receive` that say this."""
        return [self.stream, self.after, self.upto, *inbox_columns(self.envelopes)]


def received_delivery(envelope: Envelope, position: int, expired: bool, answer: bytes | None) -> Delivery:
    """Build a delivery from an envelope just stored and what `covey.receive` says of it. It waits in no lane."""
    return Delivery(
        lane=-1,
        position=position,
        envelope=envelope,
        command_id=command_id_of(envelope),
        deadline=waited_until(envelope),
        expired=expired,
        answer=answer,
        attempts=0,
    )


def reply_body(reply: Reply) -> bytes:
    """Return a reply's JSON: its outcome, the reason of a refusal, and its fields."""
    refused = isinstance(reply, Refused)
    return pydantic_core.to_json(
        {
            "outcome": "refused" if refused else "done",
            "reason": reply.reason if isinstance(reply, Refused) else None,
            "data": {} if refused else reply,
        }
    )


def reply_envelope(delivery: Delivery, body: bytes, service: str, at: datetime) -> Envelope:
    """Address an answer to who sent the command. Each has an id of its own, so that none is taken for a duplicate."""
    asker = delivery.envelope.headers[REPLY_TO]
    return Envelope(
        id=new_id(),
        type=f"{asker}.reply.v1",
        key=delivery.envelope.key,
        source=service,
        time=at,
        body=body,
        kind="reply",
        stream=asker,
        headers=context_headers() | {IN_REPLY_TO: str(delivery.command_id)},
    )
