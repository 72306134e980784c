"""Filters that clients write, such as `email = "ada@example.org" AND age >= 18`, as SQL that holds none of their text.

A small part of the language of AIP-160 (https://google.aip.dev/160): comparisons of declared fields with literals,
joined by AND. What comes out consists of declared columns, of operators from a table, and of numbered parameters; what
the client wrote is in the arguments alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

from covey.errors import Invalid

MAX_LENGTH = 1_000
MAX_COMPARISONS = 10

_COMPARISON = re.compile(
    r"\s*(?P<name>[a-z_][a-z0-9_]*)\s*(?P<operator><=|>=|!=|=|<|>)\s*"
    r'(?:"(?P<text>(?:[^"\\]|\\["\\])*)"|(?P<integer>-?[0-9]{1,18}))(?=\s|$)\s*'
)
_AND = re.compile(r"AND(?=\s)")
_ESCAPED = re.compile(r"\\(.)")

_SQL = {"=": "=", "!=": "IS DISTINCT FROM", "<": "<", "<=": "<=", ">": ">", ">=": ">="}


@dataclass(frozen=True, slots=True)
class Text:
    """A field that is compared for equality. `column` is SQL; `fold` does to a literal what it does to the column."""

    column: str
    fold: Callable[[str], str] = str


@dataclass(frozen=True, slots=True)
class Integer:
    """A field that has an order. `column` is SQL."""

    column: str


Fields = Mapping[str, Text | Integer]


class Condition(NamedTuple):
    """What stands behind WHERE, and the arguments of its parameters."""

    sql: str
    arguments: tuple[Any, ...]


def condition(text: str, fields: Fields, first: int) -> Condition:
    """Return a filter as SQL whose parameters are numbered from `first` on; without comparisons it is true of all.

    A field that has no value is not equal to any, and is in no order. Raises Invalid, which says where, for what is no
    filter of these fields, is longer than 1,000 characters, or has more than 10 comparisons.
    """
    if len(text) > MAX_LENGTH:
        _refuse(f"it has more than {MAX_LENGTH} characters")
    sql: list[str] = []
    arguments: list[Any] = []
    place = len(text) if not text.strip() else 0
    while place < len(text):
        if sql:
            joined = _AND.match(text, place) or _refuse(f"AND is expected at character {place + 1}")
            place = joined.end()
        found = _COMPARISON.match(text, place) or _refuse(
            f"a comparison with a text in double quotes or an integer is expected at character {place + 1}"
        )
        if len(sql) == MAX_COMPARISONS:
            _refuse(f"it has more than {MAX_COMPARISONS} comparisons")
        column, argument = _compared(found, fields)
        sql.append(f"{column} {_SQL[found['operator']]} ${first + len(arguments)}::{_type(argument)}")
        arguments.append(argument)
        place = found.end()
    return Condition(" AND ".join(sql) or "true", tuple(arguments))


def _compared(found: re.Match[str], fields: Fields) -> tuple[str, Any]:
    """Return the column and the value of a comparison."""
    where = f"at character {found.start('name') + 1}"
    field = fields.get(found["name"]) or _refuse(f"only {', '.join(fields)} can be compared, {where}")
    if isinstance(field, Integer):
        if found["integer"] is None:
            _refuse(f"{found['name']} is compared with an integer, {where}")
        return field.column, int(found["integer"])
    if found["text"] is None or found["operator"] not in ("=", "!="):
        _refuse(f"{found['name']} is compared by = or != with a text in double quotes, {where}")
    return field.column, field.fold(_ESCAPED.sub(r"\1", found["text"]))


def _type(argument: Any) -> str:
    return "bigint" if isinstance(argument, int) else "text"


def _refuse(what: str) -> NoReturn:
    raise Invalid(f"filter: {what}", [{"in": "query", "pointer": "#/filter", "what": what}])
