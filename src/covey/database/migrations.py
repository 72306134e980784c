"""Bring databases to the schema that the code expects: covey's own tables, then the service's.

Two histories for each database, each with its own version table, so that covey and a service are upgraded
independently: covey's revisions are beside this module, a service's in its folder `migrations/`. A revision
is an Alembic file with plain SQL in `op.execute`. Each is one transaction: it is applied whole or not at all.

Importing Alembic takes most of a second, so `covey up` migrates every service in one process and no running
service imports this module.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import alembic.command
import sqlalchemy
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.script.revision import RevisionError
from alembic.util import CommandError
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, OperationalError

from covey.errors import ConfigurationError, DatabaseUnavailable, QueryFailed

_FOLDER = Path(__file__).parent / "alembic"
_MIGRATING = 0x636F7665  # the advisory lock of whoever migrates this database: "cove"
_LOCK_TIMEOUT = "5s"
_OTHER_MIGRATION_SECONDS = 60.0


@dataclass(frozen=True)
class _History:
    name: str
    revisions: Path
    version_table: str
    schema: str


def migrate(database_url: str, service_migrations: Path | None) -> list[str]:
    """Upgrade one database to the newest revisions and return those applied in order: `covey:0001`, `service:0001`, …

    Safe while another process does the same: one works, the other waits and then finds nothing to do.
    A statement that cannot get its lock on a table within 5 s fails, so that a migration never makes all others
    queue behind a long transaction; run it again. Blocks; one at a time in a process, because Alembic keeps what it
    works on in module globals. Raises ConfigurationError for files that make no history,
    QueryFailed for a statement that PostgreSQL refuses, DatabaseUnavailable.
    """
    histories = [_History("covey", _FOLDER / "versions", "schema_version", "covey")]
    if service_migrations is not None:
        histories.append(_History("service", service_migrations, "schema_version", "public"))
    with _connected(database_url) as connection, _alone(connection):
        connection.execute(sqlalchemy.text("CREATE SCHEMA IF NOT EXISTS covey"))
        connection.commit()
        return [applied for history in histories for applied in _upgrade(connection, history)]


def _upgrade(connection: Connection, history: _History) -> list[str]:
    applied: list[str] = []
    table = (history.version_table, history.schema)
    config = Config(attributes={"connection": connection, "version_table": table, "applied": applied})
    config.set_main_option("script_location", _escaped(_FOLDER))
    config.set_main_option("version_locations", _escaped(history.revisions))
    config.set_main_option("path_separator", "newline")  # a path may hold spaces, colons and commas
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # Alembic only warns of a revision that is not there
            pending = _pending(connection, history, ScriptDirectory.from_config(config))
        if pending:
            alembic.command.upgrade(config, "head")
    except (CommandError, RevisionError, UserWarning) as error:
        raise ConfigurationError(f"the migrations in {history.revisions} make no history: {error}") from error
    except DBAPIError as error:
        failed = next((revision for revision in pending if revision not in applied), "a revision")
        raise QueryFailed(f"{failed} in {history.revisions} was rolled back: {error.orig}") from error
    return [f"{history.name}:{revision}" for revision in pending]


def _pending(connection: Connection, history: _History, scripts: ScriptDirectory) -> list[str]:
    options = {"version_table": history.version_table, "version_table_schema": history.schema}
    current = MigrationContext.configure(connection, opts=options).get_current_revision()
    connection.commit()
    if current is not None and current not in {script.revision for script in scripts.walk_revisions()}:
        raise ConfigurationError(
            f"the database is at revision {current}, which is not in {history.revisions}: newer code has migrated it"
        )
    newest_first = scripts.iterate_revisions(scripts.get_current_head(), current)
    return [script.revision for script in newest_first][::-1]


def _escaped(path: Path) -> str:
    return str(path).replace("%", "%%")  # Alembic's Config interpolates


@contextmanager
def _connected(database_url: str) -> Iterator[Connection]:
    engine = sqlalchemy.create_engine(
        sqlalchemy.make_url(database_url).set(drivername="postgresql+psycopg"),
        poolclass=sqlalchemy.NullPool,
        connect_args={"options": f"-c lock_timeout={_LOCK_TIMEOUT}", "connect_timeout": 10},
    )
    try:
        with engine.connect() as connection:
            yield connection
    except OperationalError as error:
        raise DatabaseUnavailable(f"PostgreSQL: {error.orig}") from error


@contextmanager
def _alone(connection: Connection) -> Iterator[None]:
    """Hold the migration lock of this database.

    It is asked for again and again rather than waited for: a session that waits in a statement holds a snapshot,
    and CREATE INDEX CONCURRENTLY in the one that has the lock would wait for that snapshot, for ever.
    """
    deadline = time.monotonic() + _OTHER_MIGRATION_SECONDS
    while not _try_lock(connection):
        if time.monotonic() > deadline:
            raise DatabaseUnavailable(f"another process has been migrating for {_OTHER_MIGRATION_SECONDS:.0f} s")
        time.sleep(0.05)
    yield  # the lock belongs to the session and ends with it


def _try_lock(connection: Connection) -> bool:
    taken = connection.scalar(sqlalchemy.text("SELECT pg_try_advisory_lock(:lock)"), {"lock": _MIGRATING})
    connection.commit()
    return bool(taken)
