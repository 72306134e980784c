"""`covey contracts`: hold what each service reads of others against what they publish, and name who would break.

Consumer-driven contracts (Ian Robinson, *Consumer-Driven Contracts: A Service Evolution Pattern*, martinfowler.com,
2006): a provider may change whatever no consumer reads. Only what is checked in is read, no code: so the gate holds
between services whose code is not here, and a change is judged by what its author has published.

Who calls over HTTP and gRPC need not be a service of the system. So what is published there is held against the last
release, too, for whoever knows that. Readers of messages are known; theirs and their writers' last releases are held
against what is there now: the two run side by side while a release is rolled out, and streams hold what the old wrote.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from covey.errors import ConfigurationError
from covey.local.system import System
from covey.tools.export import FOLDER, RELEASED
from covey.tools.http_fitting import operations_held
from covey.tools.message_fitting import Use, message_misfits, uses
from covey.tools.proto import PUBLISHED, READ, compiled

if TYPE_CHECKING:
    from google.protobuf.descriptor_pb2 import FileDescriptorSet

Json = Mapping[str, Any]

AS_RELEASED = " as released"
OUTSIDE = "who knows the last release"


@dataclass(frozen=True, kw_only=True, slots=True)
class Breach:
    """What one service expects and another does not give: the `consumer` is who breaks.

    `message` is the type of a message, an operation (`GET /api/v1/users`) or a method (`user.v1.UserService/GetUser`).
    """

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Contracts:
    """What a service publishes, and what it reads of others: `reads` by the provider's name over HTTP, and of gRPC."""

    asyncapi: Json
    openapi: Json = field(default_factory=dict)
    proto: FileDescriptorSet | None = None
    reads: Mapping[str, Json] = field(default_factory=dict)
    reads_proto: FileDescriptorSet | None = None
    released_asyncapi: Json | None = None
    released_openapi: Json | None = None
    released_proto: FileDescriptorSet | None = None


def read_contracts(system: System) -> dict[str, Contracts]:
    """Return the contracts of each service. Raises ConfigurationError for one that lacks a document."""
    return {name: _contracts(name, system.folder(name)) for name in system.services}


def hold(contracts: Mapping[str, Contracts]) -> Held:
    """Hold every expectation of each service against what the others publish, and that against the last releases."""
    expected = [*_messages(contracts), *_operations(contracts), *_methods(contracts)]
    return Held(
        expectations=len(expected),
        breaches=sorted({breach for one in expected for breach in one.breaches()}, key=str),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Expectation:
    consumer: str
    provider: str
    message: str
    unmet: Iterable[str]

    def breaches(self) -> Iterator[Breach]:
        for what in self.unmet:
            yield Breach(consumer=self.consumer, provider=self.provider, message=self.message, what=what)


def _messages(contracts: Mapping[str, Contracts]) -> Iterator[_Expectation]:
    """An event is expected by who reads it, as the part that it reads; a command by who sends it, as what it sends."""
    now = [use for name, one in contracts.items() for use in uses(name, one.asyncapi)]
    then = [use for name, one in contracts.items() for use in uses(name, one.released_asyncapi or {"operations": {}})]
    met, met_then = ({use.message: use for use in side if use.meets} for side in (now, then))
    broken: dict[tuple[str, str], set[str]] = {}
    for use in (use for use in now if use.expects):
        unmet = list(_unmet(use, met.get(use.message), contracts))
        broken[use.service, use.message] = set(unmet)
        yield _Expectation(consumer=use.service, provider=use.stream, message=use.message, unmet=unmet)
        # Of what the provider did not know yet nothing is held, or nothing could be added in one release.
        if (old := met_then.get(use.message)) is not None and use.message in met:
            new = [what for what in message_misfits(use, old) if what not in unmet]
            yield _Expectation(consumer=use.service, provider=use.stream + AS_RELEASED, message=use.message, unmet=new)
    for use in (use for use in then if use.expects):
        said = broken.get((use.service, use.message), set())
        unmet = [what for what in _unmet(use, met.get(use.message), contracts) if what not in said]
        yield _Expectation(consumer=use.service + AS_RELEASED, provider=use.stream, message=use.message, unmet=unmet)


def _unmet(consumer: Use, provider: Use | None, services: Iterable[str]) -> Iterable[str]:
    if provider is None:
        verb = "publishes" if consumer.kind == "event" else "handles"
        known = consumer.stream in services
        return [f"{consumer.stream} {verb} no such {consumer.kind}" if known else f"no service {verb} it"]
    return message_misfits(consumer, provider)


def _operations(contracts: Mapping[str, Contracts]) -> Iterator[_Expectation]:
    for name, one in contracts.items():
        for provider, read in one.reads.items():
            served = contracts[provider].openapi if provider in contracts else {}
            yield from _operations_of(name, provider, read, served)
        if one.released_openapi is not None:
            yield from _operations_of(OUTSIDE, name, one.released_openapi, one.openapi)


def _operations_of(consumer: str, provider: str, read: Json, served: Json) -> Iterator[_Expectation]:
    for operation, unmet in operations_held(read, served).items():
        yield _Expectation(consumer=consumer, provider=provider, message=operation, unmet=unmet)


def _methods(contracts: Mapping[str, Contracts]) -> Iterator[_Expectation]:
    parts = [(name, one.reads_proto) for name, one in contracts.items() if one.reads_proto is not None]
    released = [(name, one.released_proto) for name, one in contracts.items() if one.released_proto is not None]
    published = [(name, one.proto) for name, one in contracts.items() if one.proto is not None]
    if not parts and not released:
        return
    from covey.tools.grpc_fitting import method_misfits, methods_of  # protobuf is there for who has such contracts

    served = {method: (name, found) for name, files in published for method, found in methods_of(files).items()}
    services = {method.partition("/")[0]: name for method, (name, _) in served.items()}
    for consumer, provider, files in (
        *((name, None, files) for name, files in parts),
        *((OUTSIDE, name, files) for name, files in released),
    ):
        for method, known in methods_of(files).items():
            service = method.partition("/")[0]
            if method in served:
                owner, found = served[method]
                yield _Expectation(
                    consumer=consumer, provider=owner, message=method, unmet=method_misfits(known, found)
                )
            else:
                owner = provider or services.get(service, service.partition(".")[0])
                what = "there is no such method" if service in services else "no service publishes it"
                yield _Expectation(consumer=consumer, provider=owner, message=method, unmet=[what])


def _contracts(service: str, folder: Path) -> Contracts:
    own, released = folder / FOLDER, folder / RELEASED
    return Contracts(
        asyncapi=_read(service, own / "asyncapi.json"),
        openapi=_read(service, own / "openapi.json"),
        proto=_proto(folder / PUBLISHED),
        reads={file.parent.name: _read(service, file) for file in sorted((folder / READ).glob("*/openapi.json"))},
        reads_proto=_proto(folder / READ),
        released_asyncapi=_read_if_there(service, released / "asyncapi.json"),
        released_openapi=_read_if_there(service, released / "openapi.json"),
        released_proto=_proto(released),
    )


def _proto(folder: Path) -> FileDescriptorSet | None:
    return compiled(folder) if next(folder.rglob("*.proto"), None) is not None else None


def _read_if_there(service: str, file: Path) -> Json | None:
    return _read(service, file) if file.is_file() else None


def _read(service: str, file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text()))
    except FileNotFoundError:
        raise ConfigurationError(f"{service} has no {file}: `covey export {service}` writes it") from None
    except ValueError as error:
        raise ConfigurationError(f"{file} is not JSON ({error}): `covey export {service}` writes it anew") from None
