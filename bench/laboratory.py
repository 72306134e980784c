"""What every question needs: engines from wheels, a collector of spans, fresh databases.

One PostgreSQL, and a NATS for each sync mode of JetStream, so that both can be compared in one run.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.party import running
from covey.database.administration import connected, copy_database, ensure_database
from covey.database.migrations import migrate
from covey.ids import new_id
from covey.local.engines.embedded import EngineOptions, start_all, start_engines
from covey.local.state import open_state

ALWAYS = "always"
DEFAULT = "2m"
"""The sync modes: each message on disk before it is confirmed; or what nats-server does by itself."""

PASSWORD = "for the bench only"


@dataclass
class Laboratory:
    """Engines that run, and addresses. `log` takes what the processes of the bench print.

    `pids` are of the processes beside the engines that serve every question.
    """

    folder: Path
    postgres_url: str
    nats_urls: dict[str, str]
    collector: str
    valkey_url: str
    pids: dict[str, int] = field(default_factory=dict)
    _templates: dict[str, str] = field(default_factory=dict)

    @property
    def log(self) -> Path:
        """Return the file for the output of parties."""
        return self.folder / "parties.log"

    async def database(self, tables: str = "") -> str:
        """Make a database with covey's tables and these; return its URL."""
        if tables not in self._templates:
            url = await ensure_database(self.postgres_url, f"template_{len(self._templates)}", PASSWORD)
            await asyncio.to_thread(migrate, url, None)
            await run_sql(url, tables)
            self._templates[tables] = url
        async with connected(self.postgres_url) as admin:
            return await copy_database(admin, self._templates[tables], f"bench_{new_id().hex}")

    async def bare_database(self) -> str:
        """Make an empty database; return its URL."""
        return await ensure_database(self.postgres_url, f"bare_{new_id().hex}", PASSWORD)


@asynccontextmanager
async def laboratory(folder: Path, modes: Iterable[str] = (ALWAYS, DEFAULT)) -> AsyncIterator[Laboratory]:
    """Start the engines and a collector under `folder`; stop them at the end of the block."""
    async with AsyncExitStack() as stack:
        engines = await start_all(folder / "engines", EngineOptions(nats_sync_interval=ALWAYS))
        stack.push_async_callback(engines.stop)
        nats = {ALWAYS: engines.nats_url}
        for mode in set(modes) - {ALWAYS}:
            state = await open_state(folder / f"nats-{mode}")
            stack.push_async_callback(state.close)
            server = (await start_engines(state, ["nats"], EngineOptions(nats_sync_interval=mode)))["nats"]
            stack.push_async_callback(server.stop)
            nats[mode] = server.url
        collector = await stack.enter_async_context(running("collector", "collector", folder / "collector.log"))
        endpoint = await collector.ask("endpoint")
        pids = {"collector": collector.process.pid}
        yield Laboratory(folder, engines.postgres_url, nats, endpoint, engines.valkey_url, pids)


async def run_sql(url: str, statements: str) -> None:
    """Run statements on a database, on a connection of their own."""
    import asyncpg

    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statements)
    finally:
        await connection.close()
