"""Migrated databases in a fraction of a second: a template for each set of migrations, and copies of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from covey.database.administration import connected, copy_database, drop_database, ensure_database
from covey.database.errors import DRIVER_ERRORS
from covey.ids import new_id

if TYPE_CHECKING:
    from covey.database.pool import Connection

T = TypeVar("T")

_PASSWORD = "for tests only"


class Databases:
    """Makes databases on the PostgreSQL of `admin_url`. Safe to use whether or not a loop is running; it blocks.

    It keeps one connection, in a thread and a loop of its own: to connect takes nearly as long as to copy.
    """

    def __init__(self, admin_url: str) -> None:
        self._admin_url = admin_url
        self._templates: dict[Path | None, str] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="covey databases")
        self._runner = asyncio.Runner()
        self._admin: Connection | None = None
        self._kept = AsyncExitStack()

    def make(self, migrations: Path | None) -> str:
        """Return the URL of a new database with covey's tables and those of the folder `migrations`."""
        if migrations not in self._templates:
            self._templates[migrations] = self._template(migrations)
        template = self._templates[migrations]
        return self._do(lambda admin: copy_database(admin, template, f"test_{new_id().hex}"))

    def drop(self, url: str) -> None:
        """Drop a database that `make` made, and end its connections."""
        self._do(lambda admin: drop_database(admin, url))

    def close(self) -> None:
        """Leave the server alone."""
        self._thread.submit(self._runner.run, self._kept.aclose()).result()
        self._thread.submit(self._runner.close).result()
        self._thread.shutdown()

    def _template(self, migrations: Path | None) -> str:
        from covey.database.migrations import migrate  # takes a second, which the databases of covey alone save

        url = self._do(lambda _: ensure_database(self._admin_url, f"template_{new_id().hex}", _PASSWORD))
        migrate(url, migrations)
        return url

    def _do(self, work: Callable[[Connection], Coroutine[Any, Any, T]]) -> T:
        async def done() -> T:
            return await work(await self._connected())

        return self._thread.submit(self._runner.run, done()).result()

    async def _connected(self) -> Connection:
        """Return the connection; a new one if the server was killed since, as some tests do."""
        if self._admin is not None:
            try:
                await self._admin.execute("SELECT 1")
                return self._admin
            except (OSError, *DRIVER_ERRORS):
                await self._kept.aclose()
        self._admin = await self._kept.enter_async_context(connected(self._admin_url))
        return self._admin
