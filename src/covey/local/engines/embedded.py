"""The engines of a system, started together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from covey.local.engines.engine import RunningEngine, start
from covey.local.engines.nats import NatsServer
from covey.local.engines.postgres import PostgresServer
from covey.local.engines.valkey import ValkeyServer
from covey.local.program import Program
from covey.local.state import StateFolder, open_state

NAMES = ("postgres", "nats", "valkey")
"""What every system has whose broker is NATS; where it is Valkey, there is `STREAMS` in place of `nats`."""

STREAMS = "streams"
"""The name of the engine that is a broker on Valkey: not the one that keeps caches and limits."""

EVERY = (*NAMES, STREAMS)


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """`nats_sync_interval`: how long a message that JetStream has acknowledged may be on its way to the disk.

    `streams_appendfsync`: when what a broker on Valkey confirms is on the disk; with anything but "always" readers are
    told after each start that history may be lost.
    `postgres_fsync` off loses commits with the machine, not with the process: for tests, whose data nobody keeps.
    """

    nats_sync_interval: str = "always"
    streams_appendfsync: str = "always"
    postgres_fsync: bool = True


class Engines:
    """Three running engines that nobody else uses, and their addresses, passwords included.

    `postgres_url` is an administrator's: `covey.database.administration.ensure_database` makes databases with it.
    """

    def __init__(self, state: StateFolder, engines: Mapping[str, RunningEngine]) -> None:
        self.postgres, self.nats, self.valkey = (engines[name] for name in NAMES)
        self._state = state

    @property
    def postgres_url(self) -> str:
        """Return the address of PostgreSQL, for its superuser."""
        return self.postgres.url

    @property
    def nats_url(self) -> str:
        """Return the address of NATS."""
        return self.nats.url

    @property
    def valkey_url(self) -> str:
        """Return the address of Valkey."""
        return self.valkey.url

    async def stop(self) -> None:
        """Stop the engines in order and give the folder free. Their data stays in the folder."""
        try:
            await asyncio.gather(self.postgres.stop(), self.nats.stop(), self.valkey.stop())
        finally:
            await self._state.close()


async def start_all(folder: Path, options: EngineOptions | None = None) -> Engines:
    """Start PostgreSQL, NATS with JetStream and Valkey under `folder`, in parallel, and return when all answer.

    What is returned is not bound to the event loop: it may be stopped in another. If this process dies, the
    engines end too; data of an earlier run in the same folder is kept. Raises AlreadyRunning, EngineFailed.
    """
    state = await open_state(folder)
    try:
        engines = await start_engines(state, NAMES, options or EngineOptions())
    except BaseException:
        await state.close()
        raise
    return Engines(state, engines)


async def start_engines(state: StateFolder, names: Collection[str], options: EngineOptions) -> dict[str, RunningEngine]:
    """Start some of the engines under an open state folder, in parallel; if one fails, raise its error as it is."""
    makers: dict[str, Callable[[int], Program]] = {
        "postgres": lambda port: PostgresServer(state.path / "postgres", port, fsync=options.postgres_fsync),
        "nats": lambda port: NatsServer(state.path / "nats", port, state.secret("nats"), options.nats_sync_interval),
        "valkey": lambda port: ValkeyServer(state.path / "valkey", port, state.secret("valkey")),
        STREAMS: lambda port: ValkeyServer(
            state.path / STREAMS, port, state.secret(STREAMS), options.streams_appendfsync, STREAMS
        ),
    }
    try:
        async with asyncio.TaskGroup() as group:
            tasks = {name: group.create_task(start(state, name, makers[name])) for name in names}
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return {name: task.result() for name, task in tasks.items()}
