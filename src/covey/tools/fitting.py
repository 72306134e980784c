"""Whether what one service writes can be read by another: two JSON Schemas compared, without an example.

Held are names, types, formats, enumerations, what is required and what may be null: all that a change of a model
breaks. Not held are ranges, lengths and patterns, for a writer's model seldom says them and its values keep them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Side:
    """A schema inside its document, which `$ref` points into."""

    schema: Any
    document: dict[str, Any]

    def at(self, schema: Any) -> Side:
        """Return another schema of the same document, what it refers to in its place."""
        seen = 0
        while isinstance(schema, dict) and "$ref" in schema and seen < 32:
            schema, seen = self._target(schema["$ref"]), seen + 1
        return replace(self, schema=schema)

    def choices(self) -> list[Side]:
        """Return what it may be: the branches of a union, one for each type; itself if it is no union."""
        schema = self.schema
        if not isinstance(schema, dict):
            return [self]
        if "allOf" in schema:
            return replace(self, schema=self._merged(schema)).choices()
        for union in ("anyOf", "oneOf"):
            if union in schema:
                return [choice for branch in schema[union] for choice in self.at(branch).choices()]
        if isinstance(schema.get("type"), list):
            return [replace(self, schema={**schema, "type": name}) for name in schema["type"]]
        return [self]

    def values_apart(self) -> list[Side]:
        """Return it once for each value of its enumeration, for the branches of a union may have a value each."""
        return [replace(self, schema={"const": value}) for value in _values(self) or []] or [self]

    def _merged(self, schema: dict[str, Any]) -> dict[str, Any]:
        """Return a schema and all that it has to be besides (`allOf`) as one."""
        merged = {name: part for name, part in schema.items() if name != "allOf"}
        for branch in schema.get("allOf", []):
            part = self._merged(self.at(branch).schema)
            fields = {**part.get("properties", {}), **merged.get("properties", {})}
            required = [*part.get("required", []), *merged.get("required", [])]
            merged = {**part, **merged, **({"properties": fields, "required": required} if fields else {})}
        return merged

    def _target(self, reference: str) -> Any:
        found: Any = self.document
        for step in reference.removeprefix("#/").split("/"):
            found = found[step.replace("~1", "/").replace("~0", "~")]
        return found


def misfits(written: Side, read: Side, path: str = "") -> Iterator[str]:
    """Yield every way in which something that `written` allows is nothing that `read` takes, with its place."""
    yield from _misfits(written.at(written.schema), read.at(read.schema), path, frozenset())


Seen = frozenset[tuple[int, int]]


def _misfits(written: Side, read: Side, path: str, seen: Seen) -> Iterator[str]:
    pair = (id(written.schema), id(read.schema))
    if pair in seen:
        return
    taken = read.choices()
    choices = written.choices()
    if len(taken) > 1:
        choices = [value for choice in choices for value in choice.values_apart()]
    for choice in choices:
        found = [list(_one(choice, other, path, seen | {pair})) for other in taken]
        if all(found):
            yield from _why(choice, taken, found, path)


def _why(choice: Side, taken: list[Side], found: list[list[str]], path: str) -> Iterator[str]:
    """Say what is wrong with a choice that none of those taken fits: in detail, if it can only be meant for one."""
    alike = [(other, why) for other, why in zip(taken, found, strict=True) if _type(other) == _type(choice)]
    if len(alike) > 1:
        alike = [(other, why) for other, why in alike if _tagged_alike(choice, other)]
    if _type(choice) == "null":
        yield _say(path, "it may be null, and null is not read")
    elif len(alike) == 1:
        yield from alike[0][1]
    elif len(named := [other for other in taken if _type(other) != "null"]) == 1:
        yield _say(path, f"it is {_shown(choice)}, and {_shown(named[0])} is read")
    else:
        yield _say(path, f"it may be {_shown(choice)}, and only {' or '.join(map(_shown, taken))} is read")


def _tagged_alike(written: Side, read: Side) -> bool:
    """Tell whether no tag (`kind`) says that two branches of unions are for different things."""
    ours, theirs = (side.schema.get("properties", {}) for side in (written, read))
    tags = [(_values(written.at(ours[name])), _values(read.at(theirs[name]))) for name in ours.keys() & theirs.keys()]
    return all(any(value in known for value in values) for values, known in tags if values and known)


def _one(written: Side, read: Side, path: str, seen: Seen) -> Iterator[str]:
    """Compare two schemas that are no unions. One that names neither type nor values takes anything."""
    if not _type(read) and _values(read) is None:
        return
    if _values(read) is not None:
        yield from _value_misfits(written, read, path)
    elif not _same_type(written, read):
        yield _say(path, f"it is {_shown(written)}, and {_shown(read)} is read")
    elif _type(read) == "object":
        yield from _object_misfits(written, read, path, seen)
    elif _type(read) == "array":
        yield from _array_misfits(written, read, path, seen)


def _value_misfits(written: Side, read: Side, path: str) -> Iterator[str]:
    values, known = _values(written), _values(read) or []
    if values is None:
        yield _say(path, f"it may be any {_type(written) or 'value'}, and only {_list(known)} is read")
    elif unknown := [value for value in values if value not in known]:
        yield _say(path, f"it may be {_list(unknown)}, and only {_list(known)} is read")


def _same_type(written: Side, read: Side) -> bool:
    ours, theirs = _type(written), _type(read)
    if ours != theirs and (ours, theirs) != ("integer", "number"):
        return False
    expected = read.schema.get("format")
    return theirs != "string" or expected is None or written.schema.get("format") == expected


def _object_misfits(written: Side, read: Side, path: str, seen: Seen) -> Iterator[str]:
    """Compare field by field; `*` is a field of any other name, which a mapping has."""
    ours, theirs = written.schema.get("properties", {}), read.schema.get("properties", {})
    rest, others = written.schema.get("additionalProperties", False), read.schema.get("additionalProperties", True)
    yield from _absent(written, read, path)
    for name in dict.fromkeys([*ours, *(theirs if rest is not False else ())]):
        if name not in theirs and others is False:
            yield _say(f"{path}.{name}", "it is sent, and what is not known is forbidden")
        else:
            yield from _misfits(
                written.at(ours.get(name, rest)), read.at(theirs.get(name, others)), f"{path}.{name}", seen
            )
    if rest is not False and others is False:
        yield _say(f"{path}.*", "it may be sent, and what is not known is forbidden")
    elif rest is not False:
        yield from _misfits(written.at(rest), read.at(others), f"{path}.*", seen)


def _absent(written: Side, read: Side, path: str) -> Iterator[str]:
    for name in read.schema.get("required", []):
        if name not in written.schema.get("properties", {}):
            yield _say(f"{path}.{name}", "it is required, and is not sent")
        elif name not in written.schema.get("required", []):
            yield _say(f"{path}.{name}", "it is required, and may be absent")


def _array_misfits(written: Side, read: Side, path: str, seen: Seen) -> Iterator[str]:
    """Compare place by place as far as either has places (a tuple), then the rest."""
    ours, theirs = written.schema.get("prefixItems", []), read.schema.get("prefixItems", [])
    more, others = written.schema.get("items", not ours), read.schema.get("items", not theirs)
    for place in range(max(len(ours), len(theirs))):
        mine = ours[place] if place < len(ours) else more
        other = theirs[place] if place < len(theirs) else others
        if mine is False and place < read.schema.get("minItems", 0):
            yield _say(f"{path}[{place}]", "it is required, and is not sent")
        elif mine is not False and other is False:
            yield _say(f"{path}[{place}]", "it is sent, and what is not known is forbidden")
        elif mine is not False:
            yield from _misfits(written.at(mine), read.at(other), f"{path}[{place}]", seen)
    if more is not False and others is not False:
        yield from _misfits(written.at(more), read.at(others), f"{path}[]", seen)


def _values(side: Side) -> list[Any] | None:
    if not isinstance(side.schema, dict):
        return None
    return [side.schema["const"]] if "const" in side.schema else side.schema.get("enum")


def _type(side: Side) -> str:
    """Return the type of a schema; of one that names none that of its values, if they are of one, or of its parts."""
    if not isinstance(side.schema, dict):
        return ""
    if "type" not in side.schema:
        for kind, parts in _PARTS.items():
            if not parts.isdisjoint(side.schema):
                return kind
    named = {_NAMES.get(type(value), "") for value in _values(side) or []}
    return str(side.schema.get("type") or (named.pop() if len(named) == 1 else ""))


_PARTS = {
    "object": {"properties", "required", "additionalProperties"},
    "array": {"items", "prefixItems"},
}
_NAMES = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}


def _shown(side: Side) -> str:
    values, kind = _values(side), _type(side)
    if values is not None:
        return _list(values)
    if kind == "object":
        return str(side.schema.get("title", kind))
    return f"{kind} ({side.schema['format']})" if kind and "format" in side.schema else kind or "anything"


def _list(values: list[Any]) -> str:
    return ", ".join(map(repr, values))


def _say(path: str, what: str) -> str:
    return f"{path.removeprefix('.') or 'the whole'}: {what}"
