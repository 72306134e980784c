"""The examples as modules, loaded from where they stand: they are installed nowhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="session")
def crm() -> Iterator[ModuleType]:
    """The app of `examples/existing-fastapi`."""
    folder = str(EXAMPLES / "existing-fastapi")
    sys.path.insert(0, folder)
    yield import_module("crm")
    sys.path.remove(folder)
