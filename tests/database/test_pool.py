"""The pool: bounded in every direction, and ready again when the database is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from urllib.parse import urlsplit, urlunsplit

import pytest

from covey.database.administration import connected, drop_database
from covey.database.pool import Database, PoolOptions
from covey.errors import ConfigurationError, DatabaseUnavailable, PoolExhausted
from covey.local.engines.embedded import Engines
from covey.testing.cable import Cable as Line
from covey.testing.eventually import eventually
from covey.work.unit_of_work import Transactions
from tests.database.noise import quiet


class Cable:
    """A connection to the database that can be made to lose everything without saying so."""

    def __init__(self, url: str) -> None:
        self.cut = asyncio.Event()
        self._target = urlsplit(url)
        self.url = ""

    @asynccontextmanager
    async def plugged(self) -> AsyncIterator[Cable]:
        tasks: list[asyncio.Task[None]] = []
        writers: list[asyncio.StreamWriter] = []

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writers.append(writer)
            if self.cut.is_set():
                return  # nobody answers; the connection stays open
            there, thither = await asyncio.open_connection(self._target.hostname, self._target.port)
            writers.append(thither)
            tasks.append(asyncio.create_task(self._pass_on(reader, thither)))
            tasks.append(asyncio.create_task(self._pass_on(there, writer)))

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        host = self._target.netloc.rpartition("@")[0] + f"@127.0.0.1:{port}"
        self.url = urlunsplit(self._target._replace(netloc=host))
        try:
            yield self
        finally:
            server.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for writer in writers:
                writer.close()
            await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            if self.cut.is_set():
                await asyncio.Event().wait()
            writer.write(data)
        writer.close()


async def test_a_database_that_falls_silent_costs_a_statement_its_time_and_no_more(database_url: str) -> None:
    loop = asyncio.get_running_loop()
    options = PoolOptions(statement_timeout=timedelta(milliseconds=200), network_grace=timedelta(milliseconds=200))
    async with (
        asyncio.timeout(20),
        Cable(database_url).plugged() as cable,
        Database.open(cable.url, options) as database,
    ):
        transactions = Transactions(database, "shop")
        begun = loop.time()
        with pytest.raises(DatabaseUnavailable):
            async with transactions.begin() as work:
                await work.fetchval("SELECT 1")
                cable.cut.set()
                await work.fetchval("SELECT 2")

    assert loop.time() - begun < 5


async def test_a_pool_that_cannot_connect_is_not_called_exhausted(database_url: str) -> None:
    options = PoolOptions(size=4, wait=timedelta(milliseconds=200), connect_timeout=timedelta(milliseconds=300))
    async with Cable(database_url).plugged() as cable, Database.open(cable.url, options) as database:
        transactions = Transactions(database, "shop")
        async with transactions.begin() as one, transactions.begin() as two:
            await one.fetchval("SELECT 1")
            await two.fetchval("SELECT 1")
            cable.cut.set()
            with pytest.raises(DatabaseUnavailable) as caught:
                async with transactions.begin() as three:
                    await three.fetchval("SELECT 1")
            cable.cut.clear()

    assert not isinstance(caught.value, PoolExhausted)


class Counted(Line):
    """A line that counts who tries to connect."""

    tried = 0

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.tried += 1
        await super()._accept(reader, writer)


async def test_a_server_that_refuses_is_asked_a_few_times_a_second_however_many_need_it(database_url: str) -> None:
    loop = asyncio.get_running_loop()
    async with Counted.to(database_url) as line, Database.open(line.url, PoolOptions(size=10)) as database:
        transactions = Transactions(database, "shop")

        async def asks() -> bool:
            with suppress(DatabaseUnavailable):
                async with transactions.begin() as work:
                    return bool(await work.fetchval("SELECT 1"))
            return False

        line.cut()
        before, begun = line.tried, loop.time()
        while loop.time() - begun < 1:
            assert not any(await asyncio.gather(*(asks() for _ in range(50))))
            await asyncio.sleep(0.001)
        tried = line.tried - before
        line.mend()
        await eventually(asks)

    at_first, later = 10, 10  # the pool's size; then one in 0.1 s, with a second try without TLS each
    assert 2 <= tried <= 2 * (at_first + later)


async def granted(database: Database, most: int) -> None:
    """Have the server grant the database so many connections and no more."""
    async with database.acquire() as connection:
        name = await connection.fetchval("SELECT current_database()")
        await connection.execute(f'ALTER DATABASE "{name}" CONNECTION LIMIT {most}')


async def test_where_the_server_grants_fewer_than_the_pool_may_have_what_is_lent_is_waited_for(
    database_url: str,
) -> None:
    """As when there are more replicas than somebody has reckoned with."""
    few = PoolOptions(size=10, wait=timedelta(seconds=5))
    async with Database.open(database_url) as other, Database.open(database_url, few) as database:
        at_once, most, free = 0, 0, asyncio.Event()

        async def work(until: asyncio.Event | None) -> None:
            nonlocal at_once, most
            async with database.acquire() as connection:
                at_once += 1
                most = max(most, at_once)
                await (until.wait() if until else connection.fetchval("SELECT pg_sleep(0.01)"))
                at_once -= 1

        await granted(other, 2 + 3)  # two are the other's
        await asyncio.gather(*(work(None) for _ in range(200)))
        assert most == 3

        working = [asyncio.create_task(work(free)) for _ in range(10)]
        await eventually(lambda: at_once == 3)
        await granted(other, -1)
        await eventually(lambda: at_once == 10)
        free.set()
        await asyncio.gather(*working)


async def test_a_server_that_grants_no_connection_or_too_few_to_begin_says_so(database_url: str) -> None:
    short = PoolOptions(wait=timedelta(milliseconds=200))
    async with Database.open(database_url) as database:
        for most, error in ((0, DatabaseUnavailable), (3, PoolExhausted)):
            await granted(database, most)
            with pytest.raises(error, match="too many connections"):
                async with Database.open(database_url, short):
                    pytest.fail("it has two at least from the beginning")


async def test_who_waits_is_served_in_turn_while_connections_keep_breaking(database_url: str) -> None:
    """Every connection given back is lost, and some while they are opened: nobody is overtaken, no place is lost."""
    options = PoolOptions(size=2, wait=timedelta(seconds=20))
    async with Line.to(database_url) as line, Database.open(line.url, options) as database:
        served: list[int] = []

        async def work(number: int) -> None:
            try:
                async with database.acquire() as connection:
                    served.append(number)
                    line.cut()
                    line.mend()
                    await eventually(connection.is_closed)
            except PoolExhausted:
                raise
            except DatabaseUnavailable:
                served.append(number)

        with quiet():
            tasks = [asyncio.create_task(work(number)) for number in range(12)]
            await asyncio.gather(*tasks)
            del tasks

        assert sorted(served) == list(range(12))
        assert all(abs(number - turn) < 2 for turn, number in enumerate(served)), served
        await eventually(lambda: database.usage[0] == database.usage[1])

        async def both_places_are_there() -> bool:
            with suppress(DatabaseUnavailable):  # for a moment, when the last to connect was refused
                async with database.acquire() as one, database.acquire() as two:
                    return bool(await one.fetchval("SELECT 1") == await two.fetchval("SELECT 1"))
            return False

        await eventually(both_places_are_there)


async def test_a_database_that_is_not_there_is_unavailable_and_no_vendor_error(
    covey_engines: Engines, database_url: str
) -> None:
    parts = urlsplit(database_url)
    for url in (
        urlunsplit(parts._replace(path="/nowhere")),
        urlunsplit(parts._replace(netloc=f"{parts.username}:wrong@{parts.hostname}:{parts.port}")),
        urlunsplit(parts._replace(netloc=f"{parts.username}:x@127.0.0.1:1")),
    ):
        with pytest.raises(DatabaseUnavailable):
            async with Database.open(url):
                pytest.fail("there is nothing to open")


async def test_no_connection_is_lent_on_which_nothing_can_be_written(database_url: str) -> None:
    """As on one that is opened while the name of the primary still leads to what is a standby since a failover."""
    setting = f'ALTER DATABASE "{urlsplit(database_url).path[1:]}" {{}} default_transaction_read_only'
    async with Database.open(database_url, PoolOptions(size=3)) as database:
        transactions = Transactions(database, "shop")

        async def writes() -> bool:
            with suppress(DatabaseUnavailable):
                async with transactions.begin() as work:
                    await work.execute("CREATE TABLE IF NOT EXISTS thing (n int)")
                    return True
            return False

        async with database.acquire() as one, database.acquire():  # the third is to be opened
            await one.execute(f"{setting.format('SET')} TO on")
            with pytest.raises(DatabaseUnavailable):
                await database.acquire().__aenter__()
            await one.execute(setting.format("RESET"))

            await eventually(writes)
            assert await writes()


@pytest.mark.parametrize("port", ["99999", "port"])
async def test_a_url_that_cannot_be_read_is_a_mistake_of_configuration(port: str) -> None:
    with pytest.raises(ConfigurationError, match="DATABASE_URL"):
        async with Database.open(f"postgresql://shop:secret@127.0.0.1:{port}/shop"):
            pytest.fail("there is nothing to open")


async def test_a_pool_larger_than_the_server_grants_is_refused_at_start(database_url: str) -> None:
    with pytest.raises(ConfigurationError, match="POOL_SIZE"):
        async with Database.open(database_url, PoolOptions(size=500)):
            pytest.fail("it would fail under load")


async def test_readiness_tells_when_the_database_is_gone(covey_engines: Engines, database_url: str) -> None:
    async with Database.open(database_url) as database:
        await database.check()
        async with connected(covey_engines.postgres_url) as admin:
            await drop_database(admin, database_url)

        with pytest.raises(DatabaseUnavailable):
            for _ in range(3):
                await database.check()


async def test_readiness_needs_no_connection_of_the_pool(database_url: str) -> None:
    options = PoolOptions(size=1, wait=timedelta(milliseconds=100), application="ready")
    async with Database.open(database_url, options) as database, database.acquire() as the_only_one:
        for _ in range(3):
            await database.check()
        sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'ready'"
        assert await the_only_one.fetchval(sessions) == 2, "one for all checks"
        assert database.usage == (1, 0)


async def test_a_session_that_stops_inside_a_transaction_is_ended_by_the_server(database_url: str) -> None:
    """A process stopped by SIGSTOP must not keep its locks for ever (H9)."""
    options = PoolOptions(idle_in_transaction_timeout=timedelta(milliseconds=100))
    async with Database.open(database_url, options) as stopped, Database.open(database_url) as other:
        holding = Transactions(stopped, "shop").begin()
        work = await holding.__aenter__()
        await work.fetchval("SELECT pg_advisory_xact_lock(1)")

        async with Transactions(other, "shop").begin() as waiting:
            await waiting.fetchval("SELECT pg_advisory_xact_lock(1)")

        with pytest.raises(DatabaseUnavailable):
            await holding.__aexit__(None, None, None)


async def test_transactions_are_read_committed_whatever_the_database_prefers(
    covey_engines: Engines, database_url: str
) -> None:
    async with Database.open(database_url) as database, database.acquire() as connection:
        await connection.execute(
            f'ALTER DATABASE "{urlsplit(database_url).path[1:]}" SET default_transaction_isolation TO serializable'
        )
    async with Database.open(database_url) as database, Transactions(database, "shop").begin() as work:
        assert await work.fetchval("SHOW transaction_isolation") == "read committed"


@pytest.mark.parametrize("in_transaction", [False, True])
async def test_work_that_is_cancelled_at_any_moment_leaves_no_noise_and_no_session(
    database_url: str, in_transaction: bool
) -> None:
    """Opening a connection, waiting for one, inside a statement, giving it back."""
    options = PoolOptions(size=3, application="cancelled")
    async with Database.open(database_url, options) as database:

        async def work(seconds: float) -> None:
            async with database.acquire() as connection:
                if in_transaction:
                    await connection.execute("BEGIN")
                await connection.execute("SELECT pg_sleep($1)", seconds)
                if in_transaction:
                    await connection.execute("COMMIT")

        with quiet():
            for round_ in range(12):
                tasks = [asyncio.create_task(work(0.005 * n)) for n in range(8)]
                await asyncio.wait(tasks, timeout=0.002 * round_)
                for task in tasks:
                    task.cancel()
                outcomes = await asyncio.gather(*tasks, return_exceptions=True)
                assert all(outcome is None or isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
            del tasks, task

        await eventually(lambda: database.usage[0] == database.usage[1] <= 3)
        await asyncio.gather(*(work(0.0) for _ in range(9)))
        await eventually(lambda: _sessions(database, database.usage[0]))


async def test_a_connection_of_ones_own_is_closed_whenever_its_block_is_cancelled_and_however_often(
    database_url: str,
) -> None:
    async def hold(database: Database) -> None:
        async with database.connected():
            await asyncio.Event().wait()

    async with Database.open(database_url, PoolOptions(size=1, application="cancelled")) as database:
        with quiet():
            for n in range(30):
                task = asyncio.create_task(hold(database))
                await asyncio.wait([task], timeout=0.0005 * n)
                task.cancel()
                for _ in range(n % 5):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            await eventually(lambda: _sessions(database, database.usage[0]))
            del task


async def _sessions(database: Database, count: int) -> bool:
    async with database.acquire() as connection:
        found = await connection.fetchval("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'cancelled'")
    return bool(found == count)
