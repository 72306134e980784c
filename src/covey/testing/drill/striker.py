"""Carries out a schedule on a running system, and heals what it has done.

Processes are hit by the id that their unit has at that moment, never by name. What cannot be done just now, because its
victim is down from another fault, is done as soon as it can, if need be in the calm, but not after the load.
"""

from __future__ import annotations

import asyncio
import math
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
from covey.testing.drill.faults import Duplicate, Fault, Kill, KillRelay, Own, Pause
from covey.testing.drill.record import Record, Strike
from covey.testing.drill.relays import relay_of
from covey.testing.drill.schedule import Schedule
from covey.testing.drill.standstill import stop, wake

_LOOK_SECONDS = 0.05
_AGAIN_SECONDS = 0.5
_ANSWER_SECONDS = 8.0
_HEALING_SECONDS = 60.0


@dataclass(frozen=True)
class _Standstill:
    """What stands still, and whether that is over."""

    processes: list[psutil.Process]
    over: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True)
class _Outcome:
    """Since when a fault was there, whether anybody was hit, and who."""

    at: float
    hit: bool
    note: str


class Striker:
    """Breaks one system. After `heal` nothing stands still, and each of the system's own faults has ended."""

    def __init__(self, system: RunningSystem, own: Iterable[OwnFault], record: Record, clock: Clock) -> None:
        self._system = system
        self._own: Mapping[str, OwnFault] = {fault.name: fault for fault in own}
        self._record = record
        self._clock = clock
        self._stopped: dict[str, _Standstill] = {}
        self._one_own = asyncio.Lock()
        self._load_ends = math.inf

    async def carry_out(self, schedule: Schedule) -> None:
        """Carry out all faults at their times, each on its own, so that they overlap; return when all are over."""
        self._load_ends = schedule.seconds
        async with asyncio.TaskGroup() as group:
            for fault in schedule.faults:
                await self._clock.sleep(fault.at - self._record.now())
                group.create_task(self._strike(fault))

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

    async def _strike(self, fault: Fault) -> None:
        match fault:
            case Kill():
                outcome = await self._kill(fault)
            case KillRelay():
                outcome = await self._kill_relay(fault)
            case Pause():
                outcome = await self._pause(fault)
            case Duplicate():
                outcome = await self._duplicate(fault)
            case Own():
                outcome = await self._misbehave(fault)
            case _:
                assert_never(fault)
        until = self._record.now()
        self._record.strikes.append(Strike(fault=fault, at=outcome.at, until=until, hit=outcome.hit, note=outcome.note))

    def _is_over(self, seconds: float = 0.0) -> bool:
        """Tell whether the load is over, or will be in so many seconds."""
        return self._record.now() + seconds >= self._load_ends

    def _outcome(self, hit: bool, note: str) -> _Outcome:
        return _Outcome(self._record.now(), hit, note)

    async def _kill(self, fault: Kill) -> _Outcome:
        """Kill a process. A kill of nobody is none."""
        unit = self._system.units[fault.unit]
        while (note := await self._kill_now(unit)) is None:
            if self._is_over():
                return self._outcome(False, "it did not run")
            await asyncio.sleep(_LOOK_SECONDS)
        return self._outcome(True, note)

    async def _kill_relay(self, fault: KillRelay) -> _Outcome:
        """Kill the process whose session has the relay's lock; the next that has it, when the database is away."""
        why = "nobody had the role"
        while not self._is_over():
            try:
                async with asyncio.timeout(_ANSWER_SECONDS):
                    unit = await relay_of(self._system, fault.service)
            except (CoveyError, OSError) as error:
                unit, why = None, f"{type(error).__name__}: {error}"
            if unit is not None and (note := await self._kill_now(unit)) is not None:
                return self._outcome(True, f"{unit.name} had the role's lock: {note}")
            await asyncio.sleep(_AGAIN_SECONDS)
        return self._outcome(False, why)

    async def _kill_now(self, unit: Unit) -> str | None:
        """Kill a process and return which it was; None when there is none."""
        if (pid := unit.pid) is None:
            return None
        began = isinstance(unit.state, Up)
        await unit.kill()
        self._wake(unit.name)  # what it had started, and stands still, keeps its files and its memory
        return f"pid {pid}" if began else f"pid {pid}, before it was up"

    async def _pause(self, fault: Pause) -> _Outcome:
        """Stop a process that does not stand still already, unless it would not go on before the end of the load."""
        while not (stopped := self._stop(fault.unit)):
            if self._is_over(fault.seconds):
                return self._outcome(False, "it did not run")
            await asyncio.sleep(_LOOK_SECONDS)
        began, standstill = self._record.now(), _Standstill(stopped)
        self._stopped[fault.unit] = standstill
        try:
            async with asyncio.timeout(fault.seconds):
                await standstill.over.wait()
        except TimeoutError:
            return _Outcome(began, True, f"pid {stopped[0].pid}")
        finally:
            self._wake(fault.unit)
        return _Outcome(began, True, f"pid {stopped[0].pid}, until it was killed")

    def _stop(self, unit: str) -> list[psutil.Process]:
        pid = self._system.units[unit].pid
        return stop(pid) if pid is not None and unit not in self._stopped else []

    def _wake(self, unit: str) -> None:
        if standstill := self._stopped.pop(unit, None):
            wake(standstill.processes)
            standstill.over.set()

    async def _duplicate(self, fault: Duplicate) -> _Outcome:
        """Publish again, and say how many messages that were; none at all is nobody hit."""
        while True:
            try:
                number = await self._republish(fault)
            except (CoveyError, OSError) as error:
                if self._is_over():
                    return self._outcome(False, f"{type(error).__name__}: {error}")
                await self._clock.sleep(_AGAIN_SECONDS)
            else:
                return self._outcome(number > 0, f"{number} messages")

    async def _republish(self, fault: Duplicate) -> int:
        since = self._clock.now() - timedelta(seconds=fault.reach_seconds)
        url, options = self._system.database_url(fault.service), PoolOptions(size=1, application="covey drill")
        async with asyncio.timeout(_ANSWER_SECONDS), Database.open(url, options) as database:
            return await republish(database, since)

    async def _misbehave(self, fault: Own) -> _Outcome:
        """Begin a fault and end it again, one at a time: a fault that comes late must not meet the next."""
        own = self._own[fault.name]
        async with self._one_own:
            if (why := await self._insist_on_begin(own)) is not None:
                return self._outcome(False, why)
            began = self._record.now()
            try:
                await self._clock.sleep(min(fault.seconds, self._load_ends - began))
            finally:
                ended = await asyncio.shield(self._insist_on_end(own))
        return _Outcome(began, True, "" if ended else "it could not be ended")

    async def _insist_on_begin(self, fault: OwnFault) -> str | None:
        """Begin a fault, again and again: who is to be told of it may be down just now. Return why it could not be."""
        why = "the load was over"
        while not self._is_over():
            try:
                await fault.begin()
            except (CoveyError, OSError) as error:
                why = str(error)
                await self._clock.sleep(_AGAIN_SECONDS)
            else:
                return None
        return why

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
