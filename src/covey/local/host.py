"""Several services in one process: `python -m covey.local.host order inventory payment`, anywhere inside the project.

Each is started by the same code as in a process of its own, with the settings that `covey up` has left for it in a
file, and has its own pool, broker connection, telemetry and port. They share the process and its event loop, so they
end together: when one ends, whatever the reason, the others drain, and the process ends with status 1 and a line for
each that failed. Whoever started it, the supervisor or a person, starts all of them again.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop

from covey.errors import ConfigurationError, CoveyError, Defect
from covey.garbage import spare_what_is_there
from covey.local.environment import environment_file, read_environment
from covey.local.modules import share_path
from covey.local.system import ONE_PROCESS, System, find_root, read_system
from covey.service import Service, last_words, service_of, stopped_by_signals
from covey.settings import ServiceSettings, state_in
from covey.telemetry.telemetry import Telemetry, TelemetryOptions

_CLOSING_SECONDS = 5.0


@dataclass(frozen=True)
class Guest:
    """A service and the settings with which it is to run."""

    name: str
    service: Service[Any]
    settings: ServiceSettings

    @property
    def drain_seconds(self) -> float:
        """Return how long it may take to end."""
        return (self.settings.unready_for + self.settings.drain_timeout).total_seconds() + _CLOSING_SECONDS


async def host(guests: Sequence[Guest]) -> dict[str, BaseException]:
    """Run these services until SIGTERM or SIGINT, or until one of them ends; return what failed, by service."""
    with Telemetry.open(TelemetryOptions(service=ONE_PROCESS)):  # for what is said outside of any of them
        stop = stopped_by_signals()
        serving = [
            asyncio.create_task(one.service.serve(one.settings, stop, spare_what_is_there), name=one.name)
            for one in guests
        ]
        await asyncio.wait(serving, return_when=asyncio.FIRST_COMPLETED)
        stop.set()
        _, late = await asyncio.wait(serving, timeout=max(guest.drain_seconds for guest in guests))
        for task in late:  # such as one that still starts, and waits for what does not come
            task.cancel()
        await asyncio.wait(serving)
    return {task.get_name(): error for task in serving if (error := _error(task)) is not None}


def guests_of(system: System, state: Path, names: Sequence[str]) -> list[Guest]:
    """Import these services and read their settings; raises ConfigurationError, DefinitionError."""
    if unknown := [name for name in names if name not in system.services]:
        raise ConfigurationError(f"{unknown[0]!r} is no service of {system.name}: {', '.join(system.services)}")
    share_path(system.folder(name) for name in names)
    return [_guest(system, state, name) for name in names]


def _guest(system: System, state: Path, name: str) -> Guest:
    try:
        service = service_of(system.module(name))
    except CoveyError:
        raise
    except Exception as error:  # whatever its modules do
        traceback.print_exception(error)
        raise ConfigurationError(f"{name} cannot be imported: {type(error).__name__}: {error}") from None
    try:
        told = read_environment(state, name)
    except FileNotFoundError:
        file = environment_file(state, name)
        raise ConfigurationError(f"there is no {file}: `covey up` leaves it while the system is up") from None
    return Guest(name, service, service.load_settings({**os.environ, **told}))


def _error(task: asyncio.Task[None]) -> BaseException | None:
    return Defect("it was cancelled") if task.cancelled() else task.exception()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the services that are named. Exits with 0 after a graceful end, with 1 and a line for each that failed."""
    parser = argparse.ArgumentParser(prog="covey.local.host", description="Run several services in one process.")
    parser.add_argument("services", nargs="+", metavar="SERVICE")
    given = parser.parse_args(arguments)
    try:
        system = read_system(find_root(Path.cwd()))
        guests = guests_of(system, state_in(system.root, os.environ), given.services)
    except CoveyError as error:
        sys.exit(str(error))
    failed = uvloop.run(host(guests))
    if failed:
        sys.exit("\n".join(last_words(name, error) for name, error in failed.items()))


if __name__ == "__main__":
    main()
