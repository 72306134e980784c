"""A clone on a machine that has Python, pip and make sets itself up: what the README's two commands do first.

The machine is the least that the README asks for, which is a Debian: its pip refuses to install for the whole system
(PEP 668), its Python has no venv, and there is no uv. The caches of pip and uv are this machine's; what they lack comes
from the index.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.docs.pages import ROOT

WITHHELD = ("venv", "ensurepip", "EXTERNALLY-MANAGED", "site-packages", "dist-packages", "__pycache__")
"""What the Python of that machine does not share with the one that runs the tests."""


def run(command: list[str], folder: Path, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command and return what it said, which is both of its outputs, and how it ended."""
    return subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )


def done(command: list[str], folder: Path, environment: Mapping[str, str]) -> str:
    """Run a command that must succeed."""
    ended = run(command, folder, environment)
    assert ended.returncode == 0, ended.stdout
    return ended.stdout


def debian_python(prefix: Path) -> None:
    """Make a Python that is the one which runs the tests, with pip, and otherwise as Debian's is without its extras.

    Its executable is a copy, since Python finds its library by where the file really is; the library is links.
    """
    base = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    version = f"python3.{sys.version_info.minor}"
    library, source = prefix / sys.platlibdir / version, Path(os.__file__).parent
    for folder in (prefix / "bin", prefix / "lib", library / "site-packages", library / "dist-packages"):
        folder.mkdir(parents=True, exist_ok=True)
    shutil.copy2(base, prefix / "bin/python3")
    for shared in (Path(sys.base_prefix) / "lib").glob("libpython*"):
        (prefix / "lib" / shared.name).symlink_to(shared)
    for entry in source.iterdir():
        if entry.name not in WITHHELD:
            (library / entry.name).symlink_to(entry)
    pip = done([str(base), "-c", "import pip; print(pip.__path__[0])"], prefix, os.environ).strip()
    for packages in ("site-packages", "dist-packages"):  # Debian's Python looks in the one, all others in the other
        (library / packages / "pip").symlink_to(pip)
    (library / "EXTERNALLY-MANAGED").write_text("[externally-managed]\nError=Use the packages of the system.\n")


def commands(folder: Path) -> None:
    """Link all commands of this machine but Python's, pip's and uv's."""
    folder.mkdir()
    for place in os.get_exec_path():
        for command in Path(place).iterdir() if Path(place).is_dir() else ():
            if not command.name.startswith(("python", "pip", "uv")) and not (folder / command.name).is_symlink():
                (folder / command.name).symlink_to(command)


def environment_of(machine: Path) -> dict[str, str]:
    """Return what is set for somebody who has just logged in: nothing that is meant for these tests, or their make."""
    private = ("MAKE", "MFLAGS", "PYTHON", "VIRTUAL_ENV", "GIT_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(private)}
    return {**kept, "PATH": f"{machine / 'python/bin'}:{machine / 'commands'}", "PIP_BREAK_SYSTEM_PACKAGES": "0"}


def cloned(folder: Path, environment: Mapping[str, str]) -> Path:
    """Return a clone of the project as it stands, committed or not."""
    git = ["git", "--git-dir", str(folder / "origin"), "--work-tree", str(ROOT)]
    somebody = ["-c", "user.name=Test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]
    done(["git", "init", "--quiet", "--bare", str(folder / "origin")], folder, environment)
    done([*git, "add", "--all"], ROOT, environment)
    done([*git, *somebody, "commit", "--quiet", "--message", "As it stands"], ROOT, environment)
    done(["git", "clone", "--quiet", str(folder / "origin"), "clone"], folder, environment)
    return folder / "clone"


@pytest.mark.slow
def test_a_fresh_clone_sets_itself_up_where_pip_installs_nothing_and_there_is_neither_venv_nor_uv(
    tmp_path: Path,
) -> None:
    debian_python(tmp_path / "python")
    commands(tmp_path / "commands")
    machine = environment_of(tmp_path)
    clone = cloned(tmp_path, machine)
    assert "externally-managed-environment" in run(["python3", "-m", "pip", "install", "uv"], clone, machine).stdout
    assert "No module named venv" in run(["python3", "-m", "venv", "environment"], clone, machine).stdout
    assert shutil.which("uv", path=machine["PATH"]) is None

    done(["make", "setup"], clone, machine)

    assert done([".venv/bin/covey", "--version"], clone, machine).startswith("covey ")
    home = done([".venv/bin/python", "-c", "import sys; print(sys.base_prefix)"], clone, machine)
    assert home.strip() == str(tmp_path / "python")
