"""`covey drill`: load on a system, a schedule of faults, and then the auditor's verdict.

The system is one of its own: a state folder of this drill, ports of its own, embedded engines and nobody else's.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from covey.clock import Clock, SystemClock
from covey.errors import BrokerUnavailable, CoveyError
from covey.local.backing import GIVEN_BY
from covey.local.engines.embedded import EVERY, STREAMS
from covey.local.running import RunningSystem, UpOptions, running_system
from covey.local.system import System, read_system
from covey.testing.drill.drilled import Drilled, opener
from covey.testing.drill.load import Load
from covey.testing.drill.progress import Progress
from covey.testing.drill.record import Record, Sample
from covey.testing.drill.relays import with_relay
from covey.testing.drill.result import COMES_BACK, Result
from covey.testing.drill.schedule import WINDOW_SECONDS, OwnKind, Schedule, Targets, draw
from covey.testing.drill.striker import Striker
from covey.testing.drill.window import narrow

_REPLICAS = 2
_SAMPLE_SECONDS = 1.0
_CUSTOMERS_SECONDS = 60.0
_SETTLING_SECONDS = 120.0


def _environment() -> Mapping[str, str]:
    """Return ours without the addresses of engines: nobody's own are to be drilled by accident."""
    given = {variable for variables in GIVEN_BY.values() for variable in variables}
    return {name: value for name, value in os.environ.items() if name not in given}


@dataclass(frozen=True, kw_only=True)
class DrillOptions:
    """How a system is drilled. `rate` is in users a second, `state` where it lives: by default a new folder.

    Engines that `environment` names are used and not broken.
    """

    seed: int
    seconds: float = 120.0
    rate: float = 30.0
    state: Path | None = None
    settling_seconds: float = _SETTLING_SECONDS
    environment: Mapping[str, str] = field(default_factory=_environment)


async def drill(root: Path, options: DrillOptions, progress: Progress, clock: Clock | None = None) -> Result:
    """Drill the system of the folder `root`, and return what came of it.

    The first `progress.interrupt()` ends load and faults, and what was accepted is audited all the same. The state
    folder is removed when all is well, unless it was given. Raises ConfigurationError, and what `running_system` does.
    """
    system = read_system(root)
    open_drilled = opener(system)
    state = options.state or Path(tempfile.mkdtemp(prefix="covey-drill-"))
    up = UpOptions(state=state, replicas=_replicas(system), environment=options.environment)
    progress.say(f"{system.name}: seed {options.seed}, {options.seconds:g} s, {options.rate:g} users a second")
    progress.say(f"starting the system; its logs are in {state / 'logs'}")
    async with running_system(root, up) as running, open_drilled(running) as drilled:
        result = await _Drill(running, drilled, options, progress, clock or SystemClock()).run()
    if result.objections() or options.state is not None:
        return replace(result, state=state)
    await asyncio.to_thread(shutil.rmtree, state, ignore_errors=True)
    return result


def _replicas(system: System) -> dict[str, int]:
    """Return how many of each service: two at least, so that somebody can take over."""
    return {name: max(_REPLICAS, entry.replicas) for name, entry in system.services.items()}


class _Drill:
    def __init__(
        self, running: RunningSystem, drilled: Drilled, options: DrillOptions, progress: Progress, clock: Clock
    ) -> None:
        self._running = running
        self._drilled = drilled
        self._options = options
        self._progress = progress
        self._record = Record(clock)
        self._load = Load(drilled, self._record, clock)
        self._striker = Striker(running, drilled.faults, self._record, clock)
        self._schedule: Schedule
        self._clock = clock

    async def run(self) -> Result:
        await self._drilled.prepare()
        targets = _targets(self._running, self._drilled, await with_relay(self._running))
        self._schedule = draw(self._options.seed, self._options.seconds, targets)
        self._progress.say(f"{len(self._schedule.faults)} faults are scheduled, {self._schedule.kills} of them kills")
        self._record.begin()
        watching = asyncio.create_task(self._watch())
        try:
            wrong = await self._under_load()
            self._progress.say("healed; waiting until nothing moves")
            verdict = await self._drilled.audit(self._options.settling_seconds)
        finally:
            self._striker.wake_all()
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching
        await self._sample()
        return Result(
            system=self._running.system.name,
            rate=self._options.rate,
            schedule=self._schedule,
            record=self._record,
            verdict=replace(verdict, rules={COMES_BACK: wrong, **verdict.rules}),
            interrupted=self._progress.interrupted.is_set(),
        )

    async def _under_load(self) -> list[str]:
        """Run load and faults until they are over or somebody interrupts; heal; return what is wrong after that."""
        options = self._options
        load = self._load.run(options.seed, options.rate, options.seconds)
        strikes = self._striker.carry_out(self._schedule)
        await _until(self._progress.interrupted, load, strikes, self._narrow_windows())
        self._record.load_ended = self._record.now()
        if self._progress.interrupted.is_set():
            self._progress.say("interrupted: no more load, no more faults; what was accepted is audited")
        wrong = await self._striker.heal()
        await self._load.end(_CUSTOMERS_SECONDS)
        return wrong

    async def _narrow_windows(self) -> None:
        """Have the broker forget soon what it has stored, in each stream as soon as there is one, if it is NATS."""
        system = self._running.system
        left = {f"{system.name}-{service}" for service in system.services if self._running.addresses.nats_url}
        while left and self._record.now() < self._schedule.calm_from:
            with suppress(BrokerUnavailable):
                left -= set(await narrow(self._running.addresses.nats_url, left, WINDOW_SECONDS))
            await self._clock.sleep(_SAMPLE_SECONDS)

    async def _watch(self) -> None:
        while True:
            await self._sample()
            self._progress.show(self._record, self._schedule)
            await self._clock.sleep(_SAMPLE_SECONDS)

    async def _sample(self) -> None:
        completed = self._record.completed
        with suppress(CoveyError, OSError):
            completed = await self._drilled.completed()
        self._record.samples.append(Sample(self._record.now(), self._load.under_way, completed))


async def _until(interrupted: asyncio.Event, *work: Coroutine[None, None, None]) -> None:
    """Do all of it, or cancel it when interrupted. Raises the first error as it is."""
    asked = asyncio.create_task(interrupted.wait())
    tasks = [asyncio.create_task(one) for one in work]
    try:
        while not asked.done() and (left := [task for task in tasks if not task.done()]):
            await asyncio.wait([asked, *left], return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()
    finally:
        for task in tasks:
            task.cancel()
        asked.cancel()
        await asyncio.gather(asked, *tasks, return_exceptions=True)


def _targets(running: RunningSystem, drilled: Drilled, relays: Sequence[str]) -> Targets:
    system = running.system
    broker = "nats" if running.addresses.nats_url else STREAMS
    return Targets(
        services={name: [unit.name for unit in running.replicas(name)] for name in system.services},
        relays=relays,
        broker=broker if broker in running.units else None,
        engines=[name for name in EVERY if name in running.units],
        processes=[unit.name for name in system.processes for unit in running.replicas(name)],
        own=[
            OwnKind(name=fault.name, shortest_seconds=fault.shortest_seconds, longest_seconds=fault.longest_seconds)
            for fault in drilled.faults
        ],
    )
