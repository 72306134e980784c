"""The whole shop as `covey up` runs it, for a question: in both topologies and sync modes, and what it costs."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.laboratory import Laboratory
from covey.local.running import RunningSystem, UpOptions, running_system
from covey.local.system import FILE

PROJECT = Path(__file__).parent.parent
Cpu = dict[str, float]


@dataclass(frozen=True)
class Topology:
    """How the shop runs: a process for each service or one for all, and JetStream's sync mode."""

    sync: str
    one_process: bool = False

    @property
    def name(self) -> str:
        """Return what it is called in tables."""
        return f"{'one process' if self.one_process else 'six processes'}, sync {self.sync}"


@asynccontextmanager
async def shop(laboratory: Laboratory, topology: Topology, name: str = "shop") -> AsyncIterator[RunningSystem]:
    """Have a shop up as long as the block runs. One of the same topology and name finds what it has left."""
    root = laboratory.folder / f"{name}-{topology.sync}-{'one' if topology.one_process else 'many'}"
    _link(root, topology.sync)
    environment = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": laboratory.collector}
    options = UpOptions(one_process=topology.one_process, environment=environment)
    async with running_system(root, options) as system:
        yield system


def _link(root: Path, sync: str) -> None:
    """Make a folder of the shop that differs from the project's in the sync mode and has a state of its own."""
    if not root.exists():
        root.mkdir()
        for part in ("services", "shop"):
            (root / part).symlink_to(PROJECT / part)
        (root / FILE).write_text(f'{(PROJECT / FILE).read_text()}\n[engines.nats]\nsync_interval = "{sync}"\n')


def roots(system: RunningSystem, more: Mapping[str, int]) -> dict[str, int]:
    """Return the pid of every process of the shop by name, and of these."""
    units = dict.fromkeys(system.units.values())
    return {**{unit.name: unit.pid for unit in units if unit.pid}, **more}


def service_pids(system: RunningSystem) -> list[int]:
    """Return the pids of the processes in which the services run."""
    units = dict.fromkeys(unit for name in system.system.services for unit in system.replicas(name))
    return [unit.pid for unit in units if unit.pid]


def pss_mb(pids: list[int]) -> float:
    """Return the memory of processes, what they share divided among all who share it."""
    return float(sum(psutil.Process(pid).memory_full_info().pss for pid in pids)) / 1e6


def cpu_seconds(pids: Mapping[str, int]) -> Cpu:
    """Return the CPU time that each process has taken so far, with all that it has started."""
    return {name: _with_children(psutil.Process(pid)) for name, pid in pids.items()}


def _with_children(root: psutil.Process) -> float:
    spent = float(sum(root.cpu_times()[2:4]))  # of children that have ended
    for process in (root, *root.children(recursive=True)):
        try:
            spent += sum(process.cpu_times()[:2])
        except psutil.NoSuchProcess:  # its time is its parent's from now on
            continue
    return spent
