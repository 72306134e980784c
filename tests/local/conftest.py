"""Engines for the tests of this folder: started once, an empty database for each test that asks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from covey.database.administration import ensure_database
from covey.ids import new_id
from covey.local.engines.embedded import Engines, start_all


@pytest.fixture(scope="session")
def local_engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    """Three engines, started by the code under test."""
    engines = asyncio.run(start_all(tmp_path_factory.mktemp("engines")))
    yield engines
    asyncio.run(engines.stop())


@pytest.fixture
def make_database(local_engines: Engines) -> Callable[[], str]:
    """A function that makes an empty database with a role of its own and returns its URL."""

    def make() -> str:
        return asyncio.run(ensure_database(local_engines.postgres_url, f"test_{new_id().hex}", "secret"))

    return make


@pytest.fixture
def write_files(tmp_path: Path) -> Callable[[dict[str, str]], Path]:
    """A function that writes files by name and returns their folder."""

    def write(files: dict[str, str]) -> Path:
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return tmp_path

    return write
