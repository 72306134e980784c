"""What becomes of a message whose handler failed."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import ValidationError

from covey.message import Message
from covey.messaging.delivery import Delivery
from covey.messaging.options import MessagingOptions


class Dead(Exception):
    """This message can never be handled as it is; the text says why."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A message that failed, and what is to become of its key."""

    delivery: Delivery
    error: str
    dead: bool
    attempts: int


class Failed(Exception):
    """A handler failed; the turn is to be rolled back."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.error)
        self.failure = failure


def judge(delivery: Delivery, error: Exception, options: MessagingOptions, patient: bool = False) -> Failure:
    """Decide: dead at once, dead after its attempts, or retried for as long as somebody waits for it.

    A `patient` message is retried for ever, unless it can never be handled as it is.
    """
    attempts = delivery.attempts + 1
    if isinstance(error, Dead):
        return Failure(delivery, str(error), dead=True, attempts=attempts)
    retryable = patient or getattr(error, "retryable", False)
    text = f"{type(error).__name__}: {error}"[:2_000].replace("\x00", "")
    return Failure(delivery, text, dead=not retryable and attempts >= options.max_attempts, attempts=attempts)


def parse(model: type[Message], delivery: Delivery) -> Message:
    """Read a message's body as `model`; raise Dead with the reason when it is not one."""
    try:
        return model.model_validate_json(delivery.envelope.body)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'body'}: {e['msg']}" for e in error.errors())
        raise Dead(f"unreadable: not a {delivery.envelope.type}: {problems}"[:2_000]) from None
