"""Modules of several services in one process: each is found, and a name that means two things is refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Write = Callable[[dict[str, str]], Path]


def said_by(root: Path, program: str) -> str:
    """Run a program in a new Python whose services are `a` and `b`; return what it prints, an ImportError too."""
    text = f"""
from pathlib import Path
from covey.local.modules import share_path
share_path([Path("a").resolve(), Path("b").resolve(), Path("a").resolve()])
try:
    {program}
except ImportError as error:
    print(error)
"""
    return subprocess.run([sys.executable, "-c", text], cwd=root, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def root(write_files: Write) -> Path:
    return write_files(
        {
            "a/a_service/__init__.py": "name = 'a'",
            "a/clients.py": "name = 'a'",
            "a/tests/test_a.py": "",
            "a/yaml/__init__.py": "",
            "b/b_service/__init__.py": "name = 'b'",
            "b/clients/__init__.py": "name = 'b'",
            "b/tests/test_b.py": "",
            "ours.py": "name = 'system'",
        }
    )


def test_of_every_service_are_found_and_those_beside_the_system_file_too(root: Path) -> None:
    said = said_by(root, "import a_service, b_service, ours; print(a_service.name, b_service.name, ours.name)")

    assert said == "a b system\n"


def test_that_two_services_have_are_refused_whoever_asks_and_both_are_named(root: Path) -> None:
    said = said_by(root, "import clients; print(clients.name)")

    assert f"{root}/a/clients.py and {root}/b/clients/__init__.py both are a module 'clients'" in said
    assert "rename it" in said


def test_that_would_hide_an_installed_one_are_refused(root: Path) -> None:
    (root / "b/alembic.py").write_text("")

    said = said_by(root, "import alembic")

    assert f"{root}/b/alembic.py and " in said


def test_that_nobody_imports_and_folders_without_code_of_one_name_are_no_obstacle(root: Path) -> None:
    assert said_by(root, "import tests, a_service; print('well')") == "well\n"
