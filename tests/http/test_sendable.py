"""An answer that no server would send is found before its work is committed, and whatever goes wrong is answered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from fastapi import APIRouter, HTTPException, Response
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from covey.database.pool import Database
from covey.errors import Conflict
from covey.http.application import Application
from covey.http.edge import HttpOptions
from covey.http.idempotency import IdempotentRoute
from covey.http.sendable import Unsendable, require_head
from covey.http.transaction import Transaction
from covey.telemetry.telemetry import Telemetry
from covey.testing.asgi import ask, scope_of
from covey.testing.serving import serving
from covey.work.unit_of_work import Transactions

Make = Callable[..., Application]
Log = Callable[[], list[dict[str, Any]]]

THIS = Path(__file__).read_bytes()

BROKEN: Mapping[str, str] = {
    "line-break": "b'X-Note' holds b'\\n', at byte 3",
    "zero-byte": "b'x-note' holds b'\\x00', at byte 0",
    "no-name": "a header of the name b'x note'",
    "no-status": "status is 999",
    "not-final": "status is 103",
    "too-short": "a Content-Length of 9 and a body of 2 bytes",
    "no-length": "a Content-Length of b'-1', which is no number of bytes",
    "two-ends": "more than once, by Content-Length or Transfer-Encoding, where it ends",
    "no-body": "a body of 4 bytes, and the status 204 allows none",
    "no-file": "is the file '/nowhere/at-all': No such file or directory",
    "a-folder": "is '/', which is no file that can be read",
    "other-length": "a Content-Length of 1 and a file of",
    "streamed": "b'x-note' holds b'\\r', at byte 3",
}


@pytest.fixture(params=[True, False], ids=["the short way", "through FastAPI"])
def make(request: pytest.FixtureRequest, make: Make) -> Make:
    """The function of all tests here, for either way that a request may take."""
    return partial(make, options=HttpOptions(direct=request.param))


def things() -> APIRouter:
    api = APIRouter(route_class=IdempotentRoute)

    async def add(work: Transaction) -> None:
        await work.execute("INSERT INTO things VALUES (1)")

    @api.post("/line-break", status_code=201)
    async def line_break(work: Transaction, response: Response) -> str:
        await add(work)
        response.raw_headers.append((b"X-Note", b"one\nSet-Cookie: a=b"))
        return "done"

    @api.post("/zero-byte", response_model=None)
    async def zero_byte(work: Transaction) -> Response:
        await add(work)
        return PlainTextResponse("ok", headers={"X-Note": "\0"})

    @api.post("/no-name", response_model=None)
    async def no_name(work: Transaction) -> Response:
        await add(work)
        return PlainTextResponse("ok", headers={"X Note": "a"})

    @api.post("/no-status")
    async def no_status(work: Transaction, response: Response) -> str:
        await add(work)
        response.status_code = 999
        return "done"

    @api.post("/not-final", response_model=None)
    async def not_final(work: Transaction) -> Response:
        await add(work)
        return Response(status_code=103)

    @api.post("/too-short", response_model=None)
    async def too_short(work: Transaction) -> Response:
        await add(work)
        return PlainTextResponse("ok", headers={"Content-Length": "9"})

    @api.post("/two-ends", response_model=None)
    async def two_ends(work: Transaction) -> Response:
        await add(work)
        return PlainTextResponse("ok", headers={"Transfer-Encoding": "chunked"})

    @api.post("/no-body", response_model=None)
    async def no_body(work: Transaction) -> Response:
        await add(work)
        return JSONResponse(None, status_code=204)

    return api


def streamed() -> APIRouter:
    api = APIRouter()

    @api.post("/streamed", response_model=None)
    async def stream(work: Transaction) -> Response:
        await work.execute("INSERT INTO things VALUES (1)")
        return StreamingResponse(iter([b"x"]), headers={"X-Note": "one\r"})

    @api.post("/no-length", response_model=None)
    async def no_length(work: Transaction) -> Response:
        await work.execute("INSERT INTO things VALUES (1)")
        return StreamingResponse(iter([b"x"]), headers={"Content-Length": "-1"})

    @api.post("/no-file", response_model=None)
    async def no_file(work: Transaction) -> Response:
        await work.execute("INSERT INTO things VALUES (1)")
        return FileResponse("/nowhere/at-all")

    @api.post("/a-folder", response_model=None)
    async def folder(work: Transaction) -> Response:
        await work.execute("INSERT INTO things VALUES (1)")
        return FileResponse("/")

    @api.post("/other-length", response_model=None)
    async def other_length(work: Transaction) -> Response:
        await work.execute("INSERT INTO things VALUES (1)")
        return FileResponse(__file__, headers={"Content-Length": "1"})

    @api.get("/file", response_model=None)
    async def file(work: Transaction) -> Response:
        return FileResponse(__file__)

    return api


@pytest.fixture
async def app(make: Make, database: Database) -> Application:
    async with database.acquire() as connection:
        await connection.execute("CREATE TABLE things (id int)")
    return make(things(), streamed(), transactions=Transactions(database, "test"))


@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "k"}], ids=["without a key", "with a key"])
@pytest.mark.parametrize("name", list(BROKEN))
async def test_what_no_server_would_send_is_a_500_over_the_wire_and_nothing_is_committed(
    app: Application, database: Database, client: aiohttp.ClientSession, log: Log, name: str, headers: dict[str, str]
) -> None:
    async with serving(app) as url, client.post(f"{url}/{name}", headers=headers) as answer:
        status, problem = answer.status, await answer.json(content_type="application/problem+json")

    assert (status, problem["type"]) == (500, "/problems/internal")
    assert "Set-Cookie" not in answer.headers
    (line,) = [line for line in log() if line["event"] == "request failed"]
    assert BROKEN[name] in line["exception"]["message"]
    async with database.acquire() as connection:
        assert await connection.fetchval("SELECT count(*) FROM things") == 0
        assert await connection.fetchval("SELECT count(*) FROM covey.idempotency") == 0


async def test_a_file_that_is_there_is_sent_whole_or_the_part_that_is_asked_for(
    app: Application, client: aiohttp.ClientSession
) -> None:
    async with serving(app) as url:
        async with client.get(f"{url}/file") as whole:
            assert (whole.status, await whole.read()) == (200, THIS)
        async with client.get(f"{url}/file", headers={"Range": "bytes=3-9"}) as part:
            assert (part.status, await part.read()) == (206, THIS[3:10])


@pytest.mark.parametrize(
    "error",
    [
        HTTPException(409, headers={"X-Note": "one\ntwo"}),
        HTTPException(409, headers={"X-Note": "☃"}),
        HTTPException(999),
        SystemExit(1),
        asyncio.CancelledError(),
    ],
    ids=["line break", "snowman", "no status", "exit", "a library's cancellation"],
)
async def test_what_is_raised_is_answered_over_the_wire_even_where_it_cannot_be_told(
    make: Make, client: aiohttp.ClientSession, telemetry: Telemetry, error: BaseException
) -> None:
    api = APIRouter()

    @api.post("/things")
    async def raises() -> None:
        raise error

    async with serving(make(api)) as url, client.post(f"{url}/things", headers={"X-Correlation-ID": "c"}) as answer:
        problem = await answer.json(content_type="application/problem+json")

    assert (answer.status, problem["type"], problem["correlation_id"]) == (500, "/problems/internal", "c")


async def test_an_error_that_cannot_tell_what_it_is_gets_a_500(make: Make) -> None:
    class Mute(Conflict):
        def __str__(self) -> str:
            raise RuntimeError("no")

    api = APIRouter()

    @api.post("/things")
    async def raises() -> None:
        raise Mute

    assert (await ask(make(api), "POST", "/things")).status == 500


async def test_a_head_of_what_is_no_route_of_fastapi_is_refused_too(
    make: Make, client: aiohttp.ClientSession, log: Log
) -> None:
    async def raw(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-note", b"a\nb")]})
        await send({"type": "http.response.body", "body": b""})

    class Raw:
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            await raw(scope, receive, send)

    api = APIRouter(routes=[Route("/raw", Raw())])
    async with serving(make(api)) as url, client.get(f"{url}/raw") as answer:
        assert answer.status == 500
    assert "b'x-note' holds b'\\n'" in log()[0]["exception"]["message"]


async def test_when_the_server_takes_nothing_no_exception_leaves(make: Make) -> None:
    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    async def send(message: Any) -> None:
        raise OSError("the server's own")

    await make()(scope_of("GET", "/health", {}), receive, send)


@pytest.mark.parametrize("value", [b"", b"a\tb", b"\x80\xff", b'W/"1"'])
def test_what_http_allows_is_let_through(value: bytes) -> None:
    require_head(200, [(b"ETag", value), (b"x_odd.name~", b"a")])
    require_head(204, [])


@pytest.mark.parametrize("status", [0, 99, 199, 600, 1000])
def test_no_status_is_no_answer(status: int) -> None:
    with pytest.raises(Unsendable):
        require_head(status, [])
