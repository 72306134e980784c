"""What is answered is committed: COMMIT comes before the first byte of the answer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, HTTPException, Response
from fastapi.responses import StreamingResponse

from covey.database.pool import Database
from covey.errors import Conflict, DatabaseUnavailable
from covey.http.application import Application
from covey.http.edge import HttpOptions
from covey.http.transaction import Transaction
from covey.testing.asgi import ask
from covey.work.unit_of_work import Transactions
from tests.http.transactions import FakeTransactions

Make = Callable[..., Application]


@pytest.fixture(params=[True, False], ids=["the short way", "through FastAPI"])
def make(request: pytest.FixtureRequest, make: Make) -> Make:
    """The function of all tests here, for either way that a request may take."""
    return partial(make, options=HttpOptions(direct=request.param))


async def audit(work: Transaction) -> str:
    work.happened.append("audit")  # type: ignore[attr-defined]  # the fake's own
    return "audited"


def orders() -> APIRouter:
    api = APIRouter()

    @api.post("/orders", status_code=201)
    async def place(work: Transaction) -> str:
        work.happened.append("work")  # type: ignore[attr-defined]
        return "placed"

    @api.post("/raises")
    async def raises(work: Transaction) -> None:
        raise Conflict("no")

    @api.post("/raises-http")
    async def raises_http(work: Transaction) -> None:
        raise HTTPException(409)

    @api.post("/crashes")
    async def crashes(work: Transaction) -> None:
        raise RuntimeError

    @api.post("/returns-409")
    async def returns(work: Transaction) -> Response:
        return Response(status_code=409)

    @api.post("/unserializable")
    async def unserializable(work: Transaction) -> int:
        return "no number"  # type: ignore[return-value]  # that is the defect

    @api.post("/shared")
    async def shared(work: Transaction, audited: Annotated[str, Depends(audit)]) -> str:
        return audited

    @api.post("/streamed")
    async def streamed(work: Transaction) -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            yield b"x"

        return StreamingResponse(parts())

    return api


async def test_commit_comes_before_the_first_byte_of_the_answer(make: Make) -> None:
    fake = FakeTransactions()

    status = await fake.answered(make(orders(), transactions=fake), "/orders")

    assert status == 201
    assert fake.happened == ["begin", "work", "commit", "http.response.start", "http.response.body"]


async def test_commit_comes_before_the_first_byte_of_a_streamed_answer_too(make: Make) -> None:
    fake = FakeTransactions()

    await fake.answered(make(orders(), transactions=fake), "/streamed")

    assert fake.happened.index("commit") < fake.happened.index("http.response.start")


async def test_a_commit_that_fails_is_never_a_201(make: Make) -> None:
    fake = FakeTransactions(DatabaseUnavailable("the connection was lost"))

    answer = await ask(make(orders(), transactions=fake), "POST", "/orders")

    assert answer.status == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert [message["type"] for message in answer.messages] == ["http.response.start", "http.response.body"]


@pytest.mark.parametrize(
    ("path", "status"),
    [("/raises", 409), ("/raises-http", 409), ("/crashes", 500), ("/unserializable", 500)],
)
async def test_whatever_is_raised_rolls_back(make: Make, path: str, status: int) -> None:
    fake = FakeTransactions()

    answered = await fake.answered(make(orders(), transactions=fake), path)

    assert answered == status
    assert fake.happened == ["begin", "rollback", "http.response.start", "http.response.body"]


async def test_what_is_returned_is_committed_whatever_its_status(make: Make) -> None:
    fake = FakeTransactions()

    assert await fake.answered(make(orders(), transactions=fake), "/returns-409") == 409
    assert "commit" in fake.happened


async def test_an_application_without_transactions_says_what_is_missing(make: Make, log: Any) -> None:
    assert (await ask(make(orders()), "POST", "/orders")).status == 500
    assert "made without `transactions`" in log()[0]["exception"]["message"]


async def test_a_request_has_one_transaction_however_many_ask_for_it(make: Make) -> None:
    fake = FakeTransactions()

    await fake.answered(make(orders(), transactions=fake), "/shared")

    assert fake.happened[:3] == ["begin", "audit", "commit"]


async def test_on_a_real_database_an_answer_of_201_is_durable_and_one_of_500_left_nothing(
    make: Make, database: Database
) -> None:
    api = APIRouter()

    @api.post("/things", status_code=201)
    async def add(work: Transaction, fail: bool = False) -> None:
        await work.execute("INSERT INTO things VALUES (1)")
        if fail:
            raise RuntimeError

    async with database.acquire() as connection:
        await connection.execute("CREATE TABLE things (id int)")
        app = make(api, transactions=Transactions(database, "test"))

        assert (await ask(app, "POST", "/things", query="fail=true")).status == 500
        assert await connection.fetchval("SELECT count(*) FROM things") == 0
        assert (await ask(app, "POST", "/things")).status == 201
        assert await connection.fetchval("SELECT count(*) FROM things") == 1


async def test_a_deferred_constraint_that_fails_at_commit_is_a_409_and_not_a_201(
    make: Make, database: Database
) -> None:
    api = APIRouter()

    @api.post("/things", status_code=201)
    async def add(work: Transaction) -> None:
        await work.execute("INSERT INTO things VALUES (1)")

    async with database.acquire() as connection:
        await connection.execute("CREATE TABLE things (id int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
        await connection.execute("INSERT INTO things VALUES (1)")

    answer = await ask(make(api, transactions=Transactions(database, "test")), "POST", "/things")

    assert answer.status == 409
