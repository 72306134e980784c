"""Replies to commands, given once and repeated for a command that is sent again."""

from __future__ import annotations

from uuid import UUID

from covey.clock import Clock
from covey.message import Reply
from covey.messaging.delivery import Delivery, reply_body, reply_envelope
from covey.work.inbox import REPLY_TO
from covey.work.unit_of_work import Work


class Answers:
    """Gives the replies of one service."""

    def __init__(self, service: str, clock: Clock) -> None:
        self._service = service
        self._clock = clock

    def give(self, work: Work, delivery: Delivery, reply: Reply) -> None:
        """Answer a command and keep the answer. Nothing when its sender wants none."""
        if REPLY_TO in delivery.envelope.headers:
            body = reply_body(reply)
            work.state.setdefault(Answers, {})[delivery.command_id] = body
            asker = delivery.envelope.headers[REPLY_TO]
            work.collect("keep_replies", delivery.command_id, asker, delivery.envelope.key, body)
            self.send(work, delivery, body)

    def known(self, work: Work, delivery: Delivery) -> bytes | None:
        """Return the answer that this command has been given before, perhaps earlier in this very transaction."""
        if delivery.answer is not None or delivery.command_id is None:
            return delivery.answer
        given: dict[UUID, bytes] = work.state.get(Answers, {})
        return given.get(delivery.command_id)

    def send(self, work: Work, delivery: Delivery, body: bytes) -> None:
        """Send an answer, new or kept, to who sent this command."""
        if REPLY_TO in delivery.envelope.headers:
            work.send(reply_envelope(delivery, body, self._service, self._clock.now()))
