"""The three engines of a system, started together."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from covey.local.engines.engine import RunningEngine, start
from covey.local.engines.nats import NatsServer
from covey.local.engines.postgres import PostgresServer
from covey.local.engines.valkey import ValkeyServer
from covey.local.state import StateFolder, open_state


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """`nats_sync_interval`: how long a message that JetStream has acknowledged may be on its way to the disk."""

    nats_sync_interval: str = "always"


class Engines:
    """Three running engines that nobody else uses, and their addresses, passwords included.

    `postgres_url` is an administrator's: `covey.database.administration.ensure_database` makes databases with it.
    """

    def __init__(self, state: StateFolder, postgres: RunningEngine, nats: RunningEngine, valkey: RunningEngine) -> None:
        self.postgres, self.nats, self.valkey = postgres, nats, valkey
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
    options = options or EngineOptions()
    try:
        postgres, nats, valkey = await together(start_postgres(state), start_nats(state, options), start_valkey(state))
    except BaseException:
        await state.close()
        raise
    return Engines(state, postgres, nats, valkey)


async def together(*starting: Coroutine[Any, Any, RunningEngine]) -> list[RunningEngine]:
    """Start engines in parallel; if one fails, give up the others and raise its error as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in starting]
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]


async def start_postgres(state: StateFolder) -> RunningEngine:
    """Start PostgreSQL under an open state folder."""
    return await start(state, "postgres", partial(PostgresServer, state.path / "postgres"))


async def start_nats(state: StateFolder, options: EngineOptions) -> RunningEngine:
    """Start NATS under an open state folder."""
    secret = state.secret("nats")
    return await start(
        state, "nats", lambda port: NatsServer(state.path / "nats", port, secret, options.nats_sync_interval)
    )


async def start_valkey(state: StateFolder) -> RunningEngine:
    """Start Valkey under an open state folder."""
    secret = state.secret("valkey")
    return await start(state, "valkey", lambda port: ValkeyServer(state.path / "valkey", port, secret))
