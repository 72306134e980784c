"""The ground that systems under test stand on: real engines, and a nursery for the shop's processes."""

from __future__ import annotations

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from covey.local.engines.embedded import STREAMS, EngineOptions, start_engines
from covey.local.engines.engine import RunningEngine
from covey.local.ports import reserve_port
from covey.local.state import StateFolder, open_state
from covey.testing.databases import Databases
from shop.books import SERVICES
from tests.harness.processes import Nursery

_OUTSIDE = ("sandbox_provider.api", "sandbox_carrier.api", "mail_sink.api")
_OPTIONS = EngineOptions(postgres_fsync=False)
"""Processes are killed here, machines are not: what PostgreSQL has written outlives it without being on the disk."""


@dataclass(frozen=True)
class Floor:
    """Engines, databases to be had, and what starts processes. If this process dies, all of it ends."""

    folder: StateFolder
    engines: dict[str, RunningEngine]
    databases: Databases
    nursery: Nursery
    migrating: asyncio.Lock
    aside: list[socket.socket] = field(default_factory=list)

    def broker(self) -> dict[str, str]:
        """Return what a service is told of its broker."""
        nats = self.engines.get("nats")
        return {"NATS_URL": nats.url} if nats else {"BROKER_URL": self.engines[STREAMS].url}

    def port(self) -> int:
        """Return a port that nobody else chooses while this floor is open, also not while its process is dead."""
        port, aside = reserve_port()
        self.aside.append(aside)
        return port

    async def kill_and_restart(self, name: str) -> None:
        """Kill an engine with SIGKILL and start it again, with the same data and at the same address."""
        process = self.engines[name].process
        process.kill()
        await process.wait()
        self.engines.update(await start_engines(self.folder, [name], _OPTIONS))

    async def database(self, migrations: Path) -> str:
        """Make a database with covey's tables and those of a service; return its URL."""
        async with self.migrating:
            return await asyncio.to_thread(self.databases.make, migrations)


@asynccontextmanager
async def floor(folder: Path, broker: str = "nats") -> AsyncIterator[Floor]:
    """Have engines and a nursery for the length of a block; all logs stay in `folder`. `broker` is one of the engines.

    A broker on Valkey, `STREAMS`, is not looked into: what passes between it and a service is seen by no proxy.
    """
    state = await open_state(folder)
    try:
        engines = await start_engines(state, ("postgres", broker), _OPTIONS)
        databases = Databases(engines["postgres"].url)
        nursery = await Nursery.open(*(f"{service}_service.main" for service in SERVICES), *_OUTSIDE)
        ground = Floor(state, engines, databases, nursery, asyncio.Lock())
        try:
            yield ground
        finally:
            await nursery.close()
            await asyncio.to_thread(databases.close)
            for aside in ground.aside:
                aside.close()
    finally:
        await state.close()
        for data in ("postgres", broker):
            await asyncio.to_thread(shutil.rmtree, folder / data, ignore_errors=True)
