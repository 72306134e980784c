"""The schemas of a contract as Python: a class for each object, and an alias for what has only a name.

Classes come first, and then aliases, each behind those that it names: a class may mention what comes later, which
pydantic looks up when it is first used, but an alias is a value. Names that cannot stand in a module, or would stand in
it twice, get an underscore; in a class the field then has the name of the contract as its alias.
"""

from __future__ import annotations

import json
import keyword
import re
import textwrap
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel

K = TypeVar("K", bound=Hashable)

Schema = Mapping[str, Any]

WIDTH = 118
IMPORTS = {
    "UUID": "from uuid import UUID",
    "date": "from datetime import date",
    "Any": "from typing import Any",
    "Literal": "from typing import Literal",
    "BaseModel": "from pydantic import BaseModel",
    "ConfigDict": "from pydantic import ConfigDict",
    "Field": "from pydantic import Field",
    "AwareDatetime": "from pydantic import AwareDatetime",
    "HttpClient": "from covey.http.client import HttpClient",
    "segment": "from covey.http.client import segment",
}
_BUILT_IN = {"list", "dict", "str", "int", "float", "bool", "bytes", "object", "isinstance"}
TAKEN = frozenset({"client", "body", "key", "answer", "shown", "annotations", "_sent", *IMPORTS, *_BUILT_IN})
"""What a module says itself, so that nothing of a contract may be called so."""

_PREFIX = "#/components/schemas/"
_OF_MODELS = frozenset(dir(BaseModel))
_SCALARS = {"string": "str", "integer": "int", "number": "float", "boolean": "bool", "null": "None"}
_FORMATS = {"uuid": "UUID", "date-time": "AwareDatetime", "date": "date", "binary": "bytes"}


class Models:
    """The schemas that are used, by the names that they have in Python."""

    def __init__(self, schemas: Mapping[str, Schema], used: Collection[str]) -> None:
        self._schemas = {name: schema for name, schema in schemas.items() if name in used}
        self._names = distinct(self._schemas, _class_name, TAKEN)
        self._aliases = {name: self._target(name) for name in self._schemas if not _is_class(self._schemas[name])}

    @property
    def names(self) -> frozenset[str]:
        """Return what classes and aliases are called."""
        return frozenset(self._names.values())

    def classes(self) -> list[str]:
        """Return the source of each class."""
        return [self._class(name, schema) for name, schema in self._schemas.items() if _is_class(schema)]

    def aliases(self) -> list[str]:
        """Return a line for each alias."""
        found: dict[str, str] = {}
        for name in self._aliases:
            self._write(name, found, ())
        return list(found.values())

    def is_type(self, annotation: str) -> bool:
        """Tell whether mypy takes an annotation for a `type[T]`: a union, for example, is none."""
        of = {self._names[name]: target for name, target in self._aliases.items()}
        while annotation in of:
            annotation = of.pop(annotation)
        return not (annotation in ("Any", "None") or annotation.startswith("Literal") or " | " in annotation)

    def type_of(self, schema: Schema) -> str:
        """Return the annotation of a schema."""
        if "$ref" in schema:
            return self._names.get(schema["$ref"].removeprefix(_PREFIX), "Any")
        if "enum" in schema or "const" in schema:
            return _literal(schema.get("enum", [schema.get("const")]))
        for several in ("anyOf", "oneOf"):
            if several in schema:
                return " | ".join(dict.fromkeys(map(self.type_of, schema[several])))
        kind = schema.get("type")
        if kind == "array":
            return f"list[{self.type_of(schema.get('items', {}))}]"
        if kind == "object":
            values = schema.get("additionalProperties")
            return f"dict[str, {self.type_of(values) if isinstance(values, Mapping) else 'Any'}]"
        if kind == "string" and schema.get("format") in _FORMATS:
            return _FORMATS[schema["format"]]
        return _SCALARS.get(str(kind), "Any")

    def _target(self, name: str) -> str:
        return self.type_of(self._schemas[name])

    def _write(self, name: str, found: dict[str, str], within: tuple[str, ...]) -> None:
        """Write an alias behind those that it names. One that names itself is Any there: an alias cannot."""
        if name in found:
            return
        target = self._target(name)
        for other in dict.fromkeys(mentioned(self._schemas[name])):
            if other in (*within, name):
                target = re.sub(rf"\b{self._names[other]}\b", "Any", target)
            elif other in self._aliases:
                self._write(other, found, (*within, name))
        found[name] = f"{self._names[name]} = {target}"

    def _class(self, name: str, schema: Schema) -> str:
        required, properties = schema.get("required", ()), schema["properties"]
        names = distinct(properties, name_of, TAKEN | _OF_MODELS | self.names)
        fields = [self._field(key, names[key], one, key in required) for key, one in properties.items()]
        renamed = any("alias=" in one for one in fields)
        config = ["", "    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True)"] if renamed else []
        text = schema.get("description") or f"{name}."
        return "\n".join([f"class {self._names[name]}(BaseModel):", docstring(text), *config, "", *fields])

    def _field(self, key: str, name: str, schema: Schema, required: bool) -> str:
        kind, default = self.type_of(schema), schema.get("default")
        scalar = isinstance(default, bool | int | float | str) and "$ref" not in schema
        value = "" if required else literal(default) if scalar and kind in ("bool", "int", "float", "str") else "None"
        optional = "" if required or value != "None" or kind.endswith("None") or kind == "Any" else " | None"
        if name == key:
            return f"    {name}: {kind}{optional}" + (f" = {value}" if value else "")
        given = f", default={value}" if value else ""
        return f"    {name}: {kind}{optional} = Field(alias={literal(key)}{given})"


def distinct(
    wanted: Iterable[K], named: Callable[[K], str], taken: Collection[str], called: Mapping[K, str] | None = None
) -> dict[K, str]:
    """Return a name of Python for each of `wanted`, none `taken`, none twice. What fits as it is keeps its name.

    `called` names some beforehand.
    """
    found: dict[K, str] = dict(called or {})
    for one in sorted((one for one in wanted if one not in found), key=lambda one: named(one) != one):
        name = named(one)
        while name in taken or name in found.values():
            name += "_"
        found[one] = name
    return found


def mentioned(node: Any) -> Iterator[str]:
    """Yield the names of the schemas that something of a contract mentions."""
    if isinstance(node, Mapping):
        if isinstance(reference := node.get("$ref"), str):
            yield reference.removeprefix(_PREFIX)
        node = list(node.values())
    if isinstance(node, list):
        for one in node:
            yield from mentioned(one)


def name_of(text: str) -> str:
    """Return a name of Python for one that is something else's."""
    name = re.sub(r"\W+", "_", text).strip("_").lower() if not text.isidentifier() else text.lstrip("_")
    return _possible(name)


def literal(value: object) -> str:
    """Return a literal as ruff writes it."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def docstring(text: str) -> str:
    """Return a docstring, indented."""
    first = " ".join(text.replace("\\", "\\\\").replace('"""', "'''").split())
    lines = textwrap.wrap(first, WIDTH - 14) or [""]
    lines[-1] += " " * lines[-1].endswith('"')  # or the quotes that end it would come one too early
    quoted = ['    """' + lines[0], *(f"    {line}" for line in lines[1:])]
    return "\n".join([*quoted[:-1], quoted[-1] + '"""'] if len(quoted) == 1 else [*quoted, '    """'])


def _class_name(text: str) -> str:
    return _possible(re.sub(r"\W+", "_", text).strip("_"))


def _possible(name: str) -> str:
    name = f"n{name}" if not name or name[0].isdigit() else name
    return f"{name}_" if keyword.iskeyword(name) else name


def _is_class(schema: Schema) -> bool:
    return "properties" in schema


def _literal(values: list[Any]) -> str:
    """Return the type of a few values; of numbers with a point there is none (PEP 586)."""
    if not all(value is None or isinstance(value, str | int) for value in values):
        return "Any"
    return f"Literal[{', '.join(map(literal, values))}]"
