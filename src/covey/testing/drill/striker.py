"""Carries out a schedule on a running system, and heals what it has done.

Processes are hit by the id that their unit has at that moment, never by name.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import assert_never

import psutil

from covey.clock import Clock
from covey.database.pool import Database, PoolOptions
from covey.errors import CoveyError
from covey.local.running import RunningSystem
from covey.local.unit import Unit, Up
from covey.messaging.relay import republish
from covey.testing.drill.drilled import OwnFault
from covey.testing.drill.faults import Duplicate, Fault, Kill, Own, Pause
from covey.testing.drill.record import Record, Strike
from covey.testing.drill.schedule import Schedule
from covey.testing.drill.standstill import stop, wake

_LOOK_SECONDS = 0.05
_AGAIN_SECONDS = 0.5
_REPUBLISH_SECONDS = 8.0
_HEALING_SECONDS = 60.0


@dataclass(frozen=True)
class _Standstill:
    """What stands still, and whether that is over."""

    processes: list[psutil.Process]
    over: asyncio.Event = field(default_factory=asyncio.Event)


class Striker:
    """Breaks one system. After `heal` nothing stands still, and each of the system's own faults has ended."""

    def __init__(self, system: RunningSystem, own: Iterable[OwnFault], record: Record, clock: Clock) -> None:
        self._system = system
        self._own: Mapping[str, OwnFault] = {fault.name: fault for fault in own}
        self._record = record
        self._clock = clock
        self._stopped: dict[str, _Standstill] = {}

    async def carry_out(self, schedule: Schedule) -> None:
        """Carry out all faults at their times, each on its own, so that they overlap; return when all are over."""
        async with asyncio.TaskGroup() as group:
            for fault in schedule.faults:
                await self._clock.sleep(fault.at - self._record.now())
                group.create_task(self._strike(fault, schedule.calm_from))

    async def heal(self) -> list[str]:
        """Let everything run again and wait until all units are up; return what is not right even then, in words."""
        self.wake_all()
        wrong = [
            f"{fault.name} could not be ended" for fault in self._own.values() if not await self._insist_on_end(fault)
        ]
        return [*wrong, *await self._until_all_up()]

    def wake_all(self) -> None:
        """Let everything run again that stands still. Does not wait."""
        for unit in list(self._stopped):
            self._wake(unit)

    async def _strike(self, fault: Fault, calm_from: float) -> None:
        begun = self._record.now()
        match fault:
            case Kill():
                hit, note = await self._kill(fault, calm_from)
                begun = self._record.now()
            case Pause():
                hit, note = await self._pause(fault)
            case Duplicate():
                hit, note = await self._duplicate(fault)
            case Own():
                hit, note = await self._misbehave(fault)
            case _:
                assert_never(fault)
        self._record.strikes.append(Strike(fault=fault, at=begun, until=self._record.now(), hit=hit, note=note))

    async def _kill(self, fault: Kill, calm_from: float) -> tuple[bool, str]:
        """Kill a process; when it does not run just now, as soon as it does. A kill of nobody is none."""
        unit = self._system.units[fault.unit]
        while (pid := unit.pid) is None:
            if self._record.now() >= calm_from:
                return False, "it did not run"
            await asyncio.sleep(_LOOK_SECONDS)
        began = isinstance(unit.state, Up)
        await unit.kill()
        self._wake(fault.unit)  # what it had started, and stands still, keeps its files and its memory
        return True, f"pid {pid}" if began else f"pid {pid}, before it was up"

    async def _pause(self, fault: Pause) -> tuple[bool, str]:
        pid = self._system.units[fault.unit].pid
        stopped = stop(pid) if pid is not None else []
        if not stopped:
            return False, "it did not run"
        standstill = self._stopped[fault.unit] = _Standstill(stopped)
        try:
            async with asyncio.timeout(fault.seconds):
                await standstill.over.wait()
        except TimeoutError:
            return True, f"pid {pid}"
        finally:
            self._wake(fault.unit)
        return True, f"pid {pid}, until it was killed"

    def _wake(self, unit: str) -> None:
        if standstill := self._stopped.pop(unit, None):
            wake(standstill.processes)
            standstill.over.set()

    async def _duplicate(self, fault: Duplicate) -> tuple[bool, str]:
        """Publish again; nobody is hit while the database is away, and it says how many messages were."""
        since = self._clock.now() - timedelta(seconds=fault.reach_seconds)
        options = PoolOptions(size=1, application="covey drill")
        try:
            async with (
                asyncio.timeout(_REPUBLISH_SECONDS),
                Database.open(self._system.database_url(fault.service), options) as database,
            ):
                number = await republish(database, since)
        except (CoveyError, OSError) as error:
            return False, f"{type(error).__name__}: {error}"
        return number > 0, f"{number} messages"

    async def _misbehave(self, fault: Own) -> tuple[bool, str]:
        own = self._own[fault.name]
        try:
            await own.begin()
        except (CoveyError, OSError) as error:
            return False, str(error)
        try:
            await self._clock.sleep(fault.seconds)
        finally:
            ended = await asyncio.shield(self._insist_on_end(own))
        return True, "" if ended else "it could not be ended"

    async def _insist_on_end(self, fault: OwnFault) -> bool:
        """End a fault, again and again: what it is ended through may be down just now."""
        until = self._clock.monotonic() + _HEALING_SECONDS
        while self._clock.monotonic() < until:
            try:
                await fault.end()
            except (CoveyError, OSError):
                await self._clock.sleep(_AGAIN_SECONDS)
            else:
                return True
        return False

    async def _until_all_up(self) -> list[str]:
        until = self._clock.monotonic() + _HEALING_SECONDS
        while (down := [unit for unit in self._system.units.values() if not isinstance(unit.state, Up)]) and (
            self._clock.monotonic() < until
        ):
            await self._clock.sleep(_LOOK_SECONDS)
        return [f"{unit.name} is not up again: {_why(unit)}" for unit in down]


def _why(unit: Unit) -> str:
    return getattr(unit.state, "reason", type(unit.state).__name__.lower())
