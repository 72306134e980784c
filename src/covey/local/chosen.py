"""Which state folder a system has: `.covey` beside the system file, or the one that COVEY_STATE names.

Whatever a system has of its own hangs on its state folder: engines with databases and streams, ports, keys, processes,
logs. So one folder of code has as many systems, one for each branch or each test worker, as it is given state folders.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from covey.errors import ConfigurationError
from covey.local.origin import copied
from covey.local.state import is_state_folder
from covey.local.status import root_of
from covey.local.system import FILE
from covey.settings import STATE, state_in

_NEXT = f"set {STATE} to a folder that is not there yet, such as .covey-2"


def state_folder(root: Path, environment: Mapping[str, str]) -> Path:
    """Return the state folder of the system of the folder `root`, which need not be there yet.

    Raises ConfigurationError, and has touched nothing, when COVEY_STATE names what is no state folder and not empty, or
    one outside of `root` from which the system of another folder was up last.
    """
    path = state_in(root, environment)
    if path.exists() and not path.is_dir():
        raise ConfigurationError(f"{path} is no folder: {_NEXT}")
    if not environment.get(STATE) or not path.is_dir():
        return path
    if any(path.iterdir()) and not is_state_folder(path):
        raise ConfigurationError(f"{path} is no state folder, and there is something in it: {_NEXT}")
    if (other := _other_root(path, root)) is not None:
        raise ConfigurationError(f"{path} is the state folder of the system in {other}: {_NEXT}")
    return path


def _other_root(path: Path, root: Path) -> Path | None:
    """Return the folder of the other system that has this state folder, or None; a copy has nobody yet."""
    known = None if path.resolve().is_relative_to(root.resolve()) or copied(path) else root_of(path)
    if known is None or not (known / FILE).is_file() or known.samefile(root):  # it is gone, or has been moved here
        return None
    return known
