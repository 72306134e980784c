"""Messages: facts (`Event`) and requests (`Command`), and the envelope in which they travel.

A message's type is written out and versioned (`order.placed.v1`), never derived from a class name. Its
first word names the service whose stream carries it: an event travels in the stream of the service that
it happened in, a command in the stream of the service that is asked. The key decides order: messages of
one key in one stream are handled in the order in which they were committed.

The envelope follows CloudEvents 1.0 (https://cloudevents.io); its attributes become the headers `ce-…`.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from covey.errors import DefinitionError

_SERVICE = re.compile(r"[a-z][a-z0-9-]{0,62}")
_TYPE = re.compile(r"[a-z][a-z0-9-]*(\.[a-z][a-z0-9-]*)+\.v[1-9][0-9]*")


class Message(BaseModel):
    """A message as a service knows it: the publisher's whole, or the part that a consumer reads.

    Declare with `class OrderPlaced(Event, type="order.placed.v1", key="order_id")`. `key` names the field
    whose value orders the message; a consumer, which never publishes it, may leave it out.
    Fields that a model does not declare are ignored when reading, so that publishers may add some.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_timedelta="float")

    message_type: ClassVar[str] = ""
    key_field: ClassVar[str] = ""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if cls.key_field and cls.key_field not in cls.model_fields:
            raise DefinitionError(f"{cls.__name__}: key={cls.key_field!r} is not one of its fields")

    def __init_subclass__(cls, type: str = "", key: str = "", **kwargs: Any) -> None:
        if "key" in inspect.get_annotations(cls):
            raise DefinitionError(f"{cls.__name__}: no field may be called `key`, which is what orders a message")
        if type and not _TYPE.fullmatch(type):
            raise DefinitionError(
                f"{cls.__name__}: type {type!r} must read like 'order.placed.v1': the service, what it is, a version"
            )
        cls.message_type = type or cls.message_type
        cls.key_field = key or cls.key_field
        super().__init_subclass__(**kwargs)

    @property
    def key(self) -> str:
        """Return what orders this message."""
        if not self.key_field:
            raise DefinitionError(f"{type(self).__name__} declares no key, so it cannot be published: add key='…'")
        return str(getattr(self, self.key_field))


class Event(Message):
    """A fact: something that has happened in the service that its type names first."""


class Command(Message):
    """A request to the service that its type names first. It is answered by a reply."""


class Reply(Message):
    """The answer to a command. A bare `Reply()` says that it was done."""


class Refused(Reply):
    """The answer to a command that was not carried out and never will be. `reason` is for people."""

    reason: str


Kind = Literal["event", "command", "reply"]


@dataclass(frozen=True, slots=True)
class Envelope:
    """A message on its way: what brokers and tables carry. `body` is JSON; `headers` are plain strings.

    `stream` names the service whose stream carries it. `id` stays the same through every retry of the publisher, so
    that duplicates can be recognized.
    """

    id: UUID
    type: str
    key: str
    source: str
    time: datetime
    body: bytes
    kind: Kind = "event"
    stream: str = ""
    headers: dict[str, str] = field(default_factory=dict)


def stream_of(message_type: str) -> str:
    """Return the stream that carries messages of this type: the service that the type names first."""
    return message_type.partition(".")[0]


def is_service(name: str) -> bool:
    """Tell whether this can be the name of a service, and so of a stream: lower-case letters, digits, dashes."""
    return _SERVICE.fullmatch(name) is not None
