"""Which state folder a system has: the one that is named, unless that is something else."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from covey.errors import ConfigurationError
from covey.local.chosen import state_folder
from covey.local.environment import write_environment
from covey.local.reload import reload_on_change
from covey.local.running import UpOptions, running_system
from covey.local.state import hide, open_state, supervisor_of

WriteFiles = Callable[[dict[str, str]], Path]

LOAD = """
from covey.settings import ServiceSettings, load
print(load(ServiceSettings, "shop").port)
"""


def named(state: str | Path) -> dict[str, str]:
    return {"COVEY_STATE": str(state)}


def covey(folder: Path, environment: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a `covey` command there, to its end."""
    command = [sys.executable, "-m", "covey.cli", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_it_is_the_one_that_is_named_seen_from_the_system_file(tmp_path: Path) -> None:
    assert state_folder(tmp_path, {}) == tmp_path / ".covey"
    assert state_folder(tmp_path, named("")) == tmp_path / ".covey"
    assert state_folder(tmp_path, named(".covey-feature/x")) == tmp_path / ".covey-feature/x"
    assert state_folder(tmp_path, named("/var/tmp/x")) == Path("/var/tmp/x")


def test_a_file_is_none(write_files: WriteFiles) -> None:
    root = write_files({"state": ""})

    with pytest.raises(ConfigurationError, match=r"/state is no folder: set COVEY_STATE to a folder .*not there yet"):
        state_folder(root, named("state"))


@pytest.mark.parametrize("name", [".", "services", ".ruff_cache"])
def test_a_folder_with_something_else_in_it_is_none_and_stays_as_it_is(write_files: WriteFiles, name: str) -> None:
    files = {".gitignore": ".venv/\n", "services/alpha.py": "", ".ruff_cache/.gitignore": "# made by ruff\n*\n"}
    root = write_files(files)

    with pytest.raises(ConfigurationError, match=r"is no state folder, and there is something in it: set COVEY_STATE"):
        state_folder(root, named(name))

    assert {name: (root / name).read_text() for name in files} == files


async def test_one_that_is_empty_or_was_one_before_will_do(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()

    for _ in range(2):
        await (await open_state(state_folder(tmp_path, named("state")))).close()


async def test_where_there_can_be_none_is_said(write_files: WriteFiles) -> None:
    root = write_files({"file": ""})

    with pytest.raises(
        ConfigurationError, match=r"/file/state cannot be made a state folder \(Not a directory\): .* may write"
    ):
        await open_state(state_folder(root, named("file/state")))


async def test_that_of_a_system_elsewhere_is_refused_and_left_alone(
    system_root: Path, given: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    state, clone, moved = elsewhere / "state", elsewhere / "clone", elsewhere / "moved"
    shutil.copytree(system_root, clone)
    environment = {**given, **named(state)}

    async with running_system(clone, UpOptions(environment=environment)):
        for command in ("up", "down", "migrate"):
            refused = await asyncio.to_thread(covey, system_root, environment, command)
            assert refused.returncode == 2
            assert f"covey: {state} is the state folder of the system in {clone}: set COVEY_STATE" in refused.stderr
        assert supervisor_of(state) == os.getpid()

    assert state_folder(clone, environment) == state
    assert state_folder(clone.rename(moved), environment) == state
    assert state_folder(system_root, environment) == state  # nobody is left who could miss it


def test_a_service_that_is_started_by_hand_is_of_the_system_that_is_named(tmp_path: Path) -> None:
    told = {"DATABASE_URL": "postgresql://127.0.0.1:1/shop", "NATS_URL": "nats://127.0.0.1:1"}
    for state, port in ((".covey", "1111"), (".covey-2", "2222")):
        (tmp_path / state).mkdir()
        write_environment(tmp_path / state, "shop", {**told, "PORT": port})
    (tmp_path / "services/shop").mkdir(parents=True)
    bare = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)}

    ports = [
        subprocess.run(
            [sys.executable, "-c", LOAD],
            cwd=tmp_path / "services/shop",
            env={**bare, **environment},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for environment in ({}, named(".covey-2"), named(tmp_path / ".covey-2"))
    ]

    assert ports == ["1111\n", "2222\n", "2222\n"]


def test_what_to_type_in_another_terminal_means_this_system(system_root: Path, given: Mapping[str, str]) -> None:
    up = subprocess.Popen(
        [sys.executable, "-m", "covey.cli", "up", "--without", "alpha", "--without", "beta"],
        cwd=system_root,
        env={**given, **named("my branch")},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert up.stdout is not None
    shown = []
    for line in up.stdout:
        shown.append(line)
        if "all in one process" in line:
            break
    up.terminate()
    up.communicate(timeout=60)

    said = "".join(shown)
    assert "another terminal: COVEY_STATE='my branch' " in said
    assert "`COVEY_STATE='my branch' python -m alpha_service`, started inside the project" in said
    assert "all in one process: COVEY_STATE='my branch' python -m covey.local.host alpha beta" in said


async def test_what_a_system_writes_in_one_is_no_code_that_has_changed(
    system_root: Path, given: Mapping[str, str]
) -> None:
    file = system_root / "covey.toml"
    file.write_text(file.read_text().replace("python -m helper", "python ./helper.py"))  # so that all of it is watched
    beside = system_root / "branch"
    (beside / "data").mkdir(parents=True)
    hide(beside)
    said: list[str] = []
    async with asyncio.timeout(50), running_system(system_root, UpOptions(environment=given)) as system:
        reloading = asyncio.create_task(reload_on_change(system, said.append))
        while not said:  # from when on it watches, nobody says
            (beside / "data/kept.py").write_text("")
            (system.state / "kept.py").write_text("")
            (system_root / "helper.py").touch()
            await asyncio.sleep(0.05)
        reloading.cancel()

    assert said[0] == "helper.py changed: restarting helper"
