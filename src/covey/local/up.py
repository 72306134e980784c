"""`covey up`: a system in the foreground of a terminal."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGTERM

from covey.local.engines.embedded import EVERY
from covey.local.notices import tell_of_dead_letters
from covey.local.origin import copied
from covey.local.reload import reload_on_change, watch_system_file
from covey.local.running import RunningSystem, UpOptions, running_system
from covey.local.state import AlreadyRunning, StateLost, killed_supervisor_of, supervisor_of
from covey.local.status import describe, read_status
from covey.local.table import render
from covey.local.unit import Stopped, Unit, Up, Waiting
from covey.settings import STATE

Say = Callable[[str], None]


class Foreground:
    """One `covey up`: brings the system up, reports, and stops it at the first signal; the second one hurries."""

    def __init__(self, root: Path, options: UpOptions, say: Say, *, colours: bool = False) -> None:
        self._root = root
        self._options = replace(options, announce=self._report)
        self._say = say
        self._colours = colours
        self._units: dict[str, Unit] = {}
        self._is_up = False
        self._work: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Hold the system up until a signal, then stop it in order. Raises what `running_system` does."""
        self._work = asyncio.create_task(self._hold_up())
        for number in (SIGINT, SIGTERM, SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, self._asked_to_stop)
        try:
            await self._work
        except asyncio.CancelledError:
            self._say("stopped")
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None

    async def _hold_up(self) -> None:
        began = time.monotonic()
        self._begin()
        async with running_system(self._root, self._options) as running, asyncio.TaskGroup() as group:
            group.create_task(reload_on_change(running, self._say))
            group.create_task(watch_system_file(running, self._say))
            group.create_task(tell_of_dead_letters(running.state, self._say, covey()))
            group.create_task(self._keep_folder(running))
            await asyncio.sleep(0)  # it watches from here on, so that no change after the summary is missed
            self._is_up = True
            self._say(self._summary(running, time.monotonic() - began))
            for service in self._options.without:
                self._say(_by_hand(service, dict(await running.told(service))))
            if len(self._options.without) > 1:
                self._say(f"all in one process: {_here()}python -m covey.local.host {' '.join(self._options.without)}")

    def _begin(self) -> None:
        folder = self._options.state_of(self._root)
        if (supervisor := supervisor_of(folder)) is not None:
            raise AlreadyRunning(folder, supervisor)
        if (killed := killed_supervisor_of(folder)) is not None:
            self._say(f"the last supervisor (pid {killed}) was killed: what it has left is ended first")
        if (copy := copied(folder)) is not None:
            self._say(str(copy))
        self._say("starting engines, databases and services")

    async def _keep_folder(self, running: RunningSystem) -> None:
        try:
            await running.until_lost()
        except StateLost:
            self._is_up = False
            self._say(f"{running.state} is no longer there, or no longer ours: stopping")
            raise

    def _asked_to_stop(self) -> None:
        assert self._work is not None  # made before the handler
        if self._work.cancelling():
            self._say("hurrying")
            for unit in self._units.values():
                if unit.name not in EVERY:  # an engine stops in order, its data matters
                    unit.hurry()
        else:
            self._is_up = False
            self._say("stopping; once more to hurry")
            self._work.cancel()

    def _summary(self, running: RunningSystem, seconds: float) -> str:
        status = read_status(running.state)
        shown = render(status.units if status else [], colours=self._colours)
        how = " in one process" if self._options.one_process else ""
        if self._options.without:
            how += f" without {', '.join(self._options.without)}"
        return (
            f"{running.system.name} is up{how} after {seconds:.1f} s\n\n{shown}\n{_moved(running.moved)}\n"
            f"Ctrl-C stops it. In another terminal: {covey()} status, {covey()} logs -f, {covey()} down"
        )

    def _report(self, unit: Unit) -> None:
        """Say what nobody asked for: deaths and returns, not the start and the stop of everything."""
        self._units[unit.name] = unit
        match unit.state:
            case Waiting():
                self._say(f"{unit.name} {describe(unit.state)[1]}")
            case Up() if self._is_up:
                self._say(f"{unit.name} is up, pid {unit.pid}")
            case Stopped() if self._is_up:
                self._say(f"{unit.name} stopped")


def covey() -> str:
    """Return what to type for `covey` here: it need not be on the PATH, nor another terminal know our state folder."""
    beside = Path(sys.executable).with_name("covey")
    command = "covey" if shutil.which("covey") or not beside.is_file() else os.path.relpath(beside)
    return f"{_here()}{command}"


def _here() -> str:
    """Return what another terminal needs before a command, so that it means this system and none beside it."""
    state = os.environ.get(STATE)
    return f"{STATE}={shlex.quote(state)} " if state else ""


def _moved(ports: Mapping[str, tuple[int, int]]) -> str:
    said = ", ".join(f"{name} from {old} to {new}" for name, (old, new) in ports.items())
    return f"\nmoved, because another program holds the usual port: {said}\n" if said else ""


def _by_hand(service: str, told: dict[str, str]) -> str:
    exports = "\n".join(f"export {name}={shlex.quote(value)}" for name, value in told.items())
    command = f"{_here()}python -m {service.replace('-', '_')}_service"
    return (
        f"\n{service} is left out. `{command}`, started inside the project, finds\n"
        f"its environment by itself; anything else needs\n\n{exports}\n"
    )
