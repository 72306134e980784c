"""What runs where, written down by the supervisor at each change and read by `covey status` in another terminal."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal, assert_never
from urllib.parse import urlsplit, urlunsplit

from covey.local.launcher import write_atomically
from covey.local.processes import read_records
from covey.local.program import HostedServices, HttpService, OtherProcess, Program, unanswered
from covey.local.state import killed_supervisor_of, records_of, supervisor_of
from covey.local.system import System
from covey.local.unit import Held, Starting, Stopped, Unit, UnitState, Up, Waiting

_FILE = "status.json"


@dataclass(frozen=True, kw_only=True)
class UnitStatus:
    """What runs under one name; services in one process have one pid.

    `url` is without a password; `state` is up, not ready, starting, waiting, held or stopped, `detail` says why.
    """

    name: str
    kind: Literal["engine", "process", "service"]
    state: str
    url: str
    pid: int | None
    restarts: int
    detail: str


@dataclass(frozen=True, kw_only=True)
class SystemStatus:
    """The whole system. `supervisor` is the pid of the process that holds it up, None when none does.

    `killed` is then the pid of one that died without stopping the system, `left` names what still runs of it. `without`
    are the services that were left out, to be started by hand.
    """

    name: str
    supervisor: int | None
    units: list[UnitStatus]
    killed: int | None = None
    left: list[str] = field(default_factory=list)
    without: list[str] = field(default_factory=list)

    @property
    def healthy(self) -> bool:
        """Tell whether everything is up."""
        return self.supervisor is not None and all(unit.state == "up" for unit in self.units)


def write_status(
    folder: Path, system: System, units: Mapping[str, Unit], addresses: Mapping[str, str], without: Collection[str]
) -> None:
    """Write down the state of the units that run these; several may have one. An engine knows its own address."""
    written = [asdict(_status_of(name, unit, addresses.get(name, unit.url))) for name, unit in units.items()]
    known = {"name": system.name, "root": str(system.root), "units": written, "without": sorted(without)}
    write_atomically(folder / _FILE, json.dumps(known))


def read_status(folder: Path) -> SystemStatus | None:
    """Return what was last written, None when nothing ever was; without a supervisor, what one has left."""
    try:
        known = json.loads((folder / _FILE).read_text())
    except FileNotFoundError:
        return None
    supervisor = supervisor_of(folder)
    if supervisor is not None:
        units = [UnitStatus(**unit) for unit in known["units"]]
        return SystemStatus(name=known["name"], supervisor=supervisor, units=units, without=known.get("without", []))
    left = [record.name for record in read_records(records_of(folder)) if record.running()]
    killed = killed_supervisor_of(folder)
    return SystemStatus(name=known["name"], supervisor=None, units=[], killed=killed, left=left)


def root_of(folder: Path) -> Path | None:
    """Return the folder of the system that was last up from that state folder, None when none ever was."""
    try:
        return Path(json.loads((folder / _FILE).read_text())["root"])
    except (FileNotFoundError, KeyError):
        return None


async def asked(status: SystemStatus) -> SystemStatus:
    """Return the status as it is now: a service that is up may for the moment not be ready, and says why."""
    return replace(status, units=list(await asyncio.gather(*(_asked(unit) for unit in status.units))))


async def _asked(unit: UnitStatus) -> UnitStatus:
    port = urlsplit(unit.url).port
    if unit.kind != "service" or unit.state != "up" or port is None:
        return unit
    trouble = await unanswered(port, "/ready")
    return unit if trouble is None else replace(unit, state="not ready", detail=trouble)


def _status_of(name: str, unit: Unit, url: str) -> UnitStatus:
    state, detail = describe(unit.state)
    return UnitStatus(
        name=name,
        kind=_kind(unit.program),
        state=state,
        url=_without_password(url),
        pid=unit.pid,
        restarts=unit.restarts,
        detail=detail,
    )


def _kind(program: Program) -> Literal["engine", "process", "service"]:
    match program:
        case HttpService() | HostedServices():
            return "service"
        case OtherProcess():
            return "process"
        case _:
            return "engine"


def describe(state: UnitState) -> tuple[str, str]:
    """Return a word for a state, and what more there is to say."""
    match state:
        case Up():
            return "up", ""
        case Starting():
            return "starting", ""
        case Stopped():
            return "stopped", ""
        case Waiting(reason, failures, pause_seconds):
            return "waiting", f"{reason}; attempt {failures + 1} in {pause_seconds:.1f} s"
        case Held(reason):
            return "held", f"{reason}; a tour or a test holds it down, and starts it again"
        case _:
            assert_never(state)


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
