"""BEGIN and COMMIT in the round trip of a neighbour statement, seen on the wire and in what is left afterwards."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from covey.database.pipeline import Connection, Pipeline, connect
from covey.database.pool import Database, PoolOptions
from covey.errors import CoveyError, QueryFailed
from covey.message import Event
from covey.testing.interruption import every_interruption
from covey.work.unit_of_work import Transactions, Work, begin, roll_back
from tests.wire.exchange import Exchange, Stage, Statement
from tests.wire.postgres import speak_postgres
from tests.wire.proxy import Proxy

INSERT = "INSERT INTO effect (n) VALUES ($1)"


class Placed(Event, type="shop.placed.v1", key="order"):
    """An event."""

    order: str


class Seen:
    """Keeps the statements that were answered, since the last look."""

    def __init__(self) -> None:
        self._statements: list[Statement] = []

    async def passes(self, stage: Stage, exchange: Exchange) -> bool:
        """See Tap."""
        if stage is Stage.ANSWER and isinstance(exchange, Statement):
            self._statements.append(exchange)
        return True

    def look(self) -> list[tuple[str, bool, bool]]:
        """Return how each statement began, and whether BEGIN and COMMIT went with it."""
        found = [(one.sql.split("(")[0].strip(), one.begins, one.commits) for one in self._statements]
        self._statements.clear()
        return found


@pytest.fixture
async def seen(database_url: str) -> AsyncIterator[tuple[Seen, Transactions]]:
    """Transactions on one connection through a proxy, and what it sees of them."""
    there = urlsplit(database_url)
    proxy = await Proxy.open("127.0.0.1", there.port or 0, speak_postgres)
    proxy.tap = tap = Seen()
    through = there._replace(netloc=there.netloc.replace(str(there.port), str(proxy.port))).geturl()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(proxy.close)
        database = await stack.enter_async_context(Database.open(through, PoolOptions(size=1)))
        async with database.acquire() as connection:
            await connection.execute("CREATE TYPE colour AS ENUM ('red', 'blue')")
            await connection.execute("CREATE TABLE effect (n int, colour colour)")
        tap.look()
        yield tap, Transactions(database, "shop")


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    """A connection to a database with a table."""
    connection = await connect(database_url)
    await connection.execute("CREATE TABLE effect (n int PRIMARY KEY)")
    yield connection
    connection.terminate()


async def count_of(connection: Connection) -> int:
    return int(await connection.fetchval("SELECT count(*) FROM effect"))


class TestATransaction:
    async def test_is_two_round_trips_with_one_statement_and_a_message(self, seen: tuple[Seen, Transactions]) -> None:
        tap, transactions = seen
        for n in range(2):
            tap.look()  # the first time asyncpg asks about types, in between
            async with transactions.begin() as work:
                await work.execute(INSERT, n)
                work.publish(Placed(order="a"))

        assert tap.look() == [("INSERT INTO effect", True, False), ("SELECT covey.publish_one", False, True)]

    async def test_without_anything_at_its_end_commits_by_itself(self, seen: tuple[Seen, Transactions]) -> None:
        tap, transactions = seen
        async with transactions.begin() as work:
            await work.execute(INSERT, 1)
            await work.execute(INSERT, 2)

        assert tap.look() == [
            ("INSERT INTO effect", True, False),
            ("INSERT INTO effect", False, False),
            ("COMMIT", False, True),
        ]

    @pytest.mark.parametrize("how", ["without arguments", "many times", "of a type that asyncpg must ask about"])
    async def test_begins_with_whatever_comes_first(self, seen: tuple[Seen, Transactions], how: str) -> None:
        tap, transactions = seen
        with suppress(ZeroDivisionError):
            async with transactions.begin() as work:
                match how:
                    case "without arguments":
                        await work.execute("INSERT INTO effect VALUES (1)")
                    case "many times":
                        work.defer(INSERT, 1)
                        work.defer(INSERT, 2)
                        await work.flush()
                    case _:
                        await work.execute("INSERT INTO effect (colour) VALUES ($1::colour)", "red")
                raise ZeroDivisionError

        assert [begins for _, begins, _ in tap.look()].count(True) == 1
        async with transactions.begin() as work:
            assert await work.fetchval("SELECT count(*) FROM effect") == 0, "it was no part of a transaction"

    async def test_whose_last_statement_fails_is_none(self, seen: tuple[Seen, Transactions]) -> None:
        _, transactions = seen
        with pytest.raises(CoveyError):
            async with transactions.begin() as work:
                await work.execute(INSERT, 1)
                work.collect("no_such_function", 1)

        async with transactions.begin() as work:
            await work.execute(INSERT, 2)
            assert await work.fetchval("SELECT array_agg(n) FROM effect") == [2]

    async def test_that_nothing_was_done_in_leaves_nothing_behind(self, seen: tuple[Seen, Transactions]) -> None:
        """What fails before it reaches PostgreSQL has begun nothing, and nothing of the next is taken for its own."""
        tap, transactions = seen
        for swallow in (True, False):
            with suppress(CoveyError):
                async with transactions.begin() as work:
                    try:
                        await work.execute(INSERT, "no number")
                    except CoveyError:
                        if not swallow:
                            raise
            tap.look()
            async with transactions.begin() as work:
                assert await work.fetchval("SELECT count(*) FROM effect WHERE n > $1", 0) == 0
            assert [(begins, commits) for _, begins, commits in tap.look()] == [(False, False)]

    async def test_that_nothing_was_done_in_is_over(self, database_url: str, connection: Connection) -> None:
        """To prepare a statement begins a transaction in PostgreSQL, which lasts until something is run."""
        async with Database.open(database_url, PoolOptions(size=1)) as database:
            async with Transactions(database, "shop").begin() as work:
                with suppress(CoveyError):
                    await work.execute(INSERT, "no number")
            async with database.acquire() as used:
                pid = used.get_server_pid()
            open_since = await connection.fetchval("SELECT xact_start FROM pg_stat_activity WHERE pid = $1", pid)

        assert open_since is None

    async def test_that_a_statement_has_ended_is_not_committed_with_what_comes_at_the_end(
        self, connection: Connection
    ) -> None:
        """Only a procedure can, outside of what a Work takes."""
        from covey.clock import SystemClock

        await begin(connection)
        work = Work(connection, "shop", SystemClock())
        await work.execute("INSERT INTO effect VALUES (1)")
        await connection.execute("COMMIT")
        work.publish(Placed(order="a"))

        with pytest.raises(QueryFailed):
            await work.finish()

        assert await connection.fetchval("SELECT count(*) FROM covey.outbox") == 0
        await roll_back(connection)


class TestCommitWithTheNext:
    async def test_goes_with_no_question_of_asyncpgs_own(self) -> None:
        transport = Written()
        pipeline = Pipeline(transport)
        pipeline.commit_with_next(2)
        pipeline.write(bind(1))
        pipeline.write(bind(2))
        pipeline.write(bind(2))

        assert [b"covey_commit" in data for data in transport.data] == [False, True, False]

    async def test_leaves_what_is_only_prepared_alone(self) -> None:
        transport = Written()
        pipeline = Pipeline(transport)
        pipeline.begin_with_next()
        pipeline.write(b"P\0\0\0\x08a\0b\0" + b"S\0\0\0\4")

        assert not any(b"covey" in data for data in transport.data)
        assert pipeline.begins


@pytest.mark.parametrize("mode", ["require", "prefer", "disable"])
async def test_works_over_tls_and_where_that_is_declined(database_url: str, mode: str) -> None:
    async with encrypting(database_url) as url:
        connection = await connect(f"{url}?sslmode={mode}")
        try:
            await connection.execute("CREATE TABLE effect (n int)")
            await begin(connection)
            await connection.execute(INSERT, 1)
            assert connection.is_in_transaction()
            await roll_back(connection)
            assert await count_of(connection) == 0
            assert (connection.pipeline.transport.get_extra_info("ssl_object") is not None) == (mode != "disable")
        finally:
            await connection.close()


async def test_what_was_cut_off_while_it_prepared_is_not_used_again(database_url: str) -> None:
    opened: list[Connection] = []

    async def first_transaction() -> None:
        opened.append(await connect(database_url))
        await begin(opened[-1])
        await opened[-1].fetchval("SELECT 1")

    points = 0
    async for _ in every_interruption(first_transaction):
        points += 1
        for connection in opened:
            if not connection.is_closed():
                await roll_back(connection)
                await begin(connection)
                assert await connection.fetchval("SELECT 1") == 1
                assert connection.is_in_transaction()
            connection.terminate()
        opened.clear()

    assert points > 4


class Written:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.data: list[bytes] = []

    def write(self, data: bytes) -> None:
        """See asyncio.WriteTransport."""
        self.data.append(bytes(data))


def bind(parameters: int) -> bytes:
    """Return Bind, Execute and Sync of a statement with so many NULLs, as asyncpg writes them."""
    values = parameters.to_bytes(2, "big") + b"\xff\xff\xff\xff" * parameters
    payload = b"\0a statement\0" + b"\0\1\0\1" + values + b"\0\1\0\1"
    return b"B" + (len(payload) + 4).to_bytes(4, "big") + payload + b"E\0\0\0\x09\0\0\0\0\0" + b"S\0\0\0\4"


@asynccontextmanager
async def encrypting(url: str) -> AsyncIterator[str]:
    """Stand before a PostgreSQL that knows no TLS, and speak it for it; yields the address."""
    there = urlsplit(url)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(Path(__file__).with_name("anybody.pem"))
    lines: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines.add(asyncio.current_task())  # type: ignore[arg-type]
        first = await reader.readexactly(8)
        behind_reader, behind_writer = await asyncio.open_connection(there.hostname, there.port)
        if first[4:] == (80877103).to_bytes(4, "big"):  # SSLRequest
            writer.write(b"S")
            await writer.start_tls(context)
        else:
            behind_writer.write(first)
        with suppress(ConnectionError, asyncio.CancelledError):
            await asyncio.gather(_carry(reader, behind_writer), _carry(behind_reader, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield there._replace(netloc=there.netloc.replace(str(there.port), str(port))).geturl()
    finally:
        server.close()
        for line in lines:
            line.cancel()
        await asyncio.gather(*lines, return_exceptions=True)


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(2**16):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()
