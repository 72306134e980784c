"""One effect and one answer for each Idempotency-Key, on a real PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, Header, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from covey import context
from covey.database.pool import Database
from covey.errors import Conflict, DefinitionError, Unauthenticated
from covey.http.application import Application
from covey.http.idempotency import IdempotentRoute, KeyRequiredRoute
from covey.http.transaction import Transaction
from covey.ids import new_id
from covey.testing.asgi import Answer, ask
from covey.testing.eventually import eventually
from covey.testing.interruption import every_interruption
from covey.work.unit_of_work import Transactions

Make = Callable[..., Application]


class NewOrder(BaseModel):
    item: str
    quantity: int = Field(ge=1)


class Gate:
    """Holds requests inside their transaction until it is opened."""

    def __init__(self) -> None:
        self.arrived = 0
        self.opened = asyncio.Event()
        self.opened.set()

    async def passed(self) -> None:
        self.arrived += 1
        await self.opened.wait()


async def caller(authorization: Annotated[str, Header()]) -> str:
    if authorization != "Bearer ann":
        raise Unauthenticated("who are you?")
    return "ann"


def orders(gate: Gate) -> APIRouter:
    api = APIRouter(prefix="/api/v1", route_class=IdempotentRoute)

    @api.post("/orders", status_code=201)
    async def place(order: NewOrder, work: Transaction, response: Response) -> dict[str, Any]:
        order_id = str(new_id())
        await work.execute("INSERT INTO orders VALUES ($1)", order_id)
        await gate.passed()
        response.headers["Location"] = f"/api/v1/orders/{order_id}"
        response.headers["ETag"] = '"1"'
        response.set_cookie("session", "secret")
        return {"id": order_id, "item": order.item}

    @api.post("/orders/{order_id}/cancel", status_code=204)
    async def cancel(order_id: str, work: Transaction) -> None:
        await work.execute("INSERT INTO orders VALUES ($1)", f"cancelled {new_id()}")

    @api.post("/refusing")
    async def refusing(work: Transaction) -> str:
        await work.execute("INSERT INTO orders VALUES ('refused')")
        if gate.arrived < 1:
            gate.arrived += 1
            raise Conflict("not now")
        return "done"

    @api.post("/returning", response_model=None)
    async def returning(work: Transaction) -> Response:
        await work.execute("INSERT INTO orders VALUES ($1)", f"returned {new_id()}")
        return Response(b"\x00\xff raw", status_code=402, media_type="application/octet-stream")

    @api.post("/streaming")
    async def streaming(work: Transaction) -> StreamingResponse:
        await work.execute("INSERT INTO orders VALUES ('streamed')")
        return StreamingResponse(iter([b"x"]))

    @api.post("/private", status_code=201)
    async def private(work: Transaction, who: Annotated[str, Depends(caller)]) -> str:
        await work.execute("INSERT INTO orders VALUES ($1)", str(new_id()))
        return who

    @api.post("/blocking", status_code=201)
    def blocking(work: Transaction) -> str:
        return context.current().correlation_id

    @api.post("/search")
    async def search(order: NewOrder) -> str:
        return str(new_id())

    @api.patch("/orders/{order_id}")
    async def change(order_id: str, work: Transaction) -> str:
        await work.execute("INSERT INTO orders VALUES ($1)", f"changed {new_id()}")
        return str(new_id())

    return api


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
async def app(make: Make, database: Database, gate: Gate) -> Application:
    async with database.acquire() as connection:
        await connection.execute("CREATE TABLE orders (id text)")
    return make(orders(gate), transactions=Transactions(database, "test"))


async def effects(database: Database) -> int:
    async with database.acquire() as connection:
        return int(await connection.fetchval("SELECT count(*) FROM orders"))


async def place(app: Application, key: str | None = "key-1", body: bytes = b'{"item":"a","quantity":1}') -> Answer:
    return await ask(app, "POST", "/api/v1/orders", headers={"Idempotency-Key": key} if key else {}, body=body)


async def test_the_same_request_again_has_one_effect_and_the_same_answer(app: Application, database: Database) -> None:
    first = await place(app)
    again = [await place(app) for _ in range(3)]

    assert first.status == 201
    assert await effects(database) == 1
    for answer in again:
        assert (answer.status, answer.body) == (first.status, first.body)
        for name in ("content-type", "content-length", "location", "etag"):
            assert answer.headers[name] == first.headers[name]


async def test_each_try_has_its_own_correlation_id(app: Application) -> None:
    assert (await place(app)).headers["x-correlation-id"] != (await place(app)).headers["x-correlation-id"]


async def test_a_cookie_is_neither_kept_nor_given_to_who_repeats(app: Application, database: Database) -> None:
    assert "set-cookie" in (await place(app)).headers
    assert "set-cookie" not in (await place(app)).headers
    async with database.acquire() as connection:
        assert "secret" not in await connection.fetchval("SELECT headers::text FROM covey.idempotency")


async def test_requests_without_a_key_are_each_carried_out(app: Application, database: Database) -> None:
    await place(app, None)
    await place(app, None)

    assert await effects(database) == 2


async def test_different_keys_are_different_requests(app: Application, database: Database) -> None:
    assert (await place(app, "a")).body != (await place(app, "b")).body
    assert await effects(database) == 2


@pytest.mark.parametrize("body", [b'{"item":"a","quantity":2}', b'{"item":"a","quantity":1} '])
async def test_a_key_used_for_another_request_is_refused(app: Application, database: Database, body: bytes) -> None:
    await place(app)

    answer = await place(app, body=body)

    assert answer.status == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["type"] == "/problems/idempotency-key-reused"
    assert await effects(database) == 1


async def test_a_key_belongs_to_its_route_and_address(app: Application, database: Database) -> None:
    headers = {"Idempotency-Key": "same"}

    assert (await ask(app, "POST", "/api/v1/orders/1/cancel", headers=headers)).status == 204
    assert (await ask(app, "POST", "/api/v1/orders/1/cancel", headers=headers)).status == 204
    assert (await ask(app, "POST", "/api/v1/orders/2/cancel", headers=headers)).status == 422
    assert (await place(app, "same")).status == 201
    assert await effects(database) == 2


@pytest.mark.parametrize(
    "key", ["", " ", '"', '""', "a b", "a" * 256, 'half"quoted', "ä", "a,b", "'; drop table orders; --", "\x1b[31m"]
)
async def test_a_malformed_key_is_refused_and_nothing_happens(app: Application, database: Database, key: str) -> None:
    answer = await ask(
        app, "POST", "/api/v1/orders", headers={"Idempotency-Key": key}, body=b'{"item":"a","quantity":1}'
    )

    assert answer.status == 400
    assert await effects(database) == 0


async def test_the_drafts_quoted_form_and_the_bare_one_are_the_same_key(app: Application, database: Database) -> None:
    key = "8e03978e-40d5-43dd-bc93-6894a57f9324"

    assert (await place(app, f'"{key}"')).body == (await place(app, key)).body
    assert await effects(database) == 1


async def test_of_two_equal_requests_at_the_same_instant_one_proceeds(
    app: Application, database: Database, gate: Gate
) -> None:
    gate.opened.clear()
    first = asyncio.create_task(place(app))
    await eventually(lambda: gate.arrived == 1)

    second = await place(app)
    gate.opened.set()

    assert second.status == 409
    assert second.json()["type"] == "/problems/idempotency-key-in-use"
    assert second.headers["retry-after"] == "1"
    assert (await first).status == 201
    assert await effects(database) == 1
    assert (await place(app)).body == (await first).body, "who comes back gets the answer of the first"


async def test_many_equal_requests_at_once_have_one_effect_and_one_answer(app: Application, database: Database) -> None:
    answers = await asyncio.gather(*[place(app) for _ in range(24)])

    assert await effects(database) == 1
    assert {answer.status for answer in answers} <= {201, 409, 503}
    assert len({answer.body for answer in answers if answer.status == 201}) == 1


async def test_what_was_rolled_back_may_be_tried_again_with_its_key(app: Application, database: Database) -> None:
    headers = {"Idempotency-Key": "retry"}

    assert (await ask(app, "POST", "/api/v1/refusing", headers=headers)).status == 409
    assert await effects(database) == 0
    assert (await ask(app, "POST", "/api/v1/refusing", headers=headers)).status == 200
    assert await effects(database) == 1


async def test_a_request_that_dies_before_its_commit_leaves_its_key_free(
    app: Application, database: Database, gate: Gate
) -> None:
    gate.opened.clear()
    first = asyncio.create_task(place(app))
    await eventually(lambda: gate.arrived == 1)

    first.cancel()
    with suppress(asyncio.CancelledError):
        await first
    gate.opened.set()

    assert (await place(app)).status == 201
    assert await effects(database) == 1


async def test_a_key_is_not_inherited_by_a_request_that_a_request_makes(make: Make, database: Database) -> None:
    api = APIRouter(route_class=IdempotentRoute)

    @api.post("/inner")
    async def inner(work: Transaction) -> str:
        await work.execute("INSERT INTO orders VALUES ('inner')")
        return "done"

    @api.post("/outer")
    async def outer(work: Transaction) -> str:
        answers.append((await ask(app, "POST", "/inner")).status)
        later.append(asyncio.create_task(ask(app, "POST", "/inner")))
        raise Conflict("no")

    answers: list[int] = []
    later: list[asyncio.Task[Answer]] = []
    async with database.acquire() as connection:
        await connection.execute("CREATE TABLE orders (id text)")
    app = make(api, transactions=Transactions(database, "test"))

    for _ in range(2):
        assert (await ask(app, "POST", "/outer", headers={"Idempotency-Key": "k"})).status == 409
    assert answers == [200, 200]
    assert [(await task).status for task in later] == [200, 200]
    async with database.acquire() as connection:
        assert await connection.fetchval("SELECT count(*) FROM covey.idempotency") == 0


async def test_a_key_may_have_white_space_around_it(app: Application, database: Database) -> None:
    assert (await place(app, "key-1")).body == (await place(app, "key-1  ")).body
    assert await effects(database) == 1


async def test_an_answer_of_any_status_and_any_bytes_is_given_again_as_it_was(
    app: Application, database: Database
) -> None:
    headers = {"Idempotency-Key": "raw"}

    first = await ask(app, "POST", "/api/v1/returning", headers=headers)
    again = await ask(app, "POST", "/api/v1/returning", headers=headers)

    assert (again.status, again.body) == (first.status, first.body) == (402, b"\x00\xff raw")
    assert again.headers["content-type"] == "application/octet-stream"
    assert await effects(database) == 1


async def test_an_invalid_body_uses_up_no_key(app: Application) -> None:
    assert (await place(app, body=b'{"item":"a","quantity":0}')).status == 422
    assert (await place(app)).status == 201


async def test_who_is_not_authenticated_gets_no_answer_of_somebody_else(app: Application, database: Database) -> None:
    async def ask_as(token: str) -> Answer:
        headers = {"Idempotency-Key": "known-to-a-thief", "Authorization": token}
        return await ask(app, "POST", "/api/v1/private", headers=headers)

    assert (await ask_as("Bearer ann")).status == 201

    assert (await ask_as("Bearer thief")).status == 401
    assert await effects(database) == 1


async def test_a_streamed_answer_cannot_be_kept_and_is_refused_with_its_effect(
    app: Application, database: Database
) -> None:
    answer = await ask(app, "POST", "/api/v1/streaming", headers={"Idempotency-Key": "stream"})

    assert answer.status == 500
    assert await effects(database) == 0
    assert (await ask(app, "POST", "/api/v1/streaming")).status == 200


async def test_an_endpoint_that_blocks_is_run_in_a_thread_as_ever(app: Application) -> None:
    headers = {"Idempotency-Key": "thread", "X-Correlation-ID": "abc"}

    assert (await ask(app, "POST", "/api/v1/blocking", headers=headers)).json() == "abc"
    assert (await ask(app, "POST", "/api/v1/blocking", headers={**headers, "X-Correlation-ID": "x"})).json() == "abc"


async def test_a_route_without_a_transaction_is_left_alone(app: Application) -> None:
    body = b'{"item":"a","quantity":1}'

    answers = [await ask(app, "POST", "/api/v1/search", headers={"Idempotency-Key": "k"}, body=body) for _ in range(2)]

    assert answers[0].body != answers[1].body


async def test_a_route_may_require_a_key(make: Make, database: Database) -> None:
    api = APIRouter(route_class=KeyRequiredRoute)

    @api.post("/refunds")
    async def refund(work: Transaction) -> str:
        return str(new_id())

    @api.get("/refunds")
    async def refunds(work: Transaction) -> str:
        return "read"

    app = make(api, transactions=Transactions(database, "test"))
    refused = await ask(app, "POST", "/refunds")

    assert (refused.status, "Idempotency-Key" in refused.json()["detail"]) == (400, True)
    assert (await ask(app, "POST", "/refunds", headers={"Idempotency-Key": "1"})).status == 200
    assert (await ask(app, "GET", "/refunds")).status == 200
    (parameter,) = app.api.openapi()["paths"]["/refunds"]["post"]["parameters"]
    assert (parameter["name"], parameter["required"]) == ("Idempotency-Key", True)


def test_a_route_that_requires_a_key_and_could_not_keep_it_is_a_mistake() -> None:
    api = APIRouter(route_class=KeyRequiredRoute)

    with pytest.raises(DefinitionError, match="needs a `Transaction`"):

        @api.post("/refunds")
        async def refund() -> None: ...


async def test_patch_is_covered_too(app: Application, database: Database) -> None:
    headers = {"Idempotency-Key": "patch"}

    first, again = [await ask(app, "PATCH", "/api/v1/orders/1", headers=headers) for _ in range(2)]

    assert first.body == again.body
    assert await effects(database) == 1


async def test_the_header_is_in_the_openapi_document_of_exactly_these_operations(app: Application) -> None:
    paths = (await ask(app, "GET", "/openapi.json")).json()["paths"]

    def documented(path: str, method: str) -> bool:
        return any(one["name"] == "Idempotency-Key" for one in paths[path][method].get("parameters", ()))

    assert documented("/api/v1/orders", "post")
    assert documented("/api/v1/orders/{order_id}", "patch")
    assert not documented("/api/v1/search", "post")


async def test_a_request_cut_off_wherever_it_waits_and_repeated_has_its_effect_once(
    app: Application, database: Database
) -> None:
    tries = 0

    async def first_try() -> None:
        nonlocal tries
        tries += 1
        await place(app, f"key-{tries}")

    async def repeated() -> bool:
        answer = await place(app, f"key-{tries}")
        assert answer.status in (201, 409)
        return answer.status == 201

    async for point in every_interruption(first_try):
        await eventually(repeated, because="PostgreSQL learns of the cut a moment later")
        assert await effects(database) == point.number

    assert tries >= 4, "claim, effect, and answer are waited for, with begin and commit, and the end"
