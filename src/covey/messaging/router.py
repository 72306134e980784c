"""Which code handles which message.

A router is made at import, holds functions and nothing else, and is given to the service that runs it.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Generic, Literal, Protocol, TypeVar, assert_never

from covey.errors import DefinitionError
from covey.message import Command, Envelope, Event, Message, Refused, Reply
from covey.messaging.delivery import Delivery
from covey.work.unit_of_work import Work

M = TypeVar("M", bound=Message)
M_contra = TypeVar("M_contra", bound=Message, contravariant=True)
I = TypeVar("I")  # noqa: E741 - the intent, beside M and R
R = TypeVar("R")

Handler = Callable[[M, Work], Awaitable[Any]]


class ExternalEffect(Protocol[M_contra, I, R]):
    """An effect outside the database, such as a payment provider's.

    It cannot be part of a transaction, so it is three parts. A crash between them repeats from `intend`, with
    the same key: the outside must recognize a key that it has seen. What it cannot recognize happens at least once.
    """

    async def intend(self, message: M_contra, work: Work) -> I | Reply:
        """Record what is about to be asked, and return it; committed before the call.

        A `Reply` (also `Refused`) settles the message at once, without a call. May run again after a crash or
        a failed call, in a new transaction.
        """
        ...

    async def call(self, message: M_contra, intent: I, key: str) -> R:
        """Ask the outside, in no transaction. `key` is the same for every attempt of this message.

        Raise Unavailable when the outcome is unknown: the call is repeated with backoff until the command's
        deadline, for ever if it has none. Return a value for every definite answer, refusals too.
        """
        ...

    async def settle(self, message: M_contra, result: R, work: Work) -> Reply | None:
        """Record the answer, and reply. Exactly once, in a transaction of its own."""
        ...


class Raw(Protocol):
    """A handler that takes deliveries as they are and prepares for a whole batch at once; for engines."""

    async def prepare(self, deliveries: list[Delivery], work: Work) -> None:
        """Load what the deliveries of this turn need, in one statement."""
        ...

    async def handle(self, delivery: Delivery, work: Work) -> None:
        """Handle one delivery."""
        ...

    def committed(self, work: Work) -> None:
        """Take note that a transaction of this process, whether a turn or not, has committed. Must not fail."""
        ...


@dataclass(frozen=True, slots=True)
class Handled(Generic[M]):
    """Functions that handle a message inside the transaction that takes it off the inbox."""

    model: type[M]
    functions: tuple[Handler[M], ...]


@dataclass(frozen=True, slots=True)
class External(Generic[M]):
    """An effect outside, with the span that one call may take."""

    model: type[M]
    effect: ExternalEffect[M, Any, Any]
    timeout: timedelta


@dataclass(frozen=True, slots=True)
class Ignored:
    """A type that is known and not wanted."""


@dataclass(frozen=True, slots=True)
class Engine:
    """A raw handler, and how its messages come: over the broker as `kind`, or only from the service itself.

    What is not `wanted` is not asked of the broker: it comes when another process of the service has.
    """

    raw: Raw
    kind: Literal["reply", "self"]
    wanted: bool = True


Registration = Handled[Any] | External[Any] | Engine | Ignored


@dataclass(frozen=True)
class Router:
    """A table from message types to handlers."""

    table: dict[str, Registration] = field(default_factory=dict)

    def on(self, model: type[M]) -> Callable[[Handler[M]], Handler[M]]:
        """Handle messages of `model` with the decorated `async def f(message, work)`.

        Its effect through `work` happens exactly once. Handlers of one event run in the same transaction, in the
        order of registration; a command has one, whose returned `Reply` or `Refused` goes back to who asked.
        An error that is `retryable` is retried until the message's deadline, any other five times; then the
        message is a dead letter, and later ones of its key wait behind it.
        """
        _require_type(model)

        def register(function: Handler[M]) -> Handler[M]:
            if not inspect.iscoroutinefunction(function):
                raise DefinitionError(f"the handler of {model.message_type} must be `async def`")
            present = self.table.get(model.message_type)
            if present is None:
                self.table[model.message_type] = Handled(model, (function,))
            elif isinstance(present, Handled) and present.model is model and issubclass(model, Event):
                self.table[model.message_type] = Handled(model, (*present.functions, function))
            else:
                raise _twice(model.message_type)
            return function

        return register

    def external(
        self, model: type[M], effect: ExternalEffect[M, I, R], *, timeout: timedelta = timedelta(seconds=10)
    ) -> None:
        """Handle messages of `model` with an effect outside the database. `timeout` bounds one call."""
        _require_type(model)
        self.add(model.message_type, External(model, effect, timeout))

    def ignore(self, message_type: str) -> None:
        """Let messages of this type pass: a version that another handler covers, or that is not wanted."""
        self.add(message_type, Ignored())

    def add(self, message_type: str, registration: Registration) -> None:
        """Register under a type; raises DefinitionError when it has a handler already."""
        if message_type in self.table:
            raise _twice(message_type)
        self.table[message_type] = registration


def merged(routers: Iterable[Router]) -> Router:
    """Return one router with the handlers of all; a type may stand in one of them only."""
    whole = Router()
    for router in routers:
        for message_type, registration in router.table.items():
            whole.add(message_type, registration)
    return whole


def is_command(registration: Registration) -> bool:
    """Tell whether what is registered answers a command."""
    return isinstance(registration, (Handled, External)) and issubclass(registration.model, Command)


def accepts(registration: Registration, envelope: Envelope, service: str) -> bool:
    """Tell whether a message came the way that messages of its type come."""
    match registration:
        case Handled() | External():
            return (envelope.kind == "command") is is_command(registration)
        case Engine(kind="reply"):
            return envelope.kind == "reply"
        case Engine():
            return envelope.kind == "event" and envelope.source == service
        case Ignored():
            return True
        case _:
            assert_never(registration)


def as_reply(result: object, message_type: str) -> Reply:
    """Return what a command's handler gave as a reply; None is `Reply()`: it was done."""
    if result is None:
        return Reply()
    if isinstance(result, (Reply, Refused)):
        return result
    raise DefinitionError(
        f"the handler of {message_type} returned {type(result).__name__}; return a Reply, a Refused or None"
    )


def _require_type(model: type[Message]) -> None:
    if not model.message_type:
        raise DefinitionError(f"{model.__name__} declares no type: write class {model.__name__}(Event, type='…')")


def _twice(message_type: str) -> DefinitionError:
    return DefinitionError(f"{message_type} has a handler already; events of one model may have several, nothing else")
