"""Whether who knows one OpenAPI document of a service is served by another: operation by operation.

Held is what a client sends (parameters, bodies) and what it reads (answers of success, their bodies and headers). Not
held are answers of failure, for every client has to bear any, and who may call.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from covey.errors import ConfigurationError
from covey.tools.fitting import Side, misfits

_METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
_NAME = re.compile(r"\{[^}]*\}")


def operations_held(client: Mapping[str, Any], server: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return each operation that the client's document has, with every way in which the server's breaks it."""
    served = {one.key: one for one in _operations(server)}
    return {one.shown: list(_broken(one, served.get(one.key))) for one in _operations(client)}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Operation:
    """`key` is its method and address without the names in it, which no request has."""

    key: tuple[str, str]
    shown: str
    parameters: dict[str, Side]
    body: Side | None
    answers: dict[str, Side]


def _operations(document: Mapping[str, Any]) -> Iterator[_Operation]:
    whole = Side(document, dict(document))
    for address, item in document.get("paths", {}).items():
        for method in _METHODS & item.keys():
            found = item[method]
            parameters = [whole.at(one) for one in (*item.get("parameters", ()), *found.get("parameters", ()))]
            names = _NAME.findall(address)
            yield _Operation(
                key=(method, _NAME.sub("{}", address)),
                shown=f"{method.upper()} {address}",
                parameters={_called(one.schema, names): one for one in parameters},
                body=whole.at(found["requestBody"]) if "requestBody" in found else None,
                answers={status: whole.at(one) for status, one in found.get("responses", {}).items()},
            )


def _called(parameter: Mapping[str, Any], names: list[str]) -> str:
    """Return what a parameter is known by: its name, and in an address its place."""
    name, where = parameter["name"], parameter["in"]
    if where == "path":
        if f"{{{name}}}" not in names:
            raise ConfigurationError(f"a parameter is in the path, and the path has no {{{name}}}")
        return f"part {names.index(f'{{{name}}}') + 1} of the address"
    return f"{where} {name.lower() if where == 'header' else name}"


def _broken(client: _Operation, server: _Operation | None) -> Iterator[str]:
    if server is None:
        yield "there is no such operation"
        return
    yield from _parameters(client, server)
    yield from _bodies(client.body, server.body)
    known = [one for one in client.answers if one.startswith(("2", "3"))]
    answers = {status: answer for status, answer in server.answers.items() if status.startswith(("2", "3"))}
    if known and not answers:
        yield f"it does not say what it answers, and {', '.join(known)} is read"
    for status, answer in answers.items():
        if status in client.answers:
            yield from _answers(status, answer, client.answers[status])
        elif f"{status[0]}XX" not in client.answers:
            yield f"it may answer {status}, and only {', '.join(known) or 'nothing'} is read"


def _parameters(client: _Operation, server: _Operation) -> Iterator[str]:
    for name, sent in client.parameters.items():
        if name not in server.parameters:
            yield f"{name}: it is sent, and is not known"
        else:
            yield from misfits(_schema(sent), _schema(server.parameters[name]), f".{name}")
    for name, known in server.parameters.items():
        if known.schema.get("required") and name not in client.parameters:
            yield f"{name}: it is required, and is not sent"
        elif known.schema.get("required") and not client.parameters[name].schema.get("required"):
            yield f"{name}: it is required, and may be absent"


def _bodies(sent: Side | None, known: Side | None) -> Iterator[str]:
    if known is not None and known.schema.get("required"):
        if sent is None:
            yield "body: it is required, and is not sent"
        elif not sent.schema.get("required"):
            yield "body: it is required, and may be absent"
    if sent is None:
        return
    taken = {} if known is None else known.schema["content"]
    for kind, content in sent.schema["content"].items():
        if known is None or kind not in taken:
            yield f"body: it is {kind}, and {' or '.join(taken) or 'none'} is read"
        else:
            yield from misfits(sent.at(content.get("schema", {})), known.at(taken[kind].get("schema", {})), ".body")


def _answers(status: str, given: Side, read: Side) -> Iterator[str]:
    has = given.schema.get("content", {})
    for kind, content in read.schema.get("content", {}).items():
        if kind not in has:
            yield f"{status}: it is {' or '.join(has) or 'empty'}, and {kind} is read"
        else:
            yield from misfits(given.at(has[kind].get("schema", {})), read.at(content.get("schema", {})), f".{status}")
    headers = {name.lower(): given.at(header) for name, header in given.schema.get("headers", {}).items()}
    for name, header in read.schema.get("headers", {}).items():
        if name.lower() not in headers:
            yield f"{status}: header {name} is read, and is not sent"
        else:
            yield from misfits(_schema(headers[name.lower()]), _schema(read.at(header)), f".{status} header {name}")


def _schema(parameter: Side) -> Side:
    return parameter.at(parameter.schema.get("schema", {}))
