"""`covey contracts`: hold what each service reads of others against what they publish, and name who would break.

Consumer-driven contracts (Ian Robinson, *Consumer-Driven Contracts: A Service Evolution Pattern*, martinfowler.com,
2006): a provider may change whatever no consumer reads. Only the checked-in documents are read, no code: so the gate
holds between services whose code is not here, and a change is judged by what its author has published.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from covey.errors import ConfigurationError
from covey.local.system import System
from covey.tools.asyncapi import KIND
from covey.tools.export import FOLDER
from covey.tools.fitting import Side, misfits

Action = Literal["send", "receive"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Breach:
    """What one service expects and another does not give: the `consumer` is who breaks."""

    consumer: str
    provider: str
    message: str
    what: str

    def __str__(self) -> str:
        return f"{self.consumer} breaks on {self.message} of {self.provider}: {self.what}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """How many expectations there are, and those that are not met."""

    expectations: int
    breaches: list[Breach]


def read_contracts(system: System) -> dict[str, dict[str, Any]]:
    """Return the AsyncAPI document of each service. Raises ConfigurationError for one that has none."""
    return {name: _read(name, system.folder(name) / FOLDER / "asyncapi.json") for name in system.services}


def hold(documents: Mapping[str, Mapping[str, Any]]) -> Held:
    """Hold every expectation of each service against the others' documents.

    An event is expected by who reads it, as the part that it reads; a command by who sends it, as what it sends.
    """
    sides = [side for service, document in documents.items() for side in _sides(service, document)]
    sent = {side.message: side for side in sides if side.action == "send" and side.kind == "event"}
    handled = {side.message: side for side in sides if side.action == "receive" and side.kind == "command"}
    expected = [
        *((side, sent.get(side.message)) for side in sides if side.action == "receive" and side.kind == "event"),
        *((side, handled.get(side.message)) for side in sides if side.action == "send" and side.kind == "command"),
    ]
    breaches = [breach for consumer, provider in expected for breach in _held(consumer, provider, documents)]
    return Held(expectations=len(expected), breaches=sorted(breaches, key=str))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Use:
    """One message that a service sends or receives."""

    service: str
    action: Action
    kind: str
    message: str
    stream: str
    payload: Side


def _sides(service: str, document: Mapping[str, Any]) -> Iterator[_Use]:
    whole = Side(document, dict(document))
    for operation in document["operations"].values():
        for reference in operation["messages"]:
            found = whole.at(reference).schema
            yield _Use(
                service=service,
                action=operation["action"],
                kind=found[KIND],
                message=found["name"],
                stream=whole.at(operation["channel"]).schema["address"],
                payload=Side(found["payload"], dict(document)),
            )


def _held(consumer: _Use, provider: _Use | None, documents: Iterable[str]) -> Iterator[Breach]:
    for what in _broken(consumer, provider, documents):
        yield Breach(consumer=consumer.service, provider=consumer.stream, message=consumer.message, what=what)


def _broken(consumer: _Use, provider: _Use | None, documents: Iterable[str]) -> Iterable[str]:
    if provider is None:
        verb = "publishes" if consumer.kind == "event" else "handles"
        known = consumer.stream in documents
        return [f"{consumer.stream} {verb} no such {consumer.kind}" if known else f"no service {verb} it"]
    if consumer.kind == "event":
        return misfits(provider.payload, consumer.payload)
    return misfits(consumer.payload, provider.payload)


def _read(service: str, file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text()))
    except FileNotFoundError:
        raise ConfigurationError(f"{service} has no {file}: `covey export {service}` writes it") from None
    except ValueError as error:
        raise ConfigurationError(f"{file} is not JSON ({error}): `covey export {service}` writes it anew") from None
