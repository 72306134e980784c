"""What becomes of a message whose handler failed."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta

from pydantic import ValidationError

from covey.errors import Unavailable
from covey.message import Message
from covey.messaging.delivery import Delivery
from covey.messaging.options import MessagingOptions
from covey.messaging.storable import clean
from covey.telemetry.redaction import text_of

ELSEWHERE = timedelta(milliseconds=500)
"""After so long a message that this replica cannot handle is there for any replica again."""


class Dead(Exception):
    """This message can never be handled as it is; the text says why."""


class NotHere(Unavailable):
    """Another replica can handle this message and this one cannot; having tried here does not count as an attempt."""


class TooSlow(Exception):
    """A handler did not end in time."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A message that failed, and what is to become of its key: it waits `after`, or for ever (dead)."""

    delivery: Delivery
    error: str
    after: timedelta | None
    attempts: int

    @property
    def dead(self) -> bool:
        """Tell whether the message is given up."""
        return self.after is None


class Failed(Exception):
    """A handler failed; the turn is to be rolled back."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.error)
        self.failure = failure


def leaked(error: asyncio.CancelledError) -> Exception:
    """Return what to make of a CancelledError that a handler's own library has let out; raise one that is meant for us.

    Taken for ours it would end a worker in silence.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise error
    return RuntimeError(f"it was cancelled, by itself: {error}")


def judge(delivery: Delivery, error: Exception, options: MessagingOptions, patient: bool = False) -> Failure:
    """Decide: dead at once, dead after its attempts, or retried for as long as somebody waits for it.

    A `patient` message is retried for ever, unless it can never be handled as it is.
    """
    said = text_of(error) if isinstance(error, Dead) else f"{type(error).__name__}: {text_of(error)}"
    text = clean(said[:2_000])  # it may quote what came: were it not storable, nobody could set the message aside
    if isinstance(error, NotHere):
        return Failure(delivery, text, error.retry_after or options.backoff, delivery.attempts)
    attempts = delivery.attempts + 1
    if isinstance(error, Dead):
        return Failure(delivery, text, None, attempts)
    retryable = patient or getattr(error, "retryable", False)
    after = options.delay(attempts) if retryable or attempts < options.max_attempts else None
    return Failure(delivery, text, after, attempts)


def parse(model: type[Message], delivery: Delivery) -> Message:
    """Read a message's body as `model`; raise Dead with the reason when it is not one."""
    try:
        return model.model_validate_json(delivery.envelope.body)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'body'}: {e['msg']}" for e in error.errors())
        raise Dead(f"unreadable: not a {delivery.envelope.type}: {problems}"[:2_000]) from None
