"""The systems of one user, wherever they are: found, and ended all at once, with nothing left."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from urllib.request import urlopen

import psutil
import psycopg
import pytest

from covey.local.engines.placement import cache_folder
from covey.local.processes import Record, read_records
from covey.local.registry import registered, running_systems
from covey.local.state import StateFolder, open_state, records_of
from covey.local.status import read_status

Covey = Callable[..., subprocess.Popen[str]]


def told_by(process: subprocess.Popen[str]) -> str:
    """Wait until a command has ended well; return what it printed."""
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    return output


def until_up(process: subprocess.Popen[str]) -> None:
    """Read what `covey up` prints until it is up."""
    assert process.stdout is not None
    assert any("covey down" in line for line in process.stdout)


def eventually(condition: Callable[[], object]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache of this test's own, so that it ends nobody else's system. The template of databases is in it."""
    (tmp_path / "cache").mkdir()
    for entry in cache_folder().iterdir():
        if entry.name != "systems":
            (tmp_path / "cache" / entry.name).symlink_to(entry)
    return tmp_path / "cache"


@pytest.fixture
async def state(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[StateFolder]:
    """A state folder that is held, of a system whose notes go into that cache."""
    monkeypatch.setenv("COVEY_CACHE", str(cache))
    folder = await open_state(tmp_path / "state")
    yield folder
    await folder.close()


@pytest.fixture
def covey(given: Mapping[str, str], cache: Path) -> Iterator[Covey]:
    """A function that calls `covey` in a folder."""
    called: list[subprocess.Popen[str]] = []

    def call(folder: Path, *arguments: str, environment: Mapping[str, str] = given) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "covey.cli", *arguments],
            cwd=folder,
            env={**environment, "COVEY_CACHE": str(cache)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        called.append(process)
        return process

    yield call
    for process in called:
        process.kill()
        process.communicate()


@pytest.fixture
def roots(system_root: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two systems, each with a folder and a name of its own."""
    other = tmp_path_factory.mktemp("systems") / "other"
    shutil.copytree(system_root, other, ignore=shutil.ignore_patterns("cache"))
    file = other / "covey.toml"
    file.write_text(file.read_text().replace('name = "test-', 'name = "other-'))
    return [system_root, other]


def records(root: Path) -> list[Record]:
    return read_records(records_of(root / ".covey"))


def told_to_alpha(state: Path) -> dict[str, str]:
    """Ask the service of the system that is up from that state folder what is in its environment."""
    status = read_status(state)
    assert status is not None
    (alpha,) = (unit for unit in status.units if unit.name == "alpha")
    with urlopen(f"{alpha.url}/environment", timeout=5) as answer:
        found: dict[str, str] = json.load(answer)
        return found


def shared_memory_of(record: Record) -> list[Path]:
    """Return the files in shared memory that a process has open."""
    found = re.findall(r"/dev/shm/\S+", Path(f"/proc/{record.pid}/maps").read_text())
    return [Path(path) for path in dict.fromkeys(found)]


def test_all_are_ended_at_once_whatever_their_folder_and_state(
    covey: Covey, roots: list[Path], tmp_path: Path, cache: Path
) -> None:
    up, orphaned = covey(roots[0], "up", environment=os.environ), covey(roots[1], "up")
    until_up(up)
    until_up(orphaned)
    running = [record for root in roots for record in records(root)]
    memory = [path for record in running if record.name == "postgres" for path in shared_memory_of(record)]
    for guardian in psutil.Process(orphaned.pid).children():
        if "covey.local.guardian" in guardian.cmdline():
            guardian.kill()
    orphaned.kill()
    orphaned.wait()

    listed = told_by(covey(tmp_path, "status", "--all"))
    told = told_by(covey(tmp_path, "down", "--all"))

    assert [str(root / ".covey") in listed for root in roots] == [True, True]
    assert re.search(rf"^test-\w+ \({roots[0]}/.covey\): stopped$", told, re.MULTILINE)
    assert re.search(
        rf"^other-\w+ \({roots[1]}/.covey\): .* ended what was left of it: alpha, beta", told, re.MULTILINE
    )
    assert len(running) == 9
    assert not any(record.running() for record in running)
    assert up.wait(15) == 0
    assert sys.platform != "linux" or memory
    assert not any(path.exists() for path in memory)
    assert list((cache / "systems").iterdir()) == []
    assert told_by(covey(tmp_path, "down", "--all")) == "no system of yours is up\n"
    assert told_by(covey(tmp_path, "status", "--all")) == "no system of yours is up\n"


def test_one_that_nobody_supervises_any_more_is_gone_from_the_list_once_its_guardian_is_done(
    covey: Covey, roots: list[Path], cache: Path
) -> None:
    up = covey(roots[0], "up")
    until_up(up)
    running = records(roots[0])
    up.kill()
    eventually(lambda: not any(record.running() for record in running))
    assert len(list((cache / "systems").iterdir())) == 1

    assert told_by(covey(roots[0], "status", "--all", "--json")) == "[]\n"

    assert list((cache / "systems").iterdir()) == []


def test_down_returns_when_the_guardian_of_a_supervisor_that_it_ended_is_done(covey: Covey, roots: list[Path]) -> None:
    up = covey(roots[0], "up")
    until_up(up)
    running = records(roots[0])
    os.kill(up.pid, signal.SIGSTOP)  # it cannot stop in order, and is then killed

    down = covey(roots[0], "down")
    eventually(lambda: psutil.Process(up.pid).status() == psutil.STATUS_STOPPED)
    up.kill()
    up.wait()

    assert told_by(down)
    assert not any(record.running() for record in running)


def test_of_one_folder_as_many_run_side_by_side_as_have_a_state_folder(
    covey: Covey, system_root: Path, cache: Path
) -> None:
    def of(name: str) -> dict[str, str]:
        return {**os.environ, "COVEY_STATE": name}

    names = [".covey-main", "branches/other"]
    ups = [covey(system_root, "up", environment=of(name)) for name in names]
    for up in ups:
        until_up(up)
    first, second = (told_to_alpha(system_root / name) for name in names)
    own = ("PORT", "GRPC_PORT", "DATABASE_URL", "NATS_URL", "VALKEY_URL", "DEVELOPMENT_KEY", "PEER", "COVEY_STATE")

    assert [name for name in own if first[name] == second[name]] == []
    assert [told["COVEY_STATE"] for told in (first, second)] == [str(system_root / name) for name in names]
    with psycopg.connect(first["DATABASE_URL"]) as one, psycopg.connect(second["DATABASE_URL"]) as other:
        one.execute("INSERT INTO thing VALUES (1)")
        one.commit()
        assert other.execute("SELECT * FROM thing").fetchall() == []
    assert not (system_root / ".covey").exists()

    assert told_by(covey(system_root, "down", environment=of(names[0]))) == "stopped\n"

    assert ups[0].wait(15) == 0
    assert told_to_alpha(system_root / names[1]) == second
    assert covey(system_root, "status", environment=of(names[0])).wait(15) == 3
    assert "alpha" in told_by(covey(system_root, "status", environment=of(names[1])))
    again = covey(system_root, "up", environment=of(names[0]))
    until_up(again)
    assert {name: told_to_alpha(system_root / names[0])[name] for name in own} == {name: first[name] for name in own}

    down = told_by(covey(system_root, "down", "--all"))

    assert sorted(line.partition(" ")[2] for line in down.splitlines()) == [
        f"({system_root}/{name}): stopped" for name in names
    ]
    assert [up.wait(15) for up in (again, ups[1])] == [0, 0]
    assert [record for name in names for record in read_records(records_of(system_root / name))] == []


async def test_a_note_that_cannot_be_read_is_no_obstacle(cache: Path, state: StateFolder) -> None:
    (cache / "systems").mkdir()
    (cache / "systems/torn.json").write_text('{"system": ')
    (cache / "systems/strange.json").write_text(json.dumps({"system": "x", "state": 5}))

    with registered("shop", state.path):
        assert [(one.system, one.state, one.supervisor) for one in running_systems()] == [
            ("shop", state.path, os.getpid())
        ]
        assert [path.name for path in (cache / "systems").iterdir() if path.stem in ("torn", "strange")] == []

    assert running_systems() == []


@pytest.mark.parametrize("place", [".", "systems"])
async def test_a_list_that_cannot_be_kept_keeps_no_system_from_coming_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("COVEY_CACHE", str(cache))
    (cache / place).parent.mkdir(exist_ok=True)
    (cache / place).write_text("no folder")
    state = await open_state(tmp_path / "state")

    with registered("shop", state.path):
        assert (cache / place).is_file()

    assert (cache / place).is_file()
    await state.close()


async def test_a_note_of_a_place_that_cannot_be_looked_at_is_no_obstacle(
    cache: Path, state: StateFolder, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    (cache / "systems/folder.json").mkdir(parents=True)
    note = {"system": "other", "state": str(tmp_path / "file/.covey"), "supervisor": 1, "birth": "long ago"}
    (cache / "systems/other.json").write_text(json.dumps(note))

    with registered("shop", state.path):
        assert [one.system for one in running_systems()] == ["shop"]


def give_to_another_user(note: Path) -> None:
    """Have a note be somebody else's. Only root can give a file away; others find a file of root's in its place."""
    if os.geteuid() == 0:
        os.chown(note, 65_534, 65_534)
    else:
        note.unlink()
        note.symlink_to("/etc/passwd")


async def test_a_system_of_another_user_in_a_shared_folder_is_not_on_the_list(cache: Path, state: StateFolder) -> None:
    with registered("shop", state.path):
        (note,) = (cache / "systems").iterdir()
        give_to_another_user(note)

        assert running_systems() == []
        assert note.exists(), "a note that is somebody else's was taken for one that means nothing, and removed"


async def test_who_ends_leaves_the_note_of_a_system_that_stands_in_the_same_place_by_now(
    cache: Path, state: StateFolder
) -> None:
    with registered("shop", state.path):
        (note,) = (cache / "systems").iterdir()
        successor = {**json.loads(note.read_text()), "supervisor": os.getppid()}
        note.write_text(json.dumps(successor))  # an inode that is free is soon another folder's

    assert json.loads(note.read_text()) == successor


async def test_a_note_that_was_left_of_a_folder_does_not_mean_who_has_come_there(
    cache: Path, state: StateFolder
) -> None:
    # The folder is somebody else's by now: root could end what is there.
    (cache / "systems").mkdir()
    note = {"system": "gone", "state": str(state.path), "supervisor": 2**22 + 1, "birth": "long ago"}
    (cache / "systems/gone.json").write_text(json.dumps(note))

    assert running_systems() == []

    assert list((cache / "systems").iterdir()) == []
