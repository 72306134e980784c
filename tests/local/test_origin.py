"""A state folder that was copied with its project: another system, which leaves the first one alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from covey.local.engines.embedded import start_all
from covey.local.environment import read_environment, write_environment
from covey.local.launcher import birth
from covey.local.origin import copied, settle
from covey.local.processes import read_records
from covey.local.running import running_system
from covey.local.state import killed_supervisor_of, open_state, records_of


def covey(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a `covey` command there, to its end."""
    command = [sys.executable, "-m", "covey.cli", *arguments]
    return subprocess.run(command, cwd=folder, env=os.environ, capture_output=True, text=True, check=False)


def copy_of(root: Path, to: Path) -> Path:
    """Copy a folder as `cp -r` does while files in it come and go."""
    subprocess.run(["cp", "-R", str(root), str(to)], check=False, stderr=subprocess.DEVNULL)
    return to


async def test_of_a_system_that_is_up_signals_none_of_its_processes(
    system_root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    async with running_system(system_root) as first:
        copy = copy_of(system_root, tmp_path_factory.mktemp("copies") / "copy")
        pids = {name: unit.pid for name, unit in first.units.items()}

        assert covey(copy, "status").returncode == 3
        down = covey(copy, "down")
        assert down.returncode == 0
        assert f"{copy}/.covey is a copy of {system_root}/.covey" in down.stdout
        assert "set-aside" in down.stdout
        async with running_system(copy) as second:
            assert set(second.units) == set(first.units)
            assert not {unit.pid for unit in second.units.values()} & set(pids.values())
            assert not {unit.url for unit in second.units.values()} & {unit.url for unit in first.units.values()}

        assert {name: unit.pid for name, unit in first.units.items()} == pids
        assert {unit.restarts for unit in first.units.values()} == {0}
    assert (copy / ".covey/set-aside/postgres").is_dir()


async def test_up_says_that_it_is_a_copy_and_what_becomes_of_the_data(system_root: Path, tmp_path: Path) -> None:
    await (await open_state(system_root / ".covey")).close()
    (system_root / "services/alpha/alpha_service/__main__.py").write_text("raise SystemExit('not today')")
    copy = shutil.copytree(system_root, tmp_path / "copy", ignore=shutil.ignore_patterns("copy"))

    up = covey(copy, "up")

    assert f"{copy}/.covey is a copy of {system_root}/.covey: processes and ports on record there" in up.stdout
    assert "the data are kept" in up.stdout


def test_tells_nobody_how_to_reach_the_original(tmp_path: Path) -> None:
    folder = made(tmp_path / "state")
    write_environment(folder, "order", {"DATABASE_URL": "of the original"})
    copy = shutil.copytree(folder, tmp_path / "copy")

    assert read_environment(folder, "order") == {"DATABASE_URL": "of the original"}
    with pytest.raises(FileNotFoundError):
        read_environment(copy, "order")


async def test_of_engines_at_rest_keeps_their_data_and_none_of_their_ports(tmp_path: Path) -> None:
    engines = await start_all(tmp_path / "first")
    with psycopg.connect(engines.postgres_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS x")
    await engines.stop()
    shutil.copytree(tmp_path / "first", tmp_path / "second")

    engines, others = await start_all(tmp_path / "first"), await start_all(tmp_path / "second")

    try:
        with psycopg.connect(others.postgres_url) as connection:
            assert connection.execute("SELECT x FROM kept").fetchall() == [(1,)]
        assert others.postgres_url != engines.postgres_url
        assert "second" in str(others.postgres.program.prepare().folder)
    finally:
        await others.stop()
        await engines.stop()


async def test_what_is_on_record_there_is_nobodys(tmp_path: Path, stranger: subprocess.Popen[bytes]) -> None:
    folder = tmp_path / "state"
    await (await open_state(folder)).close()
    of_another = {"pid": stranger.pid, "birth": birth(stranger.pid), "home": "1:1"}
    record = {"name": "alpha", "rank": 1, "stop": 15, "command": ["sleep"], **of_another}
    (records_of(folder) / "alpha.json").write_text(json.dumps(record))
    (folder / "lock").write_text(json.dumps({**of_another, "birth": "long ago"}))

    assert read_records(records_of(folder)) == []
    assert killed_supervisor_of(folder) is None
    await (await open_state(folder)).close()

    assert list(records_of(folder).iterdir()) == []
    assert stranger.poll() is None


def made(folder: Path) -> Path:
    """Make a state folder with data, at home where it is."""
    for path in ("processes", "env", "postgres/cluster/data", "nats"):
        (folder / path).mkdir(parents=True)
    (folder / "nats/message").write_text("1")
    (folder / "ports.json").write_text('{"nats": 4222}')
    (folder / "secrets.json").write_text('{"nats": "secret"}')
    settle(folder)
    return folder


def test_where_it_was_made_is_none(tmp_path: Path) -> None:
    folder = made(tmp_path / "state")

    assert copied(folder) is None
    assert settle(folder) is None
    assert (folder / "ports.json").exists()


def test_that_was_moved_is_none(tmp_path: Path) -> None:
    folder = made(tmp_path / "state").rename(tmp_path / "moved")

    assert settle(folder) is None
    assert json.loads((folder / "home.json").read_text())["path"] == str(folder)


def test_is_none_after_a_reboot_that_has_renumbered_the_device(tmp_path: Path) -> None:
    folder = made(tmp_path / "state")
    home = json.loads((folder / "home.json").read_text())
    (folder / "home.json").write_text(json.dumps({**home, "device": home["device"] + 1}))

    assert copied(folder) is None


@pytest.mark.parametrize("text", ["", "[]", "{", '{"path": 1}'])
def test_that_says_nothing_of_its_home_is_none(tmp_path: Path, text: str) -> None:
    folder = made(tmp_path / "state")
    (folder / "home.json").write_text(text)

    assert settle(folder) is None
    assert settle(folder) is None


def test_names_no_data_outside_of_it_and_no_server(tmp_path: Path) -> None:
    folder = made(tmp_path / "state")
    (folder / "postgres/elsewhere").write_text("/var/tmp/of-the-original")
    (folder / "postgres/cluster/data/postmaster.pid").write_text(f"{os.getpid()}\n")
    (folder / "env/alpha.env").write_text("DATABASE_URL=of the original\n")
    copy = shutil.copytree(folder, tmp_path / "copy")

    found = settle(copy)

    assert found is not None
    assert (found.origin, found.aside) == (folder, None)
    left = {str(path.relative_to(copy)) for path in copy.rglob("*") if path.is_file()}
    assert left == {"home.json", "secrets.json", "nats/message", "postgres/elsewhere-of-the-original"}
    assert "but for PostgreSQL, which begins empty: the original's are in /var/tmp/of-the-original" in str(found)
    assert settle(copy) is None


def test_restored_in_its_own_place_keeps_its_data_outside(tmp_path: Path) -> None:
    folder = made(tmp_path / "state")
    (folder / "postgres/elsewhere").write_text("/var/tmp/its-own")
    backup = shutil.copytree(folder, tmp_path / "backup")
    folder.rename(tmp_path / "lost")
    shutil.copytree(backup, folder)

    found = settle(folder)

    assert found is not None
    assert (folder / "postgres/elsewhere").read_text() == "/var/tmp/its-own"
    assert str(found).endswith("the data are kept")


def test_that_shares_data_by_a_link_leaves_the_lock_of_the_server_that_runs_on_them(tmp_path: Path) -> None:
    folder = made(tmp_path / "state")
    (folder / "postgres").rename(tmp_path / "large-disk")
    (folder / "postgres").symlink_to(tmp_path / "large-disk")
    copy = shutil.copytree(folder, tmp_path / "copy", symlinks=True)
    (tmp_path / "large-disk/cluster/data/postmaster.pid").write_text(f"{os.getpid()}\n")

    assert settle(copy) is not None

    assert (folder / "postgres/cluster/data/postmaster.pid").exists()


def test_made_while_it_was_in_use_has_its_data_set_aside_each_time(tmp_path: Path) -> None:
    folder = made(tmp_path / "state")
    (folder / "processes/nats.json").write_text("{}")
    first = shutil.copytree(folder, tmp_path / "first")
    settle(first)
    (first / "nats").mkdir()
    (first / "processes/nats.json").write_text("{}")
    second = shutil.copytree(first, tmp_path / "second")

    settle(second)

    assert (second / "set-aside/nats/message").exists()
    assert (second / "set-aside-2/nats").is_dir()
    assert not (second / "nats").exists()
