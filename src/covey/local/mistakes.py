"""Say what is wrong with a TOML file so that its reader finds the place and knows what to write instead."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from itertools import takewhile

from pydantic import BaseModel
from pydantic_core import ErrorDetails

Keys = tuple[str, ...]

_KEY = re.compile(r"[A-Za-z0-9_-]+")
_EXPECTED = {
    "string_type": "it must be a text: write it in quotes",
    "dict_type": "it must be a table",
    "list_type": "it must be a list",
    "model_type": "it must be a table",
}
_ASSIGNED = re.compile(r"""([A-Za-z0-9_-]+)["']?\s*=""")


def explain(
    text: str, detail: ErrorDetails, model_at: Callable[[Keys], type[BaseModel]], patterns: Mapping[str, str]
) -> str:
    """Return one line for one mistake that pydantic found: where, which key, what is wrong.

    `model_at` names the model of a table, `patterns` says in words what a regular expression demands.
    """
    path = tuple(str(part) for part in detail["loc"] if part != "[key]")
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "extra_forbidden":
        message = f"there is no such key{_suggestion(path[-1], model_at(path[:-1]))}"
    elif detail["type"] == "missing":
        message = "it is missing"
    elif detail["type"] == "string_pattern_mismatch":
        message = patterns[detail["ctx"]["pattern"]]
    elif detail["type"] in _EXPECTED:
        message = _EXPECTED[detail["type"]]
    return f"line {line_of(text, path)}: {'.'.join(path) + ': ' if path else ''}{message}"


def _suggestion(key: str, model: type[BaseModel]) -> str:
    known = sorted(name for name, field in model.model_fields.items() if not field.exclude)
    close = get_close_matches(key, known, 1)
    return f", did you mean {close[0]!r}?" if close else f": known are {', '.join(known)}"


def line_of(text: str, path: Keys) -> int:
    """Return the first line that says most of this path; TOML's reader keeps no positions."""
    best, found = 0, 1
    table: Keys = ()
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("["):
            table = tuple(_KEY.findall(line))
        depth = max(_shared(keys, path) for keys in _said(table, line))
        if depth > best:
            best, found = depth, number
    return found


def _said(table: Keys, line: str) -> list[Keys]:
    """Return the paths that a line sets: `env = { A = 1, B = 2 }` says env, env.A and env.B."""
    names = [match[1] for match in _ASSIGNED.finditer(line)]
    return [table, *((*table, name) for name in names[:1]), *((*table, names[0], name) for name in names[1:])]


def _shared(keys: Keys, path: Keys) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(keys, path, strict=False)))
