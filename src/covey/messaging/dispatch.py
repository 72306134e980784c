"""Dispatch: gives one message to the code that is registered for its type, in the transaction of its turn."""

from __future__ import annotations

from typing import Any, assert_never

from covey.clock import Clock
from covey.ids import new_id
from covey.message import Reply, is_service
from covey.messaging.answers import Answers
from covey.messaging.batch import Batch
from covey.messaging.call import Call
from covey.messaging.delivery import UNREADABLE, Delivery
from covey.messaging.external import Calls
from covey.messaging.failure import ELSEWHERE, Dead, NotHere, parse
from covey.messaging.router import (
    Engine,
    External,
    Handled,
    Ignored,
    Registration,
    Router,
    accepts,
    as_reply,
    is_command,
)
from covey.work.inbox import REPLY_TO
from covey.work.unit_of_work import Work

# A process that does not say what it handles may handle anything.
_HANDLED_ELSEWHERE = """
SELECT EXISTS (SELECT FROM covey.process WHERE owner <> $1 AND (handles IS NULL OR $2 = ANY (handles)))
    OR EXISTS (SELECT FROM covey.handled_lately WHERE type = $2 AND until > clock_timestamp())
"""
_EXPIRED = """
INSERT INTO covey.dead_letter_log (position, message_id, key, what, reason)
VALUES ($1, $2, $3, 'expired', 'its deadline has passed: nobody waits for it any more')
"""


class Dispatch:
    """Knows what code handles what. `owner` is the number under which this process calls the outside."""

    def __init__(self, service: str, router: Router, clock: Clock, owner: int, calls: Calls) -> None:
        self._service = service
        self._table = router.table
        self._answers = Answers(service, clock)
        self._owner = owner
        self._calls = calls

    async def elsewhere(self, delivery: Delivery, work: Work) -> NotHere | None:
        """Say so when this process does not know the type of a message, and another one does that lives, or has died
        less than a minute ago. While a deployment rolls, that is the version which has brought the type, or still has
        it.
        """
        message_type = delivery.envelope.type
        if message_type in self._table or delivery.expired:
            return None
        if not await work.fetchval(_HANDLED_ELSEWHERE, self._owner, message_type):
            return None
        said = f"another process of {self._service} handles {message_type}, and this one does not"
        return NotHere(said, retry_after=ELSEWHERE)

    async def give(self, batch: Batch, delivery: Delivery) -> None:
        """Have a message handled, or its key held while the outside is called for it."""
        work = batch.work
        if delivery.expired:
            work.defer(_EXPIRED, delivery.position, delivery.envelope.id, delivery.envelope.key)
            batch.handled.append(delivery)
            return
        _require_readable(delivery)
        answer = self._answers.known(work, delivery)
        if answer is not None:
            self._answers.send(work, delivery, answer)
            batch.handled.append(delivery)
            return
        registration = self._registration(delivery)
        match registration:
            case Handled():
                message = parse(registration.model, delivery)
                result: object = None
                for function in registration.functions:
                    result = await function(message, work)
                if is_command(registration):
                    self._answers.give(work, delivery, as_reply(result, delivery.envelope.type))
            case External():
                if not await self._intend(batch, delivery, registration):
                    return
            case Ignored():
                pass
            case Engine():
                await registration.raw.handle(delivery, work)
            case _:
                assert_never(registration)
        batch.handled.append(delivery)

    async def _intend(self, batch: Batch, delivery: Delivery, registration: External[Any]) -> bool:
        """Begin an effect outside; True when it settled at once, False when its key is now worked on."""
        if not self._calls.reserve():
            batch.hold(delivery, "waiting", self._calls.turn_away(), delivery.attempts)
            return False
        batch.places += 1
        message = parse(registration.model, delivery)
        intent = await registration.effect.intend(message, batch.work)
        if isinstance(intent, Reply):
            if is_command(registration):
                self._answers.give(batch.work, delivery, intent)
            return True
        call = Call(delivery, message, intent, new_id(), registration)
        attempts, owner = delivery.attempts, self._owner
        batch.hold(delivery, "working", call.lease, attempts, token=call.token, owner=owner)
        batch.calls.append(call)
        return False

    def _registration(self, delivery: Delivery) -> Registration:
        envelope = delivery.envelope
        registration = self._table.get(envelope.type)
        if registration is None:
            name = envelope.type.rpartition(".")[0]
            known = sorted(t for t in self._table if t.rpartition(".")[0] == name)
            raise Dead(
                f"unknown version: {envelope.type}; {self._service} handles {', '.join(known)}"
                if known
                else f"unknown type: {self._service} has no handler for {envelope.type}"
            )
        if not accepts(registration, envelope, self._service):
            raise Dead(f"unreadable: {envelope.type} came as a message of the kind {envelope.kind}")
        return registration


def _require_readable(delivery: Delivery) -> None:
    envelope = delivery.envelope
    if UNREADABLE in envelope.headers:
        raise Dead(f"unreadable: {envelope.headers[UNREADABLE]}")
    if not is_service(envelope.headers.get(REPLY_TO, envelope.stream)):
        raise Dead(f"unreadable: {REPLY_TO} is not the name of a service")
