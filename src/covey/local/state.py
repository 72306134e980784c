"""The state folder of one system (`.covey/`): its lock, processes, ports, secrets and logs.

One supervisor at a time holds the folder. The lock is the kernel's (flock), so a crash frees it; the guardian
shares it and keeps it until what the crash left behind is gone. Who holds the lock of a folder that was removed
holds nothing: another may stand in its place, with a supervisor of its own.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import secrets
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from covey.errors import ConfigurationError, Conflict, Defect
from covey.local import guardian
from covey.local.launcher import birth, write_atomically
from covey.local.origin import identity_of, settle
from covey.local.ports import is_free, reserve_port, set_aside
from covey.local.processes import Launch, Process, end_recorded, spawn
from covey.settings import STATE

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Holder:
    pid: int
    birth: str
    home: str


_PORTS_BY_NAME = TypeAdapter(dict[str, Annotated[int, Field(strict=True, gt=0, lt=65_536)]])
_SECRETS_BY_NAME = TypeAdapter(dict[str, Annotated[str, Field(min_length=1)]])
_HOLDER = TypeAdapter(_Holder)

_LOCK = "lock"
_HIDES, _EVERYTHING = ".gitignore", "*\n"
_LEFTOVERS_SECONDS = 5.0
_CLEANING_SECONDS = 20.0


class AlreadyRunning(Conflict):
    """Another process runs this system from this folder. `pid` is its supervisor."""

    def __init__(self, folder: Path, pid: int) -> None:
        super().__init__(
            f"this system is already up (pid {pid}, {folder}): `covey status` shows it, `covey down` ends it;"
            f" with {STATE}=.covey-2 another comes up beside it"
        )
        self.pid = pid


class StateLost(Defect):
    """The state folder was removed or replaced while the system was up."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"{folder} was removed or replaced while the system was up, which nobody could stop any more")


class StateFolder:
    """An open state folder. Whoever holds one is the only supervisor there.

    `moved`: the ports that another program held, each with the old one and the new one, by name.
    """

    def __init__(self, path: Path, lock: IO[str], keeper: subprocess.Popen[bytes]) -> None:
        self.path = path
        self.moved: dict[str, tuple[int, int]] = {}
        self._lock = lock
        self._guardian = keeper
        self._processes: list[Process] = []
        self._aside: dict[int, socket.socket] = {}

    @property
    def guardian_pid(self) -> int:
        """Return the pid of the process that ends what is left behind when this one dies."""
        return self._guardian.pid

    def check(self) -> None:
        """Raise StateLost unless this is still the folder that was locked."""
        if not guardian.holds(self._lock.fileno(), Path(self._lock.name)):
            raise StateLost(self.path)

    def spawn(self, launch: Launch) -> Process:
        """Start a process on record, its output in `logs/<name>.log`."""
        process = spawn(launch, records_of(self.path), log_of(self.path, launch.name))
        self._processes = [*(known for known in self._processes if known.status is None), process]
        return process

    def port(self, name: str) -> int:
        """Return the port of that name: the one it had before if that is free, else a free one, remembered.

        It is set aside for as long as this folder is open.
        Raises ConfigurationError, and changes nothing, when what is remembered cannot be read; so does `secret`.
        """
        ports = _remembered(self.path / "ports.json", _PORTS_BY_NAME)
        known = ports.get(name)
        if known is None or not self._has(known):
            ports[name], self._aside[ports[name]] = reserve_port(ports.values())
            if known is not None:
                self.moved[name] = (self.moved.get(name, (known,))[0], ports[name])
            write_atomically(self.path / "ports.json", json.dumps(ports, indent=2))
        return ports[name]

    def _has(self, port: int) -> bool:
        """Tell whether a remembered port can be had: nobody listens on it, and it is set aside by nobody else."""
        if not is_free(port):
            return False
        if port not in self._aside and (aside := set_aside(port)):
            self._aside[port] = aside
        return port in self._aside

    def secret(self, name: str) -> str:
        """Return the random secret of that name, made when first asked for; only this user can read it."""
        known = _remembered(self.path / "secrets.json", _SECRETS_BY_NAME)
        if name not in known:
            known[name] = secrets.token_urlsafe(24)
            write_atomically(self.path / "secrets.json", json.dumps(known, indent=2))
        return known[name]

    async def close(self) -> None:
        """End whatever still runs, then give the folder free: nobody is named as its supervisor."""
        assert self._guardian.stdin is not None  # opened as a pipe
        self._guardian.stdin.close()
        await asyncio.to_thread(self._guardian.wait)
        for process in self._processes:
            await process.end(0)  # ended by the guardian, unless somebody removed the records
        for aside in self._aside.values():
            aside.close()
        self._lock.truncate(0)
        self._lock.close()


def known_secret(path: Path, name: str) -> str | None:
    """Return a secret of the state folder at `path`, open or not; None: it has none of that name."""
    return _remembered(path / "secrets.json", _SECRETS_BY_NAME).get(name)


async def open_state(path: Path) -> StateFolder:
    """Take hold of a state folder, made if there is none, and end what a dead supervisor left running.

    One that was copied from elsewhere begins anew, see `origin`. Raises AlreadyRunning when a living supervisor has it,
    ConfigurationError where there can be none.
    """
    path = _made(path)
    lock = await _lock(path)
    settle(path)
    await asyncio.to_thread(end_recorded, records_of(path), _LEFTOVERS_SECONDS)
    return StateFolder(path, lock, guardian.start(records_of(path), lock))


def _made(path: Path) -> Path:
    try:
        records_of(path).mkdir(parents=True, exist_ok=True)
        for private in ("logs", "data"):  # what customers said, and are called
            (path / private).mkdir(mode=0o700, exist_ok=True)
        hide(path)
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be made a state folder ({error.strerror}): set {STATE} to where this user may write"
        ) from None
    return path.resolve()


def hide(path: Path) -> None:
    """Have git pass over a state folder, whatever its name; by that one is also known."""
    (path / _HIDES).write_text(_EVERYTHING)


def is_state_folder(path: Path) -> bool:
    """Tell whether a folder is the state folder of a system, of whichever."""
    try:
        return (path / _HIDES).read_text() == _EVERYTHING
    except (OSError, UnicodeDecodeError):
        return False


def records_of(path: Path) -> Path:
    """Return the folder of the records of running processes."""
    return path / "processes"


def log_of(path: Path, name: str) -> Path:
    """Return the log file of a process."""
    return path / "logs" / f"{name}.log"


def log_size(path: Path, name: str) -> int:
    """Return how many bytes there are in the log of a process."""
    try:
        return log_of(path, name).stat().st_size
    except FileNotFoundError:
        return 0


def tail_of(path: Path, name: str, lines: int = 8, after: int = 0) -> str:
    """Return the last lines that a process wrote after so many bytes of its log, indented; empty when it wrote none."""
    try:
        with log_of(path, name).open("rb") as log:
            log.seek(after)
            written = log.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    return "\n".join(f"  {line}" for line in written[-lines:])


def supervisor_of(path: Path) -> int | None:
    """Return the pid of the living supervisor of that folder, or None."""
    holder = _holder(path)
    return holder.pid if holder and _is_alive(holder) and _is_locked(path / _LOCK) else None


def is_held(path: Path) -> bool:
    """Tell whether anybody holds that folder: a supervisor, or the guardian that still cleans up behind one."""
    return (path / _LOCK).exists() and _is_locked(path / _LOCK)


def killed_supervisor_of(path: Path) -> int | None:
    """Return the pid of a supervisor that died without giving the folder free, or None; nobody had it since."""
    holder = _holder(path)
    return holder.pid if holder and not _is_alive(holder) else None


def _holder(path: Path) -> _Holder | None:
    try:
        holder = _HOLDER.validate_json((path / _LOCK).read_bytes())
        return holder if holder.home == identity_of(path) else None  # or it was copied, and somebody else is meant
    except (FileNotFoundError, ValidationError):  # it is being written, or was given free, or nobody ever held it
        return None


def _is_alive(holder: _Holder) -> bool:
    return birth(holder.pid) == holder.birth


async def _lock(path: Path) -> IO[str]:
    file = (path / _LOCK).open("a+")
    try:
        await _wait_for_lock(path, file)
    except BaseException:
        file.close()
        raise
    file.truncate(0)
    file.write(json.dumps({"pid": os.getpid(), "birth": birth(os.getpid()), "home": identity_of(path)}))
    file.flush()
    return file


async def _wait_for_lock(path: Path, file: IO[str]) -> None:
    """Take the lock; while a guardian still cleans up behind a dead supervisor, wait for it."""
    deadline = asyncio.get_running_loop().time() + _CLEANING_SECONDS
    while not _try_lock(file):
        holder = supervisor_of(path)
        if holder is not None or asyncio.get_running_loop().time() > deadline:
            raise AlreadyRunning(path, holder or 0)
        await asyncio.sleep(0.05)


def _try_lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_locked(path: Path) -> bool:
    with path.open() as file:
        return not _try_lock(file)


def _remembered(path: Path, kind: TypeAdapter[dict[str, T]]) -> dict[str, T]:
    try:
        return kind.validate_json(path.read_bytes() or b"{}")
    except FileNotFoundError:
        return {}
    except ValidationError as error:
        mistake = error.errors(include_input=False)[0]
        where = "".join(f"{part}: " for part in mistake["loc"])
        raise ConfigurationError(
            f"{path} cannot be read ({where}{mistake['msg']}): mend it, or remove it to have it made anew"
        ) from None
