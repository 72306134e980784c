"""Tests replace nothing behind a program's back: fakes are handed in, engines are real (pitfall 23).

A mock agrees with whatever it is asked, also with a name that does not exist; so what passes with one says little.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MOCKING = {"mock", "unittest.mock", "pytest_mock", "asynctest"}
REPLACING = {"setattr", "delattr"}
"""What monkeypatch may not do. Environment, working directory and `sys.modules` are not ours to hand in otherwise."""


def sources() -> list[Path]:
    """Return every Python file that tests, or that helps tests."""
    folders = ("tests", "services/*/tests", "examples", "bench", "src/covey/testing")
    return sorted({file for folder in folders for file in ROOT.glob(f"{folder}/**/*.py")})


def mocks(source: str) -> Iterator[str]:
    """Yield each place at which something is mocked, and how."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names) if found := {alias.name for alias in names} & MOCKING:
                yield f"{node.lineno}: import {', '.join(found)}"
            case ast.ImportFrom(module=module, names=names):
                if module in MOCKING or {f"{module}.{alias.name}" for alias in names} & MOCKING:
                    yield f"{node.lineno}: from {module} import …"
            case ast.arg(arg="mocker" | "class_mocker" | "module_mocker" | "session_mocker" as name):
                yield f"{node.lineno}: the fixture {name}"
            case ast.Call(func=ast.Attribute(value=ast.Name(id=owner), attr=attr)):
                if attr in REPLACING and owner in {"monkeypatch", "mp", "patch"}:
                    yield f"{node.lineno}: {owner}.{attr}"


def test_no_test_mocks_anything() -> None:
    found = [f"{file.relative_to(ROOT)}:{place}" for file in sources() for place in mocks(file.read_text())]

    assert len(sources()) > 100
    assert not found


@pytest.mark.parametrize(
    "source",
    [
        "import unittest.mock",
        "from unittest import mock",
        "from unittest.mock import AsyncMock",
        "def test_x():\n    from mock import Mock",
        "def test_x(mocker): ...",
        "def test_x(monkeypatch):\n    monkeypatch.setattr('a.b', None)",
        "def test_x(monkeypatch):\n    monkeypatch.delattr(a, 'b')",
    ],
)
def test_one_that_did_would_be_found(source: str) -> None:
    assert list(mocks(source))


def test_what_belongs_to_the_process_may_be_set() -> None:
    assert not list(mocks("def test_x(monkeypatch):\n    monkeypatch.setenv('PORT', '1')\n    monkeypatch.chdir('/')"))
