"""A database for each service of a system, with the tables that its code expects."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

from covey.database.administration import ensure_database
from covey.local.state import StateFolder
from covey.local.system import System


async def make_databases(system: System, folder: StateFolder, admin_url: str) -> dict[str, str]:
    """Make sure that each service has a database and a role, both named `<system>_<service>`; return their URLs."""

    async def one(service: str) -> str:
        name = f"{system.name}_{service}".replace("-", "_")
        return await ensure_database(admin_url, name, folder.secret(name))

    urls = await asyncio.gather(*(one(service) for service in system.services))
    return dict(zip(system.services, urls, strict=True))


async def migrate_databases(system: System, urls: Mapping[str, str]) -> dict[str, list[str]]:
    """Bring every database to the newest revisions; return what was applied, by service."""
    return await asyncio.to_thread(_migrate, system, urls)


def _migrate(system: System, urls: Mapping[str, str]) -> dict[str, list[str]]:
    from covey.database.migrations import migrate  # Alembic takes most of a second to import

    return {service: migrate(url, _revisions(system, service)) for service, url in urls.items()}


def _revisions(system: System, service: str) -> Path | None:
    folder = system.folder(service) / "migrations"
    return folder if folder.is_dir() else None
