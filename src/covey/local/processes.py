"""Processes that are on record, so that none outlives the system: started, watched, ended, found again after a crash.

A record is a file `<state>/processes/<name>.json` with pid, birth and command, written by the process itself
before it runs its command. Whoever ends a process from a record (the guardian, the next start, `covey down`)
first makes sure that pid, birth and command still belong together, and that the record was written in this folder:
one that was copied with it names a process of another system.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from signal import Signals
from typing import Any

from covey.local import launcher
from covey.local.origin import identity_of

_POLL_SECONDS = 0.02
_LOG_LIMIT_BYTES = 20_000_000
SERVICE_RANK, PROCESS_RANK, ENGINE_RANK = 1, 2, 3
"""Processes end in this order: what has rank 1 is gone before rank 2 is asked to stop."""


@dataclass(frozen=True, kw_only=True)
class Launch:
    """What to run and how to end it. `identity` is that of `launcher.become`; `stop` asks it to end by itself."""

    name: str
    command: Sequence[str]
    folder: Path
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    rank: int = SERVICE_RANK
    stop: Signals = Signals.SIGTERM
    identity: str = ""


class Process:
    """A running child. It leads a session of its own, so that a Ctrl-C on the terminal reaches only us."""

    def __init__(self, launch: Launch, child: subprocess.Popen[bytes], record: Path) -> None:
        self.launch = launch
        self._child = child
        self._record = record
        self._status: int | None = None

    @property
    def name(self) -> str:
        """Return the name under which it is on record."""
        return self.launch.name

    @property
    def pid(self) -> int:
        """Return its process id."""
        return self._child.pid

    @property
    def status(self) -> int | None:
        """Return the exit status, negative for a signal; None while it runs."""
        if self._status is None and (status := self._child.poll()) is not None:
            self._status = status
            self._forget()  # only once: a successor may have taken the name since
        return self._status

    async def wait(self) -> int:
        """Wait until it has ended and return the exit status. Safe to cancel."""
        while (status := self.status) is None:  # noqa: ASYNC110 - only the kernel knows, and it sets no event
            await asyncio.sleep(_POLL_SECONDS)
        return status

    def signal(self, number: Signals) -> None:
        """Send a signal, unless it has ended."""
        if self.status is None:
            self._child.send_signal(number)

    def kill(self) -> None:
        """End it and what it started, at once and without notice (SIGKILL)."""
        if self.status is None:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, Signals.SIGKILL)

    def _forget(self) -> None:
        """Remove its record; one that names another process is that of a folder which has come in place of ours."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            if json.loads(self._record.read_text())["pid"] == self.pid:
                self._record.unlink()

    async def end(self, grace_seconds: float) -> int:
        """Ask it to stop, kill it after the grace period, and return the exit status."""
        self.signal(self.launch.stop)
        try:
            return await asyncio.wait_for(self.wait(), grace_seconds)
        except TimeoutError:
            self.kill()
            return await self.wait()


def spawn(launch: Launch, records: Path, log: Path) -> Process:
    """Start a process whose output is appended to `log`; it is on record before it runs its command."""
    record = records / f"{launch.name}.json"
    note = {"name": launch.name, "rank": launch.rank, "stop": int(launch.stop), "home": identity_of(records)}
    plan: dict[str, object] = {"record": str(record), "note": note, "parent": os.getpid(), "identity": launch.identity}
    plan["patient"] = launch.rank != SERVICE_RANK
    _rotate(log)
    with log.open("ab") as output:
        child = subprocess.Popen(
            _launcher(plan, launch.command),
            cwd=launch.folder,
            env=launch.environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Process(launch, child, record)


def try_identity(identity: str, reach: Sequence[Path]) -> int:
    """Return 0 when that identity can be had and reaches all paths, else `launcher.REFUSED` or `.UNREACHABLE`."""
    plan = {"identity": identity, "reach": [str(path) for path in reach]}
    return subprocess.run(_launcher(plan, []), stderr=subprocess.DEVNULL, check=False).returncode


def run_as(
    identity: str, command: Sequence[str], folder: Path, environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run a short command as that identity and return what it printed, with its exit status. Blocks."""
    arguments = _launcher({"identity": identity}, command)
    return subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def _launcher(plan: Mapping[str, object], command: Sequence[str]) -> list[str]:
    return [sys.executable, "-I", "-S", launcher.__file__, json.dumps(plan), *command]


def _rotate(log: Path) -> None:
    with suppress(FileNotFoundError):
        if log.stat().st_size > _LOG_LIMIT_BYTES:
            log.replace(log.with_suffix(".log.1"))


@dataclass(frozen=True, kw_only=True)
class Record:
    """What is known of a process from its record. `home` is the identity of the folder in which it was written."""

    name: str
    pid: int
    birth: str
    command: tuple[str, ...]
    rank: int
    stop: int
    home: str

    def running(self) -> bool:
        """Tell whether this very process still runs: pid, birth and command agree."""
        return launcher.birth(self.pid) == self.birth and self.command[0] in command_line(self.pid)

    def send(self, number: int) -> None:
        """Signal the process if it is still the one on record."""
        if self.running():
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)


def read_records(records: Path) -> list[Record]:
    """Return the processes on record that were started from this folder, first those that end first.

    A record that cannot be read, as a machine that lost power may leave one, must not keep the system from starting.
    """
    found = []
    for path in records.glob("*.json"):
        with suppress(FileNotFoundError, ValueError, KeyError, TypeError):
            found.append(_parse(json.loads(path.read_text())))
    ours = (record for record in found if record.home == identity_of(records))
    return sorted(ours, key=lambda record: (record.rank, record.name))


def _parse(noted: dict[str, Any]) -> Record:
    return Record(**{**noted, "command": tuple(noted["command"])})


def end_recorded(records: Path, grace_seconds: float) -> list[str]:
    """End every process on record, rank by rank, and return the names of those that still ran.

    Blocks for at most the grace period and a moment for each rank.
    """
    ended = []
    for _, group in groupby(read_records(records), key=lambda record: record.rank):
        members = [record for record in group if record.running()]
        for record in members:
            record.send(record.stop)
        _wait_until(partial(_all_gone, members), grace_seconds)
        for record in members:
            _kill_group(record)
        ended += [record.name for record in members]
    for path in records.glob("*.json"):
        path.unlink(missing_ok=True)
    return ended


def _all_gone(members: Sequence[Record]) -> bool:
    return not any(record.running() for record in members)


def _kill_group(record: Record) -> None:
    if record.running():
        with suppress(ProcessLookupError):
            os.killpg(record.pid, signal.SIGKILL)
        _wait_until(lambda: not record.running(), 5)


def _wait_until(done: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not done() and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)


def command_line(pid: int) -> str:
    """Return the command line of a process, empty when there is none."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:
        shown = ["ps", "-o", "command=", "-p", str(pid)]
        return subprocess.run(shown, capture_output=True, text=True, check=False).stdout
