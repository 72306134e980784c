"""Migrated databases in a fraction of a second: a template for each set of migrations, and copies of it."""

from __future__ import annotations

from pathlib import Path

from covey.database.administration import copy_database, drop_database, ensure_database
from covey.ids import new_id
from covey.testing.blocking import blocking

_PASSWORD = "for tests only"


class Databases:
    """Makes databases on the PostgreSQL of `admin_url`. Safe to use whether or not a loop is running; it blocks."""

    def __init__(self, admin_url: str) -> None:
        self._admin_url = admin_url
        self._templates: dict[Path | None, str] = {}

    def make(self, migrations: Path | None) -> str:
        """Return the URL of a new database with covey's tables and those of the folder `migrations`."""
        if migrations not in self._templates:
            self._templates[migrations] = self._template(migrations)
        return blocking(copy_database(self._admin_url, self._templates[migrations], f"test_{new_id().hex}"))

    def drop(self, url: str) -> None:
        """Drop a database that `make` made, and end its connections."""
        blocking(drop_database(self._admin_url, url))

    def _template(self, migrations: Path | None) -> str:
        from covey.database.migrations import migrate  # takes a second, which the databases of covey alone save

        url = blocking(ensure_database(self._admin_url, f"template_{new_id().hex}", _PASSWORD))
        migrate(url, migrations)
        return url
