"""`covey client`: a typed client of a service, from the OpenAPI document that it publishes.

One module: a model for each schema that an operation shows or takes, and an async function for each operation, over
`covey.http.client.HttpClient`. It is the consumer's from then on: it can be cut down to the part that is read, and made
again when the contract has grown. Models of answers ignore fields that they do not know.

Keywords of JSON Schema that it does not know become `Any`: a client that takes more than the service gives is of use,
one that refuses what the service gives is not. So bounds and patterns are left to the service.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from covey.errors import ConfigurationError
from covey.http.client import ITS_OWN
from covey.local.system import System
from covey.tools.client_models import (
    IMPORTS,
    TAKEN,
    WIDTH,
    Models,
    Schema,
    distinct,
    docstring,
    literal,
    mentioned,
    name_of,
)
from covey.tools.export import FOLDER
from covey.tools.fitting import Side

_METHODS = ("get", "post", "put", "patch", "delete")
_JSON = "application/json"
_KEY = "idempotency-key"
_PLACES = ("path", "query", "header")
_VERSION = re.compile(r"/v(\d+)(?:/|$)")
_About = tuple[str, str, Mapping[str, Any]]

_SENT = '''def _sent(body: object) -> Any:
    """Return what is sent of a body: the fields that were set."""
    if isinstance(body, list):
        return [_sent(one) for one in body]
    if isinstance(body, BaseModel):
        return body.model_dump(mode="json", by_alias=True, exclude_unset=True)
    return body'''


def read_contract(system: System, service: str) -> dict[str, Any]:
    """Return the OpenAPI document of a service. Raises ConfigurationError when it has none."""
    if service not in system.services:
        raise ConfigurationError(f"{service!r} is no service of {system.name}: {', '.join(system.services)}")
    path = system.folder(service) / FOLDER / "openapi.json"
    try:
        document: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path}: {error}; `covey export {service}` writes it") from None
    return document


def module(service: str, document: Mapping[str, Any]) -> str:
    """Return the source of a client. Raises ConfigurationError where the document contradicts itself."""
    schemas = document.get("components", {}).get("schemas", {})
    abouts = _abouts(document)
    models = Models(schemas, _used(abouts, schemas))
    names = _function_names(abouts, models)
    operations = [_Operation(models, names[method, path], method, path, about) for method, path, about in abouts]
    functions = [one.source() for one in operations]
    helpers = [_SENT] if any(one.body for one in operations) else []
    classes, aliases = models.classes(), models.aliases()
    body = "\n\n\n".join([*classes, *["\n".join(aliases)] * bool(aliases), *functions, *helpers])
    gap = "\n\n" if classes or not aliases else "\n"
    return f"{_head(service)}\n{_imports(body)}\n{gap}{body}\n"


@dataclass(frozen=True)
class _Operation:
    """A method of a path, and how Python calls it."""

    models: Models
    name: str
    method: str
    path: str
    about: Mapping[str, Any]

    @property
    def body(self) -> str | None:
        """Return the type of its body, None: it has none."""
        schema = _json_of(self.about.get("requestBody", {}))
        return None if schema is None else self.models.type_of(schema)

    @property
    def dialect(self) -> str | None:
        """Return the media type of its body where that is not plain JSON."""
        found = _media_type_of(self.about.get("requestBody", {}))
        return None if found == _JSON else found

    @property
    def answer(self) -> str:
        """Return the type of what it answers when all is well."""
        found = [answer for status, answer in self.about.get("responses", {}).items() if status.startswith("2")]
        schema = next((schema for one in found if (schema := _json_of(one)) is not None), None)
        return "None" if schema is None else self.models.type_of(schema)

    @cached_property
    def arguments(self) -> Mapping[tuple[str, str], str]:
        """Return what Python calls each parameter, by its place and name."""
        places = [(one["in"], one["name"]) for place in _PLACES for one in self._in(place)]
        keys = {place: "key" for place in places if place[0] == "header" and place[1].lower() == _KEY}
        return distinct(places, lambda place: name_of(place[1]), TAKEN | self.models.names, keys)

    def source(self) -> str:
        """Return the function."""
        text = self.about.get("description") or self.about.get("summary") or self.name
        return f"{self._signature()}\n{docstring(text)}\n{self._asked()}"

    def _signature(self) -> str:
        arguments = [
            "client: HttpClient",
            *(f"{self._argument(one)}: {self._type(one)}" for one in self._in("path")),
        ]
        if self.body is not None:
            is_required = self.about["requestBody"].get("required", False)
            is_optional = not is_required and not self.body.endswith("None")
            arguments.append(f"body: {self.body}{' | None' * is_optional}{'' if is_required else ' = None'}")
        named = [self._named(one) for one in (*self._in("query"), *self._in("header"))]
        arguments += ["*", *sorted(named, key=lambda one: "=" in one)] if named else []
        line = f"async def {self.name}({', '.join(arguments)}) -> {self.answer}:"
        return line if len(line) <= WIDTH else _broken(f"async def {self.name}(", arguments, f") -> {self.answer}:", "")

    def _named(self, parameter: Mapping[str, Any]) -> str:
        kind, name = self._type(parameter), self._argument(parameter)
        if parameter.get("required"):
            return f"{name}: {kind}"
        return f"{name}: {kind if kind.endswith('None') else f'{kind} | None'} = None"

    def _asked(self) -> str:
        """Return what the function does. What is no `type` to mypy, as a union is none, is handed over as Any."""
        if self.answer == "None":
            return _call("await client.send(", self._arguments())
        if self.models.is_type(self.answer):
            return _call("return await client.ask(", self._arguments())
        call = _call(f"shown: {self.answer} = await client.ask(", self._arguments())
        return f"    answer: Any = {self.answer}\n{call}\n    return shown"

    def _arguments(self) -> list[str]:
        plain = literal(self.path)
        path = re.sub(r"{(.+?)}", self._segment, plain)
        arguments = [f'"{self.method.upper()}"', path if path == plain else f"f{path}"]
        if self.answer != "None":
            arguments.append(self.answer if self.models.is_type(self.answer) else "answer")
        if queried := self._in("query"):
            arguments.append(self._mapping("query", queried))
        if self.body is not None:
            arguments.append("body=_sent(body)")
        headers = self._in("header")
        others = [one for one in headers if self._argument(one) != "key"]
        if others or self.dialect is not None:
            arguments.append(self._mapping("headers", others, {"Content-Type": self.dialect} if self.dialect else {}))
        return arguments + ["key=key"] * (len(others) < len(headers))

    def _segment(self, found: re.Match[str]) -> str:
        argument = self.arguments.get(("path", found[1]))
        if argument is None:
            operation = f"{self.method.upper()} {self.path}"
            raise ConfigurationError(f"{operation} declares no parameter {found[1]!r}, which is in its path")
        return f"{{segment({argument})}}"

    def _in(self, place: str) -> list[Mapping[str, Any]]:
        """Return its parameters there; not the headers that the client itself says."""
        found = [one for one in self.about.get("parameters", ()) if one["in"] == place]
        return [one for one in found if place != "header" or one["name"].lower() not in ITS_OWN - {_KEY}]

    def _argument(self, parameter: Mapping[str, Any]) -> str:
        return self.arguments[parameter["in"], parameter["name"]]

    def _type(self, parameter: Mapping[str, Any]) -> str:
        return self.models.type_of(parameter.get("schema", {}))

    def _mapping(self, name: str, parameters: list[Mapping[str, Any]], fixed: Mapping[str, str] = {}) -> str:
        pairs = [f"{literal(key)}: {literal(value)}" for key, value in fixed.items()]
        pairs += [f"{literal(one['name'])}: {self._argument(one)}" for one in parameters]
        line = f"{name}={{{', '.join(pairs)}}}"
        return line if len(line) < WIDTH - 10 else _broken(f"{name}={{", pairs, "        }", "        ")


def _abouts(document: Mapping[str, Any]) -> list[_About]:
    """Return method, path and description of all operations, what a description refers to in its place."""
    whole = Side(document, dict(document))
    return [
        (method, path, _about(whole, item, item[method]))
        for path, item in sorted(document.get("paths", {}).items())
        for method in _METHODS
        if method in item
    ]


def _about(whole: Side, item: Mapping[str, Any], operation: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return an operation with the parameters of its path that it does not have otherwise."""
    parameters = [whole.at(one).schema for one in (*item.get("parameters", ()), *operation.get("parameters", ()))]
    return {
        **operation,
        "parameters": list({(one["in"], one["name"]): one for one in parameters}.values()),
        "requestBody": whole.at(operation.get("requestBody", {})).schema,
        "responses": {status: whole.at(one).schema for status, one in operation.get("responses", {}).items()},
    }


def _function_names(abouts: list[_About], models: Models) -> dict[tuple[str, str], str]:
    """Return what functions are called. What an older version of the API has too is called by its version."""
    found: dict[tuple[str, str], str] = {}
    for method, path, about in sorted(abouts, key=_newest_first):
        name = _operation_name(method, path, about)
        while name in found.values() or name in TAKEN or name in models.names:
            version = _VERSION.search(path)
            name += f"_v{version[1]}" if version and not name.endswith(f"_v{version[1]}") else "_"
        found[method, path] = name
    return found


def _newest_first(about: _About) -> tuple[int, str]:
    version = _VERSION.search(about[1])
    return -int(version[1]) if version else 0, about[1]


def _operation_name(method: str, path: str, about: Mapping[str, Any]) -> str:
    """Return its name, without what FastAPI adds of path and method."""
    own = str(about.get("operationId") or f"{method}{path}")
    return name_of(own.removesuffix(re.sub(r"\W", "_", f"{path}_{method}")))


def _used(abouts: list[_About], schemas: Mapping[str, Schema]) -> set[str]:
    """Return the names of all schemas that operations mention, or that those mention in turn."""
    found: set[str] = set()
    waiting = {name for _, _, about in abouts for name in mentioned([about["parameters"], _shown(about)])}
    while waiting:
        name = waiting.pop()
        found.add(name)
        waiting |= set(mentioned(schemas.get(name, {}))) - found
    return found


def _shown(about: Mapping[str, Any]) -> list[Any]:
    """Return what is sent and what comes back when all is well: problems become errors."""
    responses = about.get("responses", {})
    return [about.get("requestBody"), [one for status, one in responses.items() if status.startswith("2")]]


def _json_of(holder: Mapping[str, Any]) -> Schema | None:
    found: Schema | None = holder.get("content", {}).get(_media_type_of(holder), {}).get("schema")
    return found


def _media_type_of(holder: Mapping[str, Any]) -> str | None:
    """Return JSON, or else the first dialect of it that there is (RFC 6839, section 3.1)."""
    known = holder.get("content", {})
    return _JSON if _JSON in known else next((one for one in known if one.endswith("+json")), None)


def _call(begin: str, arguments: list[str]) -> str:
    line = f"    {begin}{', '.join(arguments)})"
    return line if len(line) <= WIDTH else _broken(f"    {begin}", arguments, "    )", "    ")


def _broken(begin: str, parts: list[str], end: str, indent: str) -> str:
    return "\n".join([begin, *(f"{indent}    {part}," for part in parts), end])


def _head(service: str) -> str:
    return (
        f'"""The {service} service over HTTP, made by `covey client {service}` from its contract.\n\n'
        "Each function makes one request under the policy of `client`, and raises errors of covey.\n"
        '"""\n\nfrom __future__ import annotations\n'
    )


def _imports(body: str) -> str:
    """Return the imports of the names that the source mentions, in the order that ruff wants."""
    used: dict[str, list[str]] = {}
    for name, line in IMPORTS.items():
        if re.search(rf"\b{name}\b", body):
            used.setdefault(line.split(" import ")[0], []).append(name)
    order = {"datetime": 0, "typing": 0, "uuid": 0, "pydantic": 1, "covey.http.client": 2}
    groups: list[list[str]] = [[], [], []]
    for place, names in used.items():
        groups[order[place.removeprefix("from ")]].append(f"{place} import {', '.join(sorted(names))}")
    return "\n\n".join("\n".join(sorted(group)) for group in groups if group)
