"""What covey gives to the tests of its users, used as they use it: from a project of their own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from covey.database.administration import connected, drop_database
from covey.database.pool import Database
from covey.local.engines.embedded import Engines
from covey.messaging.broker import Extent
from covey.messaging.brokers.memory import MemoryBroker
from covey.messaging.brokers.nats import NatsBroker
from covey.testing.broker_contract import event
from tests.docs.pages import ROOT, blocks

pytest_plugins = ["pytester"]

HEAVY = ["asyncpg", "alembic", "sqlalchemy", "nats", "psycopg", "pydantic", "fastapi", "hypothesis"]

ALONE = ["-p", "no:schemathesis", "-p", "no:pact"]
"""Without the plugins of packages that `covey[testing]` does not bring, each of which takes a second to load."""

STRICTLY = ["-W", "error", "-o", "asyncio_default_fixture_loop_scope=function", *ALONE]

REVISION = """
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.execute("CREATE TABLE note (text text PRIMARY KEY)")
"""


@pytest.fixture
def revisions(tmp_path: Path) -> Path:
    """The migrations of a service with one table."""
    (tmp_path / "0001_notes.py").write_text(REVISION)
    return tmp_path


def test_the_plugin_loads_nothing_heavy() -> None:
    code = f"import sys, covey.testing.plugin; print([m for m in {HEAVY} if m in sys.modules])"

    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert found.stdout.strip() == "[]"


async def test_a_database_has_the_tables_of_covey(database: Database) -> None:
    async with database.acquire() as connection:
        assert await connection.fetchval("SELECT count(*) FROM covey.outbox") == 0


async def test_a_database_has_the_tables_of_the_service(
    make_database: Callable[[Path | None], str], revisions: Path
) -> None:
    async with Database.open(make_database(revisions)) as database, database.acquire() as connection:
        await connection.execute("INSERT INTO note VALUES ('a')")

    async with Database.open(make_database(revisions)) as database, database.acquire() as connection:
        assert await connection.fetchval("SELECT count(*) FROM note") == 0


async def test_a_dropped_database_ends_its_connections(covey_engines: Engines, database_url: str) -> None:
    async with Database.open(database_url) as database:
        async with database.acquire() as connection:
            await connection.fetchval("SELECT 1")

        async with connected(covey_engines.postgres_url) as admin:
            await drop_database(admin, database_url)
            await drop_database(admin, database_url)


async def test_brokers_of_two_systems_share_nothing(
    nats_broker: NatsBroker, covey_engines: Engines, system_name: str
) -> None:
    await nats_broker.ensure_stream("order")
    await nats_broker.publish([event()])

    other = await NatsBroker.open(covey_engines.nats_url, f"{system_name}-2")
    await other.ensure_stream("order")
    assert await other.extent("order") == Extent(1, 0)
    await other.close()


async def test_the_broker_in_memory_is_there(memory_broker: MemoryBroker) -> None:
    await memory_broker.ensure_stream("order")
    await memory_broker.publish([event()])

    assert await memory_broker.extent("order") == Extent(1, 1)


USERS_CONFTEST = """
import pytest
from pathlib import Path

@pytest.fixture(scope="session")
def service_migrations():
    return Path(__file__).parent / "migrations"
"""

USERS_TESTS = """
import pytest
from covey.database.pool import Database
from covey.messaging.brokers.nats import NatsBroker
from covey.testing.broker_contract import event

@pytest.mark.asyncio
@pytest.mark.parametrize("text", ["one", "one", "one"])
async def test_notes(database: Database, nats_broker: NatsBroker, text: str) -> None:
    await nats_broker.ensure_stream("notes")
    assert (await nats_broker.extent("notes")).last == 0             # and so would the streams of a shared system
    await nats_broker.publish([event(stream="notes")])
    async with database.acquire() as connection:
        await connection.execute("INSERT INTO note VALUES ($1)", text)   # the key would clash in a shared database
        assert await connection.fetchval("SELECT count(*) FROM note") == 1
"""


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param([], marks=pytest.mark.slow),
        ["-n", "2"],
        pytest.param(["-o", "asyncio_mode=auto"], marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_users_project_runs_with_it(pytester: pytest.Pytester, arguments: list[str]) -> None:
    pytester.makeconftest(USERS_CONFTEST)
    pytester.makepyfile(test_notes=USERS_TESTS)
    pytester.mkdir("migrations").joinpath("0001_notes.py").write_text(REVISION)

    result = pytester.runpytest_subprocess(*STRICTLY, *arguments)

    result.assert_outcomes(passed=3)


@pytest.mark.parametrize(
    ("left_out", "outcome"), [("", "passed"), pytest.param("asyncio_mode", "failed", marks=pytest.mark.slow)]
)
def test_the_first_test_of_the_page_runs_with_the_settings_of_the_page_and_needs_them(
    pytester: pytest.Pytester, left_out: str, outcome: str
) -> None:
    page = list(blocks(ROOT / "docs/testing.md"))
    settings = next(block.text for block in page if block.language == "toml").splitlines()
    pytester.makepyprojecttoml("\n".join(line for line in settings if not left_out or left_out not in line))
    pytester.makepyfile(test_club=next(block.text for block in page if block.language == "python"))

    result = pytester.runpytest_subprocess("-W", "error", *ALONE)

    assert result.parseoutcomes() == {outcome: 1}


def test_databases_are_dropped_after_their_test(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import asyncio
        from covey.testing.blocking import blocking
        from covey.database.pool import Database

        async def databases(url):
            async with Database.open(url) as database, database.acquire() as connection:
                return await connection.fetchval("SELECT count(*) FROM pg_database WHERE datname LIKE 'test\\\\_%'")

        def test_one(make_database):
            make_database(None)
            make_database(None)

        def test_two(covey_engines, database_url):
            assert blocking(databases(covey_engines.postgres_url)) == 1
        """
    )

    pytester.runpytest_subprocess(*STRICTLY).assert_outcomes(passed=2)


def test_a_backend_of_a_user_runs_the_contract(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest
        from covey.messaging.brokers.memory import MemoryBroker, MemoryLogs
        from covey.testing.broker_contract import BrokerContract

        class TestMine(BrokerContract):
            @pytest.fixture
            def logs(self):
                return MemoryLogs()

            @pytest.fixture
            def broker(self, logs):
                return MemoryBroker(logs)

            @pytest.fixture
            def drop_before(self, logs):
                async def drop(stream, sequence):
                    logs.drop(stream, sequence)
                return drop
        """
    )

    result = pytester.runpytest_subprocess(*STRICTLY, "-k", "reader or extent")

    outcomes = result.parseoutcomes()
    assert outcomes["passed"] == 8
    assert "failed" not in outcomes


def test_the_plugin_harms_nobody_without_pytest_asyncio(pytester: pytest.Pytester) -> None:
    code = "import sys; sys.modules['pytest_asyncio'] = None; import covey.testing.plugin"
    result = pytester.run(sys.executable, "-c", code)

    assert result.ret == 0
