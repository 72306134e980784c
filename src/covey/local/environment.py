"""What each service is told, in a file while the system is up: for who starts one by hand, and for our commands."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from covey.local.launcher import write_atomically
from covey.local.origin import copied
from covey.settings import environment_in, environment_text


def environment_file(state: Path, service: str) -> Path:
    """Return the file that holds what a service is told while the system is up, as lines `NAME=value`."""
    return state / "env" / f"{service}.env"


def read_environment(state: Path, service: str) -> dict[str, str]:
    """Return what is in that file; raises FileNotFoundError when there is none, or it is that of another system."""
    if copied(state):
        raise FileNotFoundError(environment_file(state, service))
    return environment_in(environment_file(state, service).read_text())


def write_environment(state: Path, service: str, told: Mapping[str, str]) -> None:
    """Write that file; it holds passwords, so that only this user can read it."""
    environment_file(state, service).parent.mkdir(exist_ok=True)
    write_atomically(environment_file(state, service), environment_text(told))
