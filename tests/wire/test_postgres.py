"""The PostgreSQL proxy: asyncpg notices nothing, and the tap sees every statement and its answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import asyncpg
import pytest

from tests.wire.exchange import Exchange, Session, Stage, Statement
from tests.wire.postgres import Frames, Requests, numbers, speak_postgres, texts
from tests.wire.proxy import Proxy


class Keeping:
    """Keeps what passes, and holds back what is told at a stage."""

    def __init__(self) -> None:
        self.passed: list[tuple[Stage, Statement]] = []
        self.hold: tuple[Stage, str] | None = None
        self.held = asyncio.Event()

    async def passes(self, stage: Stage, exchange: Exchange) -> bool:
        """See Tap."""
        assert isinstance(exchange, Statement)
        if self.hold is not None and stage is self.hold[0] and exchange.sql.startswith(self.hold[1]):
            self.held.set()
            await asyncio.Event().wait()
        self.passed.append((stage, exchange))
        return True

    def statements(self) -> list[Statement]:
        """Return the statements that were answered, without what asyncpg asks for itself."""
        return [one for stage, one in self.passed if stage is Stage.ANSWER and "pg_catalog" not in one.sql]


@pytest.fixture
async def proxy(database_url: str) -> AsyncIterator[Proxy]:
    """A proxy in front of the session's PostgreSQL, with a tap that keeps what passes."""
    port = urlsplit(database_url).port
    assert port
    proxy = await Proxy.open("127.0.0.1", port, speak_postgres)
    proxy.tap = Keeping()
    yield proxy
    await proxy.close()


@pytest.fixture
async def connection(proxy: Proxy, database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection through the proxy that calls itself `a test`."""
    connection = await asyncpg.connect(database_url, port=proxy.port, server_settings={"application_name": "a test"})
    yield connection
    connection.terminate()


def tap_of(proxy: Proxy) -> Keeping:
    """Return the tap of the fixture."""
    assert isinstance(proxy.tap, Keeping)
    return proxy.tap


async def test_statements_are_seen_with_arguments_rows_and_tags(proxy: Proxy, connection: asyncpg.Connection) -> None:
    (row,) = await connection.fetch("SELECT $1::text[] AS names, $2::bigint AS n", ["a", "b"], 7)

    assert (row["names"], row["n"]) == (["a", "b"], 7)
    seen = tap_of(proxy).statements()[-1]
    assert seen.session.role == "a test"
    assert seen.sql.startswith("SELECT $1::text[]")
    assert texts(seen.arguments[0][0]) == ["a", "b"]
    assert seen.arguments[0][1] == (7).to_bytes(8, "big")
    assert texts(seen.rows[0][0]) == ["a", "b"]
    assert seen.tags == ["SELECT 1"]


async def test_statements_without_arguments_are_seen(proxy: Proxy, connection: asyncpg.Connection) -> None:
    async with connection.transaction():
        await connection.execute("CREATE TEMP TABLE t (n int) ON COMMIT DROP")

    assert [(one.sql, one.tags) for one in tap_of(proxy).statements()] == [
        ("BEGIN;", ["BEGIN"]),
        ("CREATE TEMP TABLE t (n int) ON COMMIT DROP", ["CREATE TABLE"]),
        ("COMMIT;", ["COMMIT"]),
    ]


async def test_a_statement_executed_many_times_is_one(proxy: Proxy, connection: asyncpg.Connection) -> None:
    await connection.execute("CREATE TABLE many (n bigint)")

    await connection.executemany("INSERT INTO many VALUES ($1)", [(n,) for n in range(5_000)])

    seen = tap_of(proxy).statements()[-1]
    assert len(seen.arguments) == 5_000
    assert seen.tags == ["INSERT 0 1"] * 5_000
    assert await connection.fetchval("SELECT count(*) FROM many") == 5_000


async def test_errors_are_seen_and_passed_on(proxy: Proxy, connection: asyncpg.Connection) -> None:
    with pytest.raises(asyncpg.DivisionByZeroError):
        await connection.fetchval("SELECT 1 / $1::int", 0)

    assert tap_of(proxy).statements()[-1].error == "22012"
    assert await connection.fetchval("SELECT 1") == 1


async def test_what_is_held_as_a_request_does_not_happen(
    proxy: Proxy, connection: asyncpg.Connection, database_url: str
) -> None:
    await connection.execute("CREATE TABLE kept (n int)")
    tap_of(proxy).hold = Stage.REQUEST, "INSERT"
    writing = asyncio.create_task(connection.execute("INSERT INTO kept VALUES (1)"))
    await tap_of(proxy).held.wait()

    proxy.cut()

    with pytest.raises((asyncpg.PostgresConnectionError, ConnectionError)):
        await writing
    direct = await asyncpg.connect(database_url)
    assert await direct.fetchval("SELECT count(*) FROM kept") == 0
    await direct.close()


async def test_what_is_held_as_an_answer_has_happened(
    proxy: Proxy, connection: asyncpg.Connection, database_url: str
) -> None:
    await connection.execute("CREATE TABLE kept (n int)")
    tap_of(proxy).hold = Stage.ANSWER, "INSERT"
    writing = asyncio.create_task(connection.execute("INSERT INTO kept VALUES (1)"))
    await tap_of(proxy).held.wait()

    proxy.cut()

    with pytest.raises((asyncpg.PostgresConnectionError, ConnectionError)):
        await writing
    direct = await asyncpg.connect(database_url)
    assert await direct.fetchval("SELECT count(*) FROM kept") == 1
    await direct.close()


async def test_a_cut_proxy_takes_no_line_until_it_is_mended(proxy: Proxy, database_url: str) -> None:
    proxy.cut()
    with pytest.raises((asyncpg.PostgresConnectionError, OSError)):
        await asyncpg.connect(database_url, port=proxy.port)

    proxy.mend()

    connection = await asyncpg.connect(database_url, port=proxy.port)
    assert await connection.fetchval("SELECT 1") == 1
    await connection.close()


async def test_notifications_pass_at_once(proxy: Proxy, connection: asyncpg.Connection) -> None:
    heard = asyncio.Event()
    await connection.add_listener("news", lambda *_: heard.set())

    await connection.execute("NOTIFY news")

    await asyncio.wait_for(heard.wait(), 5)


def test_messages_are_cut_wherever_the_bytes_are_divided() -> None:
    query = b"Q" + (4 + 9).to_bytes(4, "big") + b"SELECT 1\0"

    requests = Requests(Session(1))
    found = [one for byte in query * 2 for one in requests.feed(bytes([byte]))]

    assert [one.sql for one in found if isinstance(one, Statement)] == ["SELECT 1", "SELECT 1"]


def test_frames_keep_what_is_not_complete() -> None:
    frames = Frames()

    assert list(frames.feed(b"Z\0\0\0")) == []
    assert list(frames.feed(b"\x05I")) == [(b"Z", b"I", b"Z\0\0\0\x05I")]


def test_empty_and_absent_arrays_have_no_members() -> None:
    assert (texts(None), texts(bytes(12)), numbers(None), numbers(bytes(12))) == ([], [], [], [])
