"""As whom PostgreSQL runs, and where its files are so that this identity reaches them.

PostgreSQL refuses to run as root. For an ordinary user there is nothing to decide. Root runs it as an ordinary
user inside a user namespace of one entry, in which the files stay root's own (user_namespaces(7)); where the
system refuses that, as the user `nobody`. What the identity cannot reach (a project inside root's home) goes
to a folder of ours under /var/tmp.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from covey.errors import ConfigurationError
from covey.local.launcher import REFUSED, write_atomically
from covey.local.processes import try_identity


@dataclass(frozen=True, kw_only=True)
class Placement:
    """An identity for `launcher.become`, and folders that it can reach."""

    identity: str
    installation: Path
    templates: Path
    data: Path

    @property
    def owner(self) -> tuple[int, int] | None:
        """Return the uid and gid to which its files must belong, or None when they may stay ours."""
        uid, separator, gid = self.identity.partition(":")
        return (int(uid), int(gid)) if separator else None

    def give(self, path: Path) -> None:
        """Make a file or a whole tree belong to the identity."""
        if self.owner is None:
            return
        for entry in (path, *path.rglob("*")):
            os.chown(entry, *self.owner, follow_symlinks=False)


def place(installation: Path, cache: Path, folder: Path, identities: Sequence[str] | None = None) -> Placement:
    """Decide as whom PostgreSQL runs and where. `folder` is its part of the state folder; both folders must exist.

    `identities` are those to try, in that order. Raises ConfigurationError when none can be had.
    """
    for identity in _identities() if identities is None else identities:
        if not identity:
            return Placement(identity="", installation=installation, templates=cache, data=folder)
        if try_identity(identity, []) != REFUSED:
            return _reachable(identity, installation, cache, folder)
    raise ConfigurationError(
        "PostgreSQL does not run as root, and this system grants root no user namespace and no change to another"
        " user: run as an ordinary user, or set COVEY_POSTGRES_ADMIN_URL to a server of yours"
    )


def cache_folder() -> Path:
    """Return this user's folder for what is made once and used by every system, made if missing."""
    if override := os.environ.get("COVEY_CACHE"):
        return _made(Path(override))
    home = Path(os.path.expanduser("~"))  # noqa: PTH111 - Path.home() raises where there is none
    base = (
        home / "Library/Caches" if sys.platform == "darwin" else Path(os.environ.get("XDG_CACHE_HOME", home / ".cache"))
    )
    try:
        return _made(base / "covey")
    except OSError:
        return _own_folder(f"covey-{os.geteuid()}")


def _identities() -> list[str]:
    if os.geteuid() != 0:
        return [""]
    nobody = pwd.getpwnam("nobody")
    return ["namespace", f"{nobody.pw_uid}:{nobody.pw_gid}"]


def _reachable(identity: str, installation: Path, cache: Path, folder: Path) -> Placement:
    def reaches(path: Path) -> bool:
        return try_identity(identity, [path]) == 0

    def own() -> Path:
        return _own_folder(f"covey-{identity.replace(':', '-')}", mode=0o711)

    return Placement(
        identity=identity,
        installation=installation if reaches(installation / "bin/postgres") else _copied(installation, own()),
        templates=cache if reaches(cache) else _made(own() / "templates", mode=0o711),
        data=folder if reaches(folder) else _elsewhere(folder, own()),
    )


def _elsewhere(folder: Path, own: Path) -> Path:
    """Return a folder under `own` for this one; a note in this one names it, so that a new folder begins empty."""
    note = folder / "elsewhere"
    if not note.exists():
        write_atomically(note, str(own / secrets.token_hex(8)))
    return _made(Path(note.read_text()), mode=0o711)


def _copied(installation: Path, own: Path) -> Path:
    """Copy the installation once; by rename, so that a copy that stands is whole."""
    copy = own / f"{installation.parent.name}-{int((installation / 'bin/postgres').stat().st_mtime)}"
    if not copy.exists():
        scratch = Path(tempfile.mkdtemp(dir=own))
        shutil.copytree(installation, scratch, dirs_exist_ok=True, symlinks=True)
        scratch.chmod(0o755)
        publish(scratch, copy)
    return copy


def publish(scratch: Path, final: Path) -> None:
    """Put a finished folder in its place; if another process was faster, keep theirs and drop ours."""
    try:
        scratch.rename(final)
    except OSError:
        if not final.is_dir():
            raise
        shutil.rmtree(scratch)


def _own_folder(name: str, mode: int = 0o700) -> Path:
    """Return a folder of ours in a place where anybody may make folders: make sure that it is ours."""
    path = _made(Path("/var/tmp") / name, mode)
    status = path.lstat()
    if status.st_uid != os.geteuid() or not stat.S_ISDIR(status.st_mode):
        raise ConfigurationError(f"{path} is not a folder of this user: remove it, or set COVEY_CACHE")
    return path


def _made(path: Path, mode: int = 0o700) -> Path:
    path.mkdir(mode=mode, parents=True, exist_ok=True)
    return path
