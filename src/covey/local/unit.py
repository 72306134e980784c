"""A unit is one process that is to run: started, seen to be up, started again when it dies.

The first restart is immediate; one that keeps dying is started again after growing pauses (exponential backoff
with jitter, as in "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
"""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from signal import Signals
from textwrap import indent

from covey.errors import CoveyError, Unavailable
from covey.local.logs import for_people
from covey.local.processes import Process
from covey.local.program import Program, until_up
from covey.local.state import StateFolder, log_size, tail_of

_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 10.0
_HEALTHY_SECONDS = 2.0
_HOPELESS_FAILURES = 3
_START_SECONDS = 60.0


@dataclass(frozen=True)
class Stopped:
    """It does not run, and is not meant to."""


@dataclass(frozen=True)
class Starting:
    """It runs and does not accept work yet."""

    pid: int


@dataclass(frozen=True)
class Up:
    """It has accepted work."""

    pid: int


@dataclass(frozen=True)
class Waiting:
    """It died, for the `failures`-th time in a row, and is started again after a pause."""

    reason: str
    failures: int
    pause_seconds: float


@dataclass(frozen=True)
class Held:
    """It died while it was held, and is started again when it is released."""

    reason: str


UnitState = Stopped | Starting | Up | Waiting | Held


class StartFailed(Unavailable):
    """A process died again and again before it was up. The message ends with the last lines of its log."""


class Unit:
    """One process, kept running. `announce` is called at each change of its state."""

    def __init__(self, folder: StateFolder, name: str, program: Program, announce: Callable[[Unit], None]) -> None:
        self.name = name
        self.program = program
        self.state: UnitState = Stopped()
        self.restarts = 0
        self._folder = folder
        self._announce = announce
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._process: Process | None = None
        self._changing = asyncio.Lock()
        self._released = asyncio.Event()
        self._released.set()
        self._hurried = False
        self._earlier = 0  # so much of its log is not of the attempt that was begun last

    @property
    def url(self) -> str:
        """Return the address under which it is, or will be, reached."""
        return self.program.url

    @property
    def pid(self) -> int | None:
        """Return the pid of its process, None while there is none."""
        return self._process.pid if self._process and self._process.status is None else None

    def start(self, running: Process | None = None) -> None:
        """Begin to keep it running, with a process that is up already if there is one. Does not wait."""
        if self._task is None:
            self._task = asyncio.create_task(self._keep_running(running), name=f"unit {self.name}")

    async def up(self) -> None:
        """Wait until it accepts work. Raises StartFailed when it has died three times in a row, or takes a minute."""
        try:
            async with asyncio.timeout(_START_SECONDS):
                while not isinstance(self.state, Up):
                    if isinstance(self.state, Waiting) and self.state.failures >= _HOPELESS_FAILURES:
                        raise self._failed(self.state.reason)
                    await self._changed.wait()
        except TimeoutError:
            raise self._failed(await self.program.obstacle() or "it came up too late") from None

    async def kill(self) -> None:
        """Kill its process (SIGKILL) and return when it is dead; it is then started again as after any death."""
        if (process := self._process) is not None:
            process.kill()
            while isinstance(self.state, (Starting, Up)) and self.state.pid == process.pid:
                await self._changed.wait()

    def hold(self) -> None:
        """From now on leave it dead when it dies, until `release`: so that its absence can be seen."""
        self._released.clear()

    def release(self) -> None:
        """Keep it running again; what has died meanwhile is started at once. Safe to call when it is not held."""
        self._released.set()

    def signal(self, number: Signals) -> None:
        """Send a signal to its process."""
        if self._process is not None:
            self._process.signal(number)

    async def stop(self, grace_seconds: float) -> None:
        """Ask it to end, kill it after the grace period, and keep it stopped. Safe to call twice."""
        async with self._changing:
            await self._stop(grace_seconds)

    async def restart(self, grace_seconds: float) -> None:
        """Stop it in order and start it again, for a change of its code."""
        async with self._changing:
            if self._task is not None:
                await self._stop(grace_seconds)
                self.start()

    def hurry(self) -> None:
        """Kill its process, so that a `stop` under way or to come takes no time."""
        self._hurried = True
        if self._process is not None:
            self._process.kill()

    async def _stop(self, grace_seconds: float) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        if self._process is not None:
            await self._process.end(0 if self._hurried else grace_seconds)
        self._become(Stopped())

    async def _keep_running(self, process: Process | None) -> None:
        failures = 0
        while True:
            began = asyncio.get_running_loop().time()
            reason = await self._run_once(process)
            process = None
            lasted = asyncio.get_running_loop().time() - began
            failures = 1 if lasted > _HEALTHY_SECONDS and isinstance(self.state, Up) else failures + 1
            pause = _pause(failures)
            if not self._released.is_set():
                self._become(Held(reason))
                await self._released.wait()
            self._become(Waiting(reason, failures, pause))
            await asyncio.sleep(pause)
            self.restarts += 1

    async def _run_once(self, process: Process | None) -> str:
        """Run the process until it ends and return why it did."""
        try:
            if process is None:
                self._folder.check()
                self._earlier = log_size(self._folder.path, self.name)
                process = self._folder.spawn(await asyncio.to_thread(self.program.prepare))
        except (CoveyError, OSError) as error:
            return str(error)
        self._process = process
        self._become(Starting(process.pid))
        if await until_up(self.program, process):
            self._become(Up(process.pid))
        return _ending(await process.wait())

    def _become(self, state: UnitState) -> None:
        self.state = state
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        self._announce(self)

    def _failed(self, why: str) -> StartFailed:
        log = tail_of(self._folder.path, self.name, lines=20, after=self._earlier)
        shown = "\n".join(for_people(line.strip(), colours=False) for line in log.splitlines())
        return StartFailed(f"{self.name} does not start: {why}; its log ends:\n{indent(shown, '  ')}")


def _pause(failures: int) -> float:
    if failures == 1:
        return 0.0
    longest = min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2.0 ** min(failures - 2, 16))
    return longest * random.uniform(0.5, 1.0)


def _ending(status: int) -> str:
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
