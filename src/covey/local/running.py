"""A system that is up: its engines, services and other processes, each kept running.

This is what `covey up` runs, and what the demo, the crash tests and the drills start from Python.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn

from covey.errors import ConfigurationError
from covey.local.backing import Addresses, Backing, start_backing
from covey.local.chosen import state_folder
from covey.local.databases import make_databases, migrate_databases
from covey.local.engines.embedded import EngineOptions
from covey.local.engines.engine import STOP_SECONDS
from covey.local.environment import environment_file, write_environment
from covey.local.plan import Adjust, Member, Plan, members_of
from covey.local.program import Program
from covey.local.registry import registered
from covey.local.state import StateFolder, StateLost, open_state
from covey.local.status import write_status
from covey.local.system import ONE_PROCESS, System, read_system
from covey.local.tokens import development_key
from covey.local.unit import Unit
from covey.security.principal import DevelopmentTokens

_DRAIN_SECONDS = 15.0
"""A service may take its `drain_timeout` (10 s by default) to finish, and a moment to close."""
_WATCH_SECONDS = 0.5


async def _as_it_is(_name: str, told: Mapping[str, str]) -> Mapping[str, str]:
    return told


def _silent(_unit: Unit) -> None:
    return None


@dataclass(frozen=True, kw_only=True)
class UpOptions:
    """How a system is brought up.

    `without`: services that are left out, to be started by hand; their databases are made, their ports kept free.
    `replicas`: how many of a service, in place of what the system file says. `one_process`: all services run in one
    process and one event loop, so that each can have one replica only. `state`: the state folder, by default the one
    that `environment` names, or `.covey` beside the system file. `environment`: what the processes inherit, and what
    may name engines.
    `adjust`: has the last word on what a process is told, to put a proxy in between. `announce`: called at each
    change of a unit's state.
    """

    without: Collection[str] = ()
    replicas: Mapping[str, int] = field(default_factory=dict)
    one_process: bool = False
    state: Path | None = None
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    adjust: Adjust = _as_it_is
    announce: Callable[[Unit], None] = _silent

    def state_of(self, root: Path) -> Path:
        """Return the state folder of the system of that folder. Raises ConfigurationError."""
        return self.state or state_folder(root, self.environment)


class RunningSystem:
    """A system that is up. `units` are what runs each by name: engines that we run, other processes, services.

    Services that share a process share its unit.
    """

    def __init__(self, plan: Plan, folder: StateFolder, options: UpOptions) -> None:
        self.units: dict[str, Unit] = {}
        self._plan = plan
        self._folder = folder
        self._options = options

    @property
    def system(self) -> System:
        """Return what the system file says."""
        return self._plan.system

    @property
    def state(self) -> Path:
        """Return its state folder."""
        return self._folder.path

    @property
    def moved(self) -> Mapping[str, tuple[int, int]]:
        """Return the ports that another program held: the old one and the one instead, by name."""
        return self._folder.moved

    @property
    def addresses(self) -> Addresses:
        """Return where the engines are."""
        return self._plan.addresses

    def url(self, name: str) -> str:
        """Return the address of a service or another process, also of one left out."""
        return next(member.url for member in self._plan.members if member.name == name)

    def database_url(self, service: str) -> str:
        """Return the address of a service's database, for its role."""
        return self._plan.database_urls[service]

    def token(self, subject: str, *roles: str) -> str:
        """Return a token by which the services of this system know a subject, such as `user:0199…`, and its roles."""
        return DevelopmentTokens(self._plan.development_key).mint(subject, *roles)

    @property
    def development_key(self) -> str:
        """Return what development tokens of this system are signed with: for a process that mints them itself."""
        return self._plan.development_key

    def replicas(self, service: str) -> list[Unit]:
        """Return the units of a service."""
        return [self.units[member.name] for member in self._members() if member.entry == service]

    async def told(self, service: str) -> Mapping[str, str]:
        """Return what the first replica of a service is told."""
        member = next(member for member in self._plan.members if member.name == service)
        return await self._options.adjust(service, self._plan.told(member))

    async def restart(self, units: Collection[Unit]) -> None:
        """Stop these units in order and start them again; return when they are up."""
        await asyncio.gather(*(unit.restart(_DRAIN_SECONDS) for unit in units))
        await asyncio.gather(*(unit.up() for unit in units))

    async def scale(self, service: str, count: int) -> None:
        """Run so many replicas of a service; return when new ones are up, and those that are too many have stopped.

        The last ones go first, and drain. Raises StartFailed, and ConfigurationError when services share a process.
        """
        if self._options.one_process:
            _require_single(self.system, {**self._options.replicas, service: count})
        surplus = self.replicas(service)[count:]
        await asyncio.gather(*(unit.stop(_DRAIN_SECONDS) for unit in surplus))
        for unit in surplus:
            del self.units[unit.name]
        ports = {name: port for member in self._plan.members for name, port in member.named_ports.items()}
        counts = {**Counter(member.entry for member in self._plan.members), service: count}
        members = members_of(self.system, counts, lambda name: ports.get(name) or self._folder.port(name))
        self._plan = replace(self._plan, members=members)
        for member in members:
            if member.entry == service and member.name not in self.units:
                self._add(member.name, self._plan.program(member, await self._tell(member)), [member.name]).start()
        await asyncio.gather(*(unit.up() for unit in self.replicas(service)))
        self._write_status()

    async def migrate(self) -> dict[str, list[str]]:
        """Bring every database to the newest revisions; return what was applied, by service."""
        return await migrate_databases(self.system, self._plan.database_urls)

    def adopt(self, backing: Backing) -> None:
        """Keep engines running that are up."""
        for name, engine in backing.embedded.items():
            self._add(name, engine.program, [name]).start(engine.process)

    async def start(self) -> None:
        """Start every member that is not left out and return when all are up. Raises StartFailed."""
        await self._add_members()
        for unit in _each(self.units[member.name] for member in self._members()):
            unit.start()
        await asyncio.gather(*(unit.up() for unit in _each(self.units.values())))
        self._write_status()  # there may be no unit at all that changed

    async def until_lost(self) -> NoReturn:
        """Wait as long as the state folder is ours, then raise StateLost: from there on nobody else can stop us."""
        while True:
            self._folder.check()
            await asyncio.sleep(_WATCH_SECONDS)

    async def stop(self) -> None:
        """Stop in order: services, which drain; other processes, on which they may depend; engines."""
        services = _each(unit for name in self.system.services for unit in self.replicas(name))
        others = [unit for name in self.system.processes for unit in self.replicas(name)]
        engines = [unit for unit in self.units.values() if unit not in services and unit not in others]
        for group, grace in ((services, _DRAIN_SECONDS), (others, _DRAIN_SECONDS), (engines, STOP_SECONDS)):
            await asyncio.gather(*(unit.stop(grace) for unit in group))
        with suppress(StateLost):
            self._folder.check()
            for name in self.system.services:
                environment_file(self._folder.path, name).unlink(missing_ok=True)

    async def _add_members(self) -> None:
        together: list[Member] = []
        for member in self._plan.members:
            told = await self._tell(member)
            if member.entry in self._options.without:
                continue
            if member.entry in self.system.services and self._options.one_process:
                together.append(member)
            else:
                self._add(member.name, self._plan.program(member, told), [member.name])
        if together:
            program = self._plan.one_program(together)
            self._add(ONE_PROCESS, program, [member.name for member in together])

    async def _tell(self, member: Member) -> Mapping[str, str]:
        """Return what a member is told, and leave it for who starts the service by hand."""
        told = await self._options.adjust(member.name, self._plan.told(member))
        if member.entry in self.system.services and member.replica == 1:
            write_environment(self._folder.path, member.entry, told)
        return told

    def _add(self, name: str, program: Program, runs: Collection[str]) -> Unit:
        unit = Unit(self._folder, name, program, self._changed)
        self.units |= dict.fromkeys(runs, unit)
        return unit

    def _members(self) -> list[Member]:
        """Return the members that are not left out."""
        return [member for member in self._plan.members if member.name in self.units]

    def _changed(self, unit: Unit) -> None:
        self._write_status()
        self._options.announce(unit)

    def _write_status(self) -> None:
        with suppress(OSError, StateLost):  # a full disk must not end the supervision of what still runs
            self._folder.check()
            addresses = {member.name: member.url for member in self._plan.members}
            write_status(self._folder.path, self.system, self.units, addresses, self._options.without)


def _each(units: Iterable[Unit]) -> list[Unit]:
    """Return every unit once."""
    return list(dict.fromkeys(units))


def _require_single(system: System, replicas: Mapping[str, int]) -> None:
    """Raise ConfigurationError for a service of several replicas: in one process they would share what they are for."""
    for name, entry in system.services.items():
        if (count := replicas.get(name, entry.replicas)) != 1:
            raise ConfigurationError(
                f"{name} has {count} replicas, and in one process every service runs once:"
                f" say --replicas {name}=1, or leave --one-process out"
            )


@asynccontextmanager
async def running_system(root: Path, options: UpOptions | None = None) -> AsyncIterator[RunningSystem]:
    """Bring up the system of the folder `root`, hold it up inside the block, and stop it in order.

    Raises ConfigurationError for a bad system file, AlreadyRunning, EngineFailed, StartFailed.
    """
    options = options or UpOptions()
    system = read_system(root)
    if options.one_process:
        _require_single(system, options.replicas)
    folder = await open_state(options.state_of(system.root))
    with registered(system.name, folder.path):
        try:
            running = await _with_engines(system, folder, options)
            try:
                await running.start()
                yield running
            finally:
                await running.stop()
        finally:
            await folder.close()


def _engine_options(system: System) -> EngineOptions:
    engines = system.engines
    return EngineOptions(nats_sync_interval=engines.nats.sync_interval, streams_appendfsync=engines.streams.appendfsync)


async def _with_engines(system: System, folder: StateFolder, options: UpOptions) -> RunningSystem:
    members = members_of(system, options.replicas, folder.port)
    backing = await start_backing(folder, system.engine_names, _engine_options(system), options.environment)
    database_urls = await make_databases(system, folder, backing.addresses.postgres_admin_url)
    await migrate_databases(system, database_urls)
    plan = Plan(
        system=system,
        members=members,
        addresses=backing.addresses,
        database_urls=database_urls,
        outer_environment=options.environment,
        state=folder.path,
        development_key=development_key(folder),
    )
    running = RunningSystem(plan, folder, options)
    running.adopt(backing)
    return running
