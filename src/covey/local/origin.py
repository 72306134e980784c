"""Whose a state folder is: a copy, made with a project or by hand, is not the system that it was copied from.

A folder is known by device and inode, which a move keeps and a copy does not. What is on record in a copy (processes,
ports, who supervises) is the original's, which may be up: it is forgotten, and nobody is signalled. Data that were
copied from engines at rest are as good as the original's. Those of engines that ran are torn, since a copy is made
file by file; they are set aside.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from covey.local.launcher import write_atomically

_FILE = "home.json"
_DATA = ("postgres", "nats", "valkey", "streams", "data")
_OF_THE_ORIGINAL = ("processes/*.json", "env/*.env", "ports.json", "status.json")
_SERVER = "postgres/cluster/data/postmaster.pid"
_OUTSIDE = "postgres/elsewhere"
"""Names a data folder outside of the state folder: it was not copied, and is the original's."""
_OUTSIDE_OF_THE_ORIGINAL = "postgres/elsewhere-of-the-original"


@dataclass(frozen=True, slots=True)
class _Home:
    path: str
    device: int
    inode: int


_HOME = TypeAdapter(_Home)


@dataclass(frozen=True, kw_only=True)
class Copied:
    """A state folder is a copy of `origin`. `aside` is where data go that were in use while they were copied.

    `outside` is where the original has those of PostgreSQL, if they are no part of its state folder.
    """

    folder: Path
    origin: Path
    aside: Path | None
    outside: Path | None = None

    def __str__(self) -> str:
        copied = f"{self.folder} is a copy of {self.origin}: processes and ports on record there are not touched"
        if self.aside is None and self.outside is not None:
            return (
                f"{copied}; the data are kept, but for PostgreSQL, which begins empty: the original's are in"
                f" {self.outside}, as {self.folder.name}/{_OUTSIDE_OF_THE_ORIGINAL} says"
            )
        if self.aside is None:
            return f"{copied}; the data are kept"
        return (
            f"{copied}. The copy was made while that system was up, or after it was killed: such data are torn."
            f" They are set aside in {self.aside.name}, and this system begins empty"
        )


def identity_of(folder: Path) -> str:
    """Return what tells this folder from any copy of it."""
    status = folder.stat()
    return f"{status.st_dev}:{status.st_ino}"


def copied(folder: Path) -> Copied | None:
    """Return from where a state folder was copied; None when it stands where it was made, was moved, or is new."""
    try:
        home = _HOME.validate_json((folder / _FILE).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
    if _same(home, _home_of(folder)):
        return None
    in_use, origin = any(folder.glob("processes/*.json")), Path(home.path)
    outside = None if origin == folder.resolve() else _outside(folder)  # in its own place it is a backup, restored
    return Copied(folder=folder, origin=origin, aside=_free(folder) if in_use else None, outside=outside)


def settle(folder: Path) -> Copied | None:
    """Make this the folder's home; return from where it was copied, with all that was the original's forgotten.

    For who has locked it. Cut short by a crash it is done again.
    """
    copy = copied(folder)
    if copy is not None:
        _forget(copy)
    home = _home_of(folder)
    write_atomically(folder / _FILE, json.dumps({"path": home.path, "device": home.device, "inode": home.inode}))
    return copy


def _same(one: _Home, other: _Home) -> bool:
    """Tell whether both are one folder; a device may have another number after a reboot."""
    return one.inode == other.inode and (one.device == other.device or one.path == other.path)


def _home_of(folder: Path) -> _Home:
    status = folder.stat()
    return _Home(str(folder.resolve()), status.st_dev, status.st_ino)


def _forget(copy: Copied) -> None:
    if copy.aside is not None:
        copy.aside.mkdir()
        for name in _DATA:
            if (copy.folder / name).exists():
                (copy.folder / name).rename(copy.aside / name)
    if copy.aside is None and copy.outside is not None:
        (copy.folder / _OUTSIDE).rename(copy.folder / _OUTSIDE_OF_THE_ORIGINAL)
    if (server := copy.folder / _SERVER).resolve().is_relative_to(copy.folder.resolve()):
        server.unlink(missing_ok=True)  # through a link, which a copy shares, it would be that of a server which runs
    for pattern in _OF_THE_ORIGINAL:
        for path in copy.folder.glob(pattern):
            path.unlink()


def _outside(folder: Path) -> Path | None:
    try:
        return Path((folder / _OUTSIDE).read_text())
    except OSError:
        return None


def _free(folder: Path) -> Path:
    names = ("set-aside" if number == 1 else f"set-aside-{number}" for number in count(1))
    return next(path for path in (folder / name for name in names) if not path.exists())
