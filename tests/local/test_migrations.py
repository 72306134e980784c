"""Migrations bring a database to the schema that the code expects, once, whole, and also when two do it at once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from covey.database.migrations import migrate
from covey.errors import ConfigurationError, DatabaseUnavailable, QueryFailed

MakeDatabase = Callable[[], str]
WriteFiles = Callable[[dict[str, str]], Path]


def _revision(number: int, sql: str, *, after: int | None = None) -> str:
    down = repr(f"{number - 1:04}") if number > 1 else None
    down = repr(f"{after:04}") if after is not None else down
    return f'''
from alembic import op
revision, down_revision, branch_labels, depends_on = "{number:04}", {down}, None, None
def upgrade() -> None:
    op.execute("""{sql}""")
'''


def _query(url: str, sql: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(sql.encode()).fetchall()


def test_coveys_own_tables_and_the_services_have_histories_of_their_own(
    make_database: MakeDatabase, write_files: WriteFiles
) -> None:
    url = make_database()
    folder = write_files({"shop/0001_a.py": _revision(1, "CREATE TABLE a (x int); INSERT INTO a VALUES (1)")}) / "shop"

    applied = migrate(url, folder)

    assert applied[-1] == "service:0001"
    assert _query(url, "SELECT x FROM a") == [(1,)]
    assert _query(url, "SELECT version_num FROM public.schema_version") == [("0001",)]
    assert _query(url, "SELECT count(*) FROM covey.schema_version") == [(1,)]


def test_what_was_applied_is_not_applied_again(make_database: MakeDatabase, write_files: WriteFiles) -> None:
    url = make_database()
    folder = write_files({"0001_a.py": _revision(1, "CREATE TABLE a (x int)")})
    migrate(url, folder)
    write_files({"0002_b.py": _revision(2, "CREATE TABLE b (x int)")})

    assert migrate(url, folder) == ["service:0002"]
    assert migrate(url, folder) == []


def test_processes_that_migrate_at_once_wait_for_each_other(
    make_database: MakeDatabase, write_files: WriteFiles
) -> None:
    url = make_database()
    folder = write_files({"0001_a.py": _revision(1, "CREATE TABLE a (x int); SELECT pg_sleep(0.2)")})
    command = "import sys, pathlib; from covey.database.migrations import migrate;"
    command += "print(len(migrate(sys.argv[1], pathlib.Path(sys.argv[2]))))"

    def one(_: int) -> str:
        arguments = [sys.executable, "-c", command, url, str(folder)]
        return subprocess.run(arguments, capture_output=True, text=True, check=True).stdout.strip()

    with ThreadPoolExecutor(2) as pool:
        counts = sorted(pool.map(one, range(2)))

    assert counts[0] == "0"
    assert int(counts[1]) >= 1


def test_a_revision_that_fails_changes_nothing_and_says_why(
    make_database: MakeDatabase, write_files: WriteFiles
) -> None:
    url = make_database()
    folder = write_files({"0001_a.py": _revision(1, "CREATE TABLE a (x int); INSERT INTO nowhere VALUES (1)")})

    with pytest.raises(QueryFailed, match='relation "nowhere" does not exist'):
        migrate(url, folder)

    assert _query(url, "SELECT to_regclass('public.a')") == [(None,)]


def test_of_several_revisions_the_one_that_fails_is_named(make_database: MakeDatabase, write_files: WriteFiles) -> None:
    url = make_database()
    folder = write_files(
        {
            "0001_a.py": _revision(1, "CREATE TABLE a (x int)"),
            "0002_b.py": _revision(2, "INSERT INTO nowhere VALUES (1)"),
            "0003_c.py": _revision(3, "CREATE TABLE c (x int)"),
        }
    )

    with pytest.raises(QueryFailed, match=f'0002 in {folder} was rolled back: relation "nowhere" does not exist'):
        migrate(url, folder)

    assert _query(url, "SELECT to_regclass('public.a')::text, to_regclass('public.c')::text") == [("a", None)]


def test_a_migration_does_not_queue_behind_a_long_transaction(
    make_database: MakeDatabase, write_files: WriteFiles
) -> None:
    url = make_database()
    folder = write_files({"0001_a.py": _revision(1, "CREATE TABLE a (x int)")})
    migrate(url, folder)
    write_files({"0002_b.py": _revision(2, "SET LOCAL lock_timeout = '50ms'; ALTER TABLE a ADD y int")})

    with psycopg.connect(url) as busy:
        busy.execute("SELECT * FROM a")
        with pytest.raises((QueryFailed, DatabaseUnavailable), match="lock timeout"):
            migrate(url, folder)


def test_an_index_can_be_built_concurrently_while_another_process_waits_to_migrate(
    make_database: MakeDatabase, write_files: WriteFiles
) -> None:
    url = make_database()
    concurrently = """
from alembic import op
revision, down_revision, branch_labels, depends_on = "0002", "0001", None, None
def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute("SELECT pg_sleep(0.3)")
        op.execute("CREATE INDEX CONCURRENTLY b ON a (x)")
"""
    folder = write_files({"0001_a.py": _revision(1, "CREATE TABLE a (x int)"), "0002_b.py": concurrently})
    command = "import sys, pathlib; from covey.database.migrations import migrate;"
    command += "migrate(sys.argv[1], pathlib.Path(sys.argv[2]))"
    arguments = [sys.executable, "-c", command, url, str(folder)]

    both = [subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True) for _ in range(2)]

    for process in both:
        _, problems = process.communicate(timeout=30)
        assert (process.returncode, problems) == (0, "")


@pytest.mark.parametrize(
    "second",
    [
        pytest.param(_revision(3, "SELECT 1", after=2), id="a revision is missing"),
        pytest.param(_revision(2, "SELECT 1", after=0).replace("'0000'", "None"), id="two beginnings"),
        pytest.param("from alembic import op", id="no revision at all"),
    ],
)
def test_files_that_make_no_history_are_a_configuration_error(
    make_database: MakeDatabase, write_files: WriteFiles, second: str
) -> None:
    folder = write_files({"0001_a.py": _revision(1, "SELECT 1"), "other.py": second})

    with pytest.raises(ConfigurationError, match=f"migrations in {folder} make no history"):
        migrate(make_database(), folder)


def test_a_database_that_newer_code_has_migrated_is_left_alone(
    make_database: MakeDatabase, write_files: WriteFiles
) -> None:
    url = make_database()
    folder = write_files({"0001_a.py": _revision(1, "SELECT 1"), "0002_b.py": _revision(2, "SELECT 1")})
    migrate(url, folder)
    (folder / "0002_b.py").unlink()

    with pytest.raises(ConfigurationError, match="the database is at revision 0002, which is not in"):
        migrate(url, folder)


def test_a_server_that_is_not_there_is_unavailable() -> None:
    with pytest.raises(DatabaseUnavailable):
        migrate("postgresql://nobody:x@127.0.0.1:1/none", None)


@pytest.mark.parametrize("service", ["order", "inventory", "payment", "shipping", "user", "notification"])
def test_no_running_service_imports_what_migrates(service: str) -> None:
    tools = {"alembic", "sqlalchemy", "psycopg", "typer", "covey.local", "covey.database.migrations"}
    command = f"import sys, {service}_service.main; print(*({tools!r} & set(sys.modules)))"

    loaded = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True).stdout

    assert loaded.strip() == ""
