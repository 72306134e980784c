"""covey's pytest plugin: real engines, started when a test first asks, and everything isolated for each test.

It is found by pytest when `covey[testing]` is installed. Nothing starts and nothing heavy is imported before a
fixture is used. With pytest-xdist every worker has engines of its own.

    async def test_points_are_awarded(database: Database, memory_broker: MemoryBroker) -> None: ...

Fixtures to ask for: `database`, `database_url`, `make_database`, `nats_broker`, `memory_broker`, `system_name`,
`fake_clock`, `covey_engines`. One to override in the conftest.py of a service: `service_migrations`.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from covey.testing.blocking import blocking

try:
    from pytest_asyncio import fixture as async_fixture
except ImportError:  # pytest without `covey[testing]`: our fixtures cannot be used there, and must not break it
    async_fixture = pytest.fixture  # type: ignore[assignment]  # it is called in the same way

if TYPE_CHECKING:  # these cost half a second to import, which a run that uses no fixture of ours must not pay
    from covey.database.pool import Database
    from covey.local.engines.embedded import Engines
    from covey.messaging.brokers.memory import MemoryBroker
    from covey.messaging.brokers.nats import NatsBroker
    from covey.testing.clock import FakeClock
    from covey.testing.databases import Databases

pytest.register_assert_rewrite("covey.testing.broker_contract")


@pytest.fixture(scope="session")
def covey_engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    """PostgreSQL, NATS with JetStream and Valkey, from wheels, for this session: about half a second.

    `postgres_url` is an administrator's, `nats_url` and `valkey_url` hold the password. What they keep is lost at the
    end. Shared by all tests of the session: isolate with `database_url` and `system_name`.
    """
    from covey.local.engines.embedded import EngineOptions, start_all

    # A killed process loses nothing even so, and no test outlives a machine that loses power.
    options = EngineOptions(nats_sync_interval="2m", postgres_fsync=False)
    folder = tmp_path_factory.mktemp("engines")
    engines = blocking(start_all(folder, options))
    yield engines
    blocking(engines.stop())
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def service_migrations() -> Path | None:
    """The folder of the service's migrations, which `database_url` applies after covey's own: None, none.

    Override it in your conftest.py, with the same scope:
    `return Path(__file__).parent.parent / "migrations"`.
    """
    return None


@pytest.fixture
def make_database(_databases: Databases) -> Iterator[Callable[[Path | None], str]]:
    """A function that makes a migrated database and returns its URL: for a test of several services.

    It takes the folder of a service's migrations, or None for covey's tables alone. The databases of a test
    are dropped after it, also when connections are still open.
    """
    made: list[str] = []

    def make(migrations: Path | None) -> str:
        made.append(_databases.make(migrations))
        return made[-1]

    yield make
    for url in made:
        _databases.drop(url)


@pytest.fixture
def database_url(make_database: Callable[[Path | None], str], service_migrations: Path | None) -> str:
    """The URL of a fresh PostgreSQL database with covey's tables and those of `service_migrations`.

    It is cloned from a template, made once a session, in some 50 ms, and owned by a role that may enter nothing else.
    """
    return make_database(service_migrations)


@async_fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """A pool of connections to the database of `database_url`."""
    from covey.database.pool import Database

    async with Database.open(database_url) as opened:
        yield opened


@pytest.fixture
def system_name() -> str:
    """A name of a system that no other test uses, so that broker streams under it are this test's own."""
    from covey.ids import new_id

    return f"test-{new_id().hex[-12:]}"


@async_fixture
async def nats_broker(covey_engines: Engines, system_name: str) -> AsyncIterator[NatsBroker]:
    """A broker on the session's NATS, for the streams of `system_name`."""
    from covey.messaging.brokers.nats import NatsBroker

    broker = await NatsBroker.open(covey_engines.nats_url, system_name)
    yield broker
    await broker.close()


@pytest.fixture
def memory_broker() -> MemoryBroker:
    """A broker in memory, for tests that are not about the network. To share its streams see `MemoryLogs`."""
    from covey.messaging.brokers.memory import MemoryBroker

    return MemoryBroker()


@pytest.fixture
def fake_clock() -> FakeClock:
    """A clock that stands still until the test advances it."""
    from covey.testing.clock import FakeClock

    return FakeClock()


@pytest.fixture(scope="session")
def _databases(covey_engines: Engines) -> Iterator[Databases]:
    from covey.testing.databases import Databases

    databases = Databases(covey_engines.postgres_url)
    yield databases
    databases.close()
