"""PostgreSQL refuses to run as root, so covey runs it as somebody else, whoever starts it and wherever the files are.

Each of these tests runs for everybody. An ordinary user cannot become another, and need not: there PostgreSQL, and all
that a test runs as an ordinary user, runs as the one who runs the tests.
"""

from __future__ import annotations

import os
import pwd
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import psutil
import pytest

from covey.errors import ConfigurationError
from covey.local.engines.engine import RunningEngine, start
from covey.local.engines.placement import place
from covey.local.engines.postgres import PostgresServer
from covey.local.processes import run_as
from covey.local.state import StateFolder, open_state

_NOBODY = pwd.getpwnam("nobody")

_START_AND_STOP = """
import asyncio, os, pathlib, sys
from covey.local.engines.embedded import start_all
async def main():
    assert os.geteuid() != 0
    engines = await start_all(pathlib.Path(sys.argv[1]))
    print(engines.postgres_url)
    await engines.stop()
asyncio.run(main())
"""


@pytest.fixture
async def state(tmp_path: Path) -> AsyncIterator[StateFolder]:
    folder = await open_state(tmp_path)
    yield folder
    await folder.close()
    if (note := tmp_path / "postgres/elsewhere").exists():
        shutil.rmtree(note.read_text())


@pytest.fixture
def ordinary() -> str:
    """An identity that is an ordinary user's and reaches all that root has."""
    return "namespace" if os.geteuid() == 0 else ""


async def _select_one(engine: RunningEngine) -> object:
    connection = await asyncpg.connect(engine.url)
    try:
        return await connection.fetchval("SELECT 1")
    finally:
        await connection.close()


async def test_postgres_never_runs_as_root(state: StateFolder) -> None:
    engine = await start(state, "postgres", lambda port: PostgresServer(state.path / "postgres", port))

    assert await _select_one(engine) == 1
    assert psutil.Process(engine.pid).uids().effective != 0 or _uid_map(engine.pid) == ["1000", "0", "1"]


def _uid_map(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/uid_map").read_text().split()


def test_a_user_who_can_become_nobody_else_is_told_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="run as an ordinary user, or set COVEY_POSTGRES_ADMIN_URL"):
        place(tmp_path, tmp_path, tmp_path, identities=[])


def test_an_ordinary_user_starts_all_engines(ordinary: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": ":".join(sys.path), "COVEY_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-c", _START_AND_STOP, str(tmp_path / "state")]

    result = run_as(ordinary, command, tmp_path, environment)

    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("postgresql://postgres:")


async def test_postgres_runs_out_of_a_private_folder_as_who_it_may_be(state: StateFolder) -> None:
    """Root has it run as nobody, as where there are no user namespaces; an ordinary user as who that user is."""
    os.chmod(state.path, 0o700)  # noqa: PTH101 - nobody cannot even look inside

    engine = await start(state, "postgres", lambda port: _without_namespace(state, port))

    assert await _select_one(engine) == 1
    assert psutil.Process(engine.pid).uids().effective == (_NOBODY.pw_uid if os.geteuid() == 0 else os.geteuid())


async def test_data_of_postgres_survives_a_kill_whoever_it_runs_as(state: StateFolder) -> None:
    engine = await start(state, "postgres", lambda port: _without_namespace(state, port))
    connection = await asyncpg.connect(engine.url)
    await connection.execute("CREATE TABLE kept (x int)")
    engine.process.kill()
    await engine.process.wait()
    connection.terminate()

    engine = await start(state, "postgres", lambda port: _without_namespace(state, port))

    connection = await asyncpg.connect(engine.url)
    assert await connection.fetchval("SELECT count(*) FROM kept") == 0
    await connection.close()


def _without_namespace(state: StateFolder, port: int) -> PostgresServer:
    identity = f"{_NOBODY.pw_uid}:{_NOBODY.pw_gid}" if os.geteuid() == 0 else ""
    return PostgresServer(state.path / "postgres", port, identities=[identity])
