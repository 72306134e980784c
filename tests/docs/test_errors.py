"""The tree of errors that is drawn is the one that there is."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator

import covey
from covey import errors
from covey.errors import CoveyError

_LINE = re.compile(r"    (?P<lead>[│ ├└─]*)(?P<name>[A-Z]\w+)(?P<text>.*)")


def drawn() -> Iterator[tuple[str, str, str]]:
    """Yield name, parent and module of each error in the docstring."""
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        if found := _LINE.fullmatch(line):
            depth = len(found["lead"]) // 4
            path[depth:] = [found["name"]]
            module = re.search(r"\[([\w.]+)\]$", found["text"])
            yield found["name"], path[depth - 1] if depth else "", f"covey.{module[1] if module else 'errors'}"


def defined(error: type[CoveyError]) -> Iterator[tuple[str, str, str]]:
    """Yield name, parent and module of each error below one."""
    for child in error.__subclasses__():
        if child.__module__.startswith("covey."):
            yield child.__name__, error.__name__, child.__module__
            yield from defined(child)


def test_the_tree_of_errors_is_drawn_as_it_is() -> None:
    for module in pkgutil.walk_packages(covey.__path__, "covey."):
        if "alembic" not in module.name:
            importlib.import_module(module.name)

    assert sorted(drawn()) == sorted([("CoveyError", "", "covey.errors"), *defined(CoveyError)])
