"""Which systems of this user are up on this machine: a note for each, in a folder that all of them know.

A note says where the state folder is and who supervises it. It is a hint and no proof: what is up is asked of the
state folder, and of the birth of the supervisor. Notes that a killed system has left are removed when nothing of it
runs any more. What cannot be read or written there keeps no system from coming up: it is not on the list then.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from covey.local.engines.placement import cache_folder
from covey.local.launcher import birth, write_atomically
from covey.local.origin import identity_of
from covey.local.processes import read_records
from covey.local.state import records_of, supervisor_of


@dataclass(frozen=True, slots=True)
class Noted:
    """A system that somebody has brought up. `supervisor` and `birth` tell its process from any other."""

    system: str
    state: Path
    supervisor: int
    birth: str

    @property
    def alone(self) -> bool:
        """Tell whether its supervisor lives on although its state folder is gone, or is somebody else's by now."""
        return supervisor_of(self.state) != self.supervisor and birth(self.supervisor) == self.birth

    @property
    def running(self) -> bool:
        """Tell whether anything of it runs. Under another supervisor the folder holds another system."""
        if (supervisor := supervisor_of(self.state)) is not None:
            return supervisor == self.supervisor or self.alone
        return self.alone or any(record.running() for record in read_records(records_of(self.state)))


_NOTED = TypeAdapter(Noted)


@contextmanager
def registered(system: str, state: Path) -> Iterator[None]:
    """Have a system on the list inside the block, at whose end nothing of it may run. This process supervises it."""
    noted = Noted(system, state, os.getpid(), birth(os.getpid()) or "")
    name = f"{identity_of(state).replace(':', '-')}.json"
    with suppress(OSError):
        running_systems()  # which forgets those that are gone
        _notes().mkdir(exist_ok=True)
        write_atomically(_notes() / name, json.dumps({**asdict(noted), "state": str(state)}))
    try:
        yield
    finally:
        with suppress(OSError):
            if _read(_notes() / name) == noted:  # else a folder with our inode stands in place of ours, and is up
                (_notes() / name).unlink()


def running_systems() -> list[Noted]:
    """Return the systems of this user of which anything runs, by folder; forget the others."""
    found = []
    for note in _notes().glob("*.json"):
        with suppress(OSError):
            if note.stat().st_uid != os.geteuid():  # users may share the folder: COVEY_CACHE says where it is
                continue
            noted = _read(note)
            if noted is not None and noted.running:
                found.append(noted)
            else:
                note.unlink()
    return sorted(found, key=lambda noted: noted.state)


def _read(note: Path) -> Noted | None:
    try:
        return _NOTED.validate_json(note.read_bytes())
    except ValidationError:
        return None


def _notes() -> Path:
    return cache_folder() / "systems"
