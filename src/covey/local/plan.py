"""What each process of a system is started with: its place, its port and its environment."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from covey.local.backing import Addresses
from covey.local.processes import PROCESS_RANK, SERVICE_RANK, Launch
from covey.local.program import HostedServices, HttpService, OtherProcess, Program
from covey.local.system import ONE_PROCESS, REFERENCE, SERVICE_PORTS, System
from covey.settings import STATE

Adjust = Callable[[str, Mapping[str, str]], Awaitable[Mapping[str, str]]]
"""Given the name of a process and what it would be told, returns what it is told instead."""

_GIVEN_BY_COVEY = (
    *("DATABASE_URL", "NATS_URL", "BROKER_URL", "VALKEY_URL", "REDIS_URL", "COVEY_POSTGRES_ADMIN_URL", "COVEY_SERVICE"),
    "DEVELOPMENT_KEY",
)


@dataclass(frozen=True, kw_only=True)
class Member:
    """One process of the system that is to be: a replica of a service, or another process; `ports` are further ones."""

    name: str
    entry: str
    replica: int
    port: int
    ports: Mapping[str, int] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Return its address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def named_ports(self) -> dict[str, int]:
        """Return all its ports, by the names under which they are remembered."""
        return {self.name: self.port, **{f"{self.name}.{of}": port for of, port in self.ports.items()}}

    def address(self, of: str) -> str:
        """Return what stands for `{processes.<name>.<of>}`."""
        return self.url if of == "url" else f"127.0.0.1:{self.ports[of]}"


def members_of(system: System, replicas: Mapping[str, int], port_of: Callable[[str], int]) -> list[Member]:
    """Return every process of the system: other processes first, then services; replicas are `order`, `order-2`, …"""
    counts = dict.fromkeys(system.processes, 1)
    counts |= {name: replicas.get(name, entry.replicas) for name, entry in system.services.items()}
    return [
        Member(name=name, entry=entry, replica=replica, port=port_of(name), ports=_further(system, name, port_of))
        for entry, count in counts.items()
        for replica in range(1, count + 1)
        for name in [entry if replica == 1 else f"{entry}-{replica}"]
    ]


def _further(system: System, name: str, port_of: Callable[[str], int]) -> dict[str, int]:
    entry = system.processes.get(name)
    return {port: port_of(f"{name}.{port}") for port in (entry.ports if entry else SERVICE_PORTS)}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that decides how the members of one system are started. Each is told where the state of this one is.

    Another that is up beside it has files for services of the same names.
    """

    system: System
    members: list[Member]
    addresses: Addresses
    database_urls: Mapping[str, str]
    outer_environment: Mapping[str, str]
    state: Path
    development_key: str

    def told(self, member: Member) -> dict[str, str]:
        """Return what covey adds to the environment of that process."""
        own = {name: self._resolved(value) for name, value in self.system.environments()[member.entry].items()}
        further = {f"{name.upper()}_PORT": str(port) for name, port in member.ports.items()}
        basics = {"HOST": "127.0.0.1", "PORT": str(member.port), **further, "COVEY_SYSTEM": self.system.name}
        if member.entry in self.system.processes:
            return basics | {"COVEY_DATA": str(self.state / "data" / member.name)} | own
        backing = {
            "COVEY_SERVICE": member.entry,
            "COVEY_REPLICA": str(member.replica),
            "DATABASE_URL": self.database_urls[member.entry],
            **self._broker(),
            "VALKEY_URL": self.addresses.valkey_url,
            "DEVELOPMENT_KEY": self.development_key,
        }
        return basics | backing | own

    def _broker(self) -> dict[str, str]:
        addresses = self.addresses
        return {"NATS_URL": addresses.nats_url} if addresses.nats_url else {"BROKER_URL": addresses.streams_url}

    def program(self, member: Member, told: Mapping[str, str]) -> Program:
        """Return the program of that member, told this."""
        environment = {**self._environment([member]), **told}
        process = self.system.processes.get(member.entry)
        launch = Launch(
            name=member.name,
            command=shlex.split(process.command) if process else self._service_command(member),
            folder=self.system.root,
            environment=environment,
            rank=PROCESS_RANK if process else SERVICE_RANK,
        )
        return OtherProcess(launch, member.port) if process else HttpService(launch, member.port)

    def one_program(self, members: Sequence[Member]) -> Program:
        """Return the program that runs all these services; each is told what the state folder has for it."""
        launch = Launch(
            name=ONE_PROCESS,
            command=[sys.executable, "-m", "covey.local.host", *(member.entry for member in members)],
            folder=self.system.root,
            environment=self._environment(members),
            rank=SERVICE_RANK,
        )
        return HostedServices(launch, {member.name: member.port for member in members})

    def _environment(self, members: Iterable[Member]) -> dict[str, str]:
        """Return what a process has in its environment whatever it is told."""
        folders = dict.fromkeys(str(self.system.folder(member.entry)) for member in members)
        path = os.pathsep.join(filter(None, [*folders, self.outer_environment.get("PYTHONPATH")]))
        outer = {name: value for name, value in self.outer_environment.items() if name not in _GIVEN_BY_COVEY}
        return {**outer, STATE: str(self.state), "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}

    def _service_command(self, member: Member) -> list[str]:
        return [sys.executable, "-m", self.system.module(member.entry)]

    def _resolved(self, value: str) -> str:
        members = {member.name: member for member in self.members}
        return REFERENCE.sub(lambda match: members[match[2]].address(match[3]), value)
