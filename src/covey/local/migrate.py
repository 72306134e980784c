"""`covey migrate`: bring every database of a system to the newest revisions, whether it is up or not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from covey.local.backing import start_backing
from covey.local.chosen import state_folder
from covey.local.databases import make_databases, migrate_databases
from covey.local.engines.embedded import EngineOptions
from covey.local.environment import read_environment
from covey.local.state import open_state, supervisor_of
from covey.local.system import System, read_system


async def migrate_system(root: Path, environment: Mapping[str, str]) -> dict[str, list[str]]:
    """Return what was applied, by service. Starts PostgreSQL for it when the system is not up.

    Raises what `covey.database.migrations.migrate` does.
    """
    system = read_system(root)
    folder = state_folder(system.root, environment)
    if supervisor_of(folder) is not None:
        urls = {name: read_environment(folder, name)["DATABASE_URL"] for name in system.services}
        return await migrate_databases(system, urls)
    return await _migrate_stopped(system, folder, environment)


async def _migrate_stopped(system: System, folder: Path, environment: Mapping[str, str]) -> dict[str, list[str]]:
    state = await open_state(folder)
    try:
        backing = await start_backing(state, system.engine_names, EngineOptions(), environment)
        urls = await make_databases(system, state, backing.addresses.postgres_admin_url)
        applied = await migrate_databases(system, urls)
        for engine in backing.embedded.values():
            await engine.stop()
        return applied
    finally:
        await state.close()
