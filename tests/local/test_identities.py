"""PostgreSQL refuses to run as root, so covey runs it as somebody else, whoever starts it and wherever the files are.

Which of these tests exist depends on who runs them: an ordinary user cannot become root, and need not.
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


if os.geteuid() == 0:
    _NOBODY = f"{pwd.getpwnam('nobody').pw_uid}:{pwd.getpwnam('nobody').pw_gid}"

    async def test_root_without_user_namespaces_runs_postgres_as_nobody_out_of_its_private_folder(
        state: StateFolder,
    ) -> None:
        os.chmod(state.path, 0o700)  # noqa: PTH101 - nobody cannot even look inside

        def make(port: int) -> PostgresServer:
            return PostgresServer(state.path / "postgres", port, identities=[_NOBODY])

        engine = await start(state, "postgres", make)

        assert await _select_one(engine) == 1
        assert psutil.Process(engine.pid).username() == "nobody"

    async def test_data_of_postgres_as_nobody_survives_a_kill(state: StateFolder) -> None:
        def make(port: int) -> PostgresServer:
            return PostgresServer(state.path / "postgres", port, identities=[_NOBODY])

        engine = await start(state, "postgres", make)
        connection = await asyncpg.connect(engine.url)
        await connection.execute("CREATE TABLE kept (x int)")
        engine.process.kill()
        await engine.process.wait()
        connection.terminate()

        engine = await start(state, "postgres", make)

        connection = await asyncpg.connect(engine.url)
        assert await connection.fetchval("SELECT count(*) FROM kept") == 0
        await connection.close()

    def test_an_ordinary_user_starts_all_engines(tmp_path: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": ":".join(sys.path), "COVEY_CACHE": str(tmp_path / "cache")}
        command = [sys.executable, "-c", _START_AND_STOP, str(tmp_path / "state")]

        result = run_as("namespace", command, tmp_path, environment)

        assert result.returncode == 0, result.stderr
        assert result.stdout.startswith("postgresql://postgres:")
