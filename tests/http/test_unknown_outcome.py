"""An error at the moment of COMMIT says nothing of what became of it; the same request with its key again does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from urllib.parse import urlsplit

import pytest
from fastapi import APIRouter

from covey.database.pool import Database
from covey.http.application import Application
from covey.http.idempotency import IdempotentRoute
from covey.http.transaction import Transaction
from covey.testing.asgi import Answer, ask
from covey.testing.eventually import eventually
from covey.work.unit_of_work import Transactions
from tests.wire.exchange import Exchange, Stage, Statement
from tests.wire.postgres import speak_postgres
from tests.wire.proxy import Proxy

Make = Callable[..., Application]

PATIENCE_SECONDS = 0.5


class AtCommit:
    """Holds a COMMIT back at a stage, once it is armed, until it is released."""

    def __init__(self) -> None:
        self.stage: Stage | None = None
        self.held = asyncio.Event()
        self.released = asyncio.Event()

    async def passes(self, stage: Stage, exchange: Exchange) -> bool:
        """See Tap."""
        if stage is self.stage and isinstance(exchange, Statement) and exchange.commits:
            self.held.set()
            await self.released.wait()
        return True


@pytest.fixture
async def proxy(database_url: str) -> AsyncIterator[Proxy]:
    """A line to PostgreSQL with a tap that can hold a COMMIT."""
    proxy = await Proxy.open("127.0.0.1", urlsplit(database_url).port or 0, speak_postgres)
    proxy.tap = AtCommit()
    yield proxy
    await proxy.close()


@pytest.fixture
async def app(make: Make, proxy: Proxy, database_url: str) -> AsyncIterator[Application]:
    api = APIRouter(route_class=IdempotentRoute)

    @api.post("/things", status_code=201)
    async def add(work: Transaction) -> int:
        return int(await work.fetchval("INSERT INTO things DEFAULT VALUES RETURNING id"))

    there = urlsplit(database_url)
    through = there._replace(netloc=there.netloc.replace(str(there.port), str(proxy.port))).geturl()
    async with Database.open(through) as database:
        async with database.acquire() as connection:
            await connection.execute("CREATE TABLE things (id int GENERATED ALWAYS AS IDENTITY)")
        yield make(api, transactions=Transactions(database, "test"))


async def post(app: Application, **headers: str) -> Answer:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return await ask(app, "POST", "/things", headers={"Idempotency-Key": "k", **given})


async def timed_out(app: Application, tap: AtCommit, stage: Stage) -> asyncio.Task[Answer]:
    """Ask, and wait until the caller's time is over while COMMIT is under way."""
    tap.stage = stage
    clock = asyncio.get_running_loop().time
    ends = clock() + PATIENCE_SECONDS
    asked = asyncio.create_task(post(app, Covey_Timeout_Ms=f"{PATIENCE_SECONDS * 1000:.0f}"))
    await tap.held.wait()
    await eventually(lambda: clock() > ends)
    tap.stage = None
    return asked


@pytest.mark.parametrize("stage", [Stage.REQUEST, Stage.ANSWER])
async def test_a_commit_that_the_deadline_has_overtaken_is_a_504_and_done_once_with_its_key(
    app: Application, proxy: Proxy, database: Database, stage: Stage
) -> None:
    """Cancelled on our side only: COMMIT is on its way, and arrives."""
    tap = proxy.tap
    assert isinstance(tap, AtCommit)

    asked = await timed_out(app, tap, stage)
    tap.released.set()
    first, again = await asked, await post(app)

    assert (first.status, again.status, again.json()) == (504, 201, 1)
    assert await count(database) == 1


async def test_a_commit_that_never_arrives_is_a_504_too_and_is_carried_out_with_its_key(
    app: Application, proxy: Proxy, database: Database
) -> None:
    tap = proxy.tap
    assert isinstance(tap, AtCommit)

    asked = await timed_out(app, tap, Stage.REQUEST)
    proxy.cut()
    first = await asked
    proxy.mend()
    again = await post(app)

    assert (first.status, again.status, again.json()) == (504, 201, 2)  # the number of the first was used up
    assert await count(database) == 1


async def count(database: Database) -> int:
    async with database.acquire() as connection:
        return int(await connection.fetchval("SELECT count(*) FROM things"))
