"""The surface of a service: what others can see of it and what it sees of others, found in its code.

Routes and handlers are those that it runs with, so a contract never tells of a handler that is not there. What it
publishes and asks of others are the messages that its package declares, by convention in `messages.py`: an event whose
type begins with the service's name and that has a key, a command whose type begins with another's.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, get_args, get_type_hints

from fastapi import APIRouter

from covey.errors import DefinitionError
from covey.http.versioning import Deprecated
from covey.message import Command, Event, Message, Refused, Reply, stream_of
from covey.messaging.router import External, Handled, Registration, merged
from covey.saga.definition import Definition, is_command
from covey.service import Parts, service_of

Models = Mapping[str, type[Message]]
"""Messages by their type."""


@dataclass(frozen=True, kw_only=True)
class Surface:
    """What a service serves and uses.

    `replies` are the models of the answers to each command that it handles; none where its handler says only `Reply`.
    """

    name: str
    version: str
    routers: Sequence[APIRouter]
    deprecated: Mapping[int, Deprecated]
    sends: Models
    receives: Models
    replies: Mapping[str, frozenset[type[Reply]]]


async def surface_of(package: str) -> Surface:
    """Return the surface of the service whose package this is, composed with the settings of the environment."""
    service = service_of(package)
    if find_spec(f"{package}.messages"):
        import_module(f"{package}.messages")
    async with service.composed(service.load_settings()) as parts:
        return surface(service.name, service.version, parts, declared_in(package))


def surface(name: str, version: str, parts: Parts, declared: Iterable[type[Message]]) -> Surface:
    """Return the surface of a service with these parts that declares these messages."""
    handled = dict(_handled(merged(parts.messages).table.values()))
    receives = {
        kind: registration.model
        for kind, registration in handled.items()
        if issubclass(registration.model, Command) or stream_of(kind) != name
    }
    return Surface(
        name=name,
        version=version,
        deprecated=parts.deprecated,
        routers=parts.http,
        sends=_by_type(filter(_sent_by(name), (*declared, *_asked_by(parts.sagas)))),
        receives=receives,
        replies={kind: _replies(handled[kind]) for kind, model in receives.items() if issubclass(model, Command)},
    )


def declared_in(package: str) -> list[type[Message]]:
    """Return the messages that the imported modules of a package define."""
    modules = [module for name, module in sys.modules.items() if f"{name}.".startswith(f"{package}.")]
    return [
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Message) and value.__module__ == module.__name__
    ]


def _handled(registrations: Iterable[Registration]) -> Iterator[tuple[str, Handled[Any] | External[Any]]]:
    for registration in registrations:
        if isinstance(registration, Handled | External):
            yield registration.model.message_type, registration


def _asked_by(sagas: Iterable[Definition[Any]]) -> Iterator[type[Message]]:
    for saga in sagas:
        for step in saga.steps:
            yield from (action for action in (step.action, step.undo) if action is not None and is_command(action))


def _sent_by(name: str) -> Callable[[type[Message]], bool]:
    """Tell what a service sends to others. Without a key nothing can be published: that is the part of a reader."""

    def sent(model: type[Message]) -> bool:
        own = stream_of(model.message_type) == name
        return bool(model.message_type and model.key_field) and issubclass(model, Event if own else Command)

    return sent


def _by_type(models: Iterable[type[Message]]) -> dict[str, type[Message]]:
    found: dict[str, type[Message]] = {}
    for model in models:
        other = found.setdefault(model.message_type, model)
        if other is not model:
            raise DefinitionError(
                f"{model.message_type} is declared twice, by {other.__module__}.{other.__qualname__} and"
                f" {model.__module__}.{model.__qualname__}: a service sends a type as one model"
            )
    return found


def _replies(registration: Handled[Any] | External[Any]) -> frozenset[type[Reply]]:
    """Return what the functions of a command's handler say that they return, if they say more than `Reply`."""
    if isinstance(registration, Handled):
        functions: list[Any] = list(registration.functions)
    else:
        functions = [registration.effect.intend, registration.effect.settle]
    named = {kind for function in functions for kind in _returned(function) if _is_reply(kind)}
    return frozenset() if Reply in named else frozenset(named - {Refused})


def _returned(function: Any) -> tuple[Any, ...]:
    try:
        returned = get_type_hints(function).get("return")
    except NameError:  # it names what is imported for type checking only
        return ()
    return get_args(returned) or (returned,)


def _is_reply(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, Reply)
