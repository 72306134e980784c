"""Which version is asked for, in three ways that lead to the same routes; and what of a request nobody understands."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import date
from functools import partial
from typing import Annotated

import pytest
from fastapi import APIRouter, Query
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from starlette.responses import PlainTextResponse

from covey.errors import DefinitionError
from covey.http.application import Application, openapi
from covey.http.edge import HttpOptions
from covey.http.versioning import Deprecated, _asked
from covey.testing.asgi import Answer, ask

Make = Callable[..., Application]

ENDING = Deprecated(since=date(2026, 11, 1), sunset=date(2027, 11, 1), link="https://example.org/v2")


@pytest.fixture(params=[True, False], ids=["the short way", "through FastAPI"])
def make(request: pytest.FixtureRequest, make: Make) -> Make:
    """The function of all tests here, for either way that a request may take."""
    return partial(make, options=HttpOptions(direct=request.param), deprecated={1: ENDING})


class Filter(BaseModel):
    colour: str | None = None


def shop() -> list[APIRouter]:
    v1, v2, plain = APIRouter(prefix="/api/v1"), APIRouter(prefix="/api/v2"), APIRouter()

    @v1.get("/users/{user_id}")
    async def user_v1(user_id: int, verbose: bool = False) -> str:
        return f"v1 {user_id}"

    @v2.get("/users/{user_id}")
    async def user_v2(user_id: int) -> str:
        return f"v2 {user_id}"

    @v2.get("/things")
    async def things(filtered: Annotated[Filter, Query()]) -> str | None:
        return filtered.colour

    @v2.get("/several")
    async def several(ids: Annotated[list[int], Query()]) -> list[int]:
        return ids

    @plain.get("/hello")
    async def hello() -> str:
        return "hello"

    @plain.get("/text")
    async def text() -> PlainTextResponse:
        return PlainTextResponse("text")

    @plain.get("/page", response_class=PlainTextResponse)
    async def page() -> str:
        return "page"

    return [v1, v2, plain]


async def get(app: Application, path: str, accept: str | None = None, query: str = "") -> Answer:
    return await ask(app, "GET", path, headers={"Accept": accept} if accept is not None else {}, query=query)


VENDOR = "application/vnd.api+json"


@pytest.mark.parametrize(
    ("path", "accept", "query", "found"),
    [
        ("/api/v1/users/7", None, "", "v1 7"),
        ("/api/v2/users/7", None, "", "v2 7"),
        ("/api/users/7", f"{VENDOR};version=1", "", "v1 7"),
        ("/api/users/7", f'{VENDOR}; version="2"', "", "v2 7"),
        ("/api/users/7", f"text/html, {VENDOR} ; version=2;q=0.9, */*;q=0.1", "", "v2 7"),
        ("/api/users/7", None, "version=1", "v1 7"),
        ("/api/users/7", "*/*", "verbose=true&version=1", "v1 7"),
        ("/api/users/7", f"{VENDOR};version=2", "version=2", "v2 7"),
        ("/api/v2/users/7", f"{VENDOR};version=2", "version=2", "v2 7"),
        ("/api/v2/users/7", VENDOR, "", "v2 7"),
    ],
)
async def test_a_version_may_be_named_in_three_ways(
    make: Make, path: str, accept: str | None, query: str, found: str
) -> None:
    answer = await get(make(*shop()), path, accept, query)

    assert (answer.status, answer.json()) == (200, found)


@pytest.mark.parametrize(
    ("path", "accept", "query", "status"),
    [
        ("/api/users/7", None, "", 400),
        ("/api/users/7", "application/json", "", 400),
        ("/api/users/7", f"{VENDOR};version=3", "", 406),
        ("/api/users/7", f"{VENDOR};version=one", "", 406),
        ("/api/users/7", None, "version=3", 404),
        ("/api/users/7", None, "version=", 404),
        ("/api/users/7", None, "version=1&version=2", 400),
        ("/api/users/7", f"{VENDOR};version=1", "version=2", 406),
        ("/api/v1/users/7", f"{VENDOR};version=2", "", 406),
        ("/api/v1/users/7", None, "version=2", 400),
        ("/api/v3/users/7", None, "", 404),
        ("/api/v12345/users/7", None, "version=1", 404),
        ("/api/nothing", None, "version=1", 404),
        ("/api/v1", None, "", 404),
        ("/api/", None, "version=2", 404),
    ],
)
async def test_a_version_that_is_missing_unknown_or_contradicted_is_refused(
    make: Make, path: str, accept: str | None, query: str, status: int
) -> None:
    answer = await get(make(*shop()), path, accept, query)

    assert (answer.status, answer.headers["content-type"]) == (status, "application/problem+json")


async def test_who_names_no_version_is_told_which_there_are(make: Make) -> None:
    assert "1 and 2" in (await get(make(*shop()), "/api/users/7")).json()["detail"]


async def test_an_answer_that_was_negotiated_says_what_it_is_and_that_it_varies(make: Make) -> None:
    app = make(*shop())

    asked = await get(app, "/api/users/7", f"{VENDOR};version=2")
    by_path = await get(app, "/api/v2/users/7", "application/json")

    assert (asked.headers["content-type"], asked.headers["vary"]) == (f"{VENDOR};version=2", "Accept")
    assert by_path.headers["content-type"] == "application/json"
    assert (await get(app, "/api/users/7", f"{VENDOR};version=3")).headers["content-type"] == "application/problem+json"


async def test_a_version_that_will_end_says_so_in_every_answer(make: Make) -> None:
    app = make(*shop())

    for answer in (
        await get(app, "/api/v1/users/7"),
        await get(app, "/api/v1/users/x"),
        await get(app, "/api/users/7", query="version=1"),
    ):
        assert answer.headers["deprecation"] == "@1793491200"
        assert answer.headers["sunset"] == "Mon, 01 Nov 2027 00:00:00 GMT"
        assert answer.headers["link"] == '<https://example.org/v2>; rel="deprecation"'
    assert "deprecation" not in (await get(app, "/api/v2/users/7")).headers


def test_the_document_of_the_api_says_so_too() -> None:
    paths = openapi("shop", shop(), deprecated={1: ENDING})["paths"]

    assert paths["/api/v1/users/{user_id}"]["get"]["deprecated"] is True
    assert "deprecated" not in paths["/api/v2/users/{user_id}"]["get"]


def test_what_there_is_not_cannot_end(make: Make) -> None:
    with pytest.raises(DefinitionError):
        make(*shop(), deprecated={7: ENDING})
    with pytest.raises(DefinitionError):
        Deprecated(since=date(2027, 1, 1), sunset=date(2026, 1, 1), link="x")
    with pytest.raises(DefinitionError):
        Deprecated(since=date(2026, 1, 1), sunset=date(2027, 1, 1), link="x\r\nset-cookie: y")


@pytest.mark.parametrize("accept", ["text/html", "application/xml", "application/json;q=0", "image/*, text/*"])
async def test_who_takes_no_json_is_refused_where_there_is_nothing_else(make: Make, accept: str) -> None:
    app = make(*shop())

    assert [(await get(app, path, accept)).status for path in ("/hello", "/api/v1/users/7")] == [406, 406]
    assert (await get(app, "/page", accept)).status == 200


@pytest.mark.parametrize(
    "accept",
    [
        "",
        "*/*",
        "application/*",
        "application/json",
        "text/html, */*;q=0.1",
        "APPLICATION/JSON",
        "nonsense",
        ",;=",
        "application/json; charset=utf-8",
    ],
)
async def test_who_takes_json_or_says_nothing_to_the_point_is_answered(make: Make, accept: str) -> None:
    assert (await get(make(*shop()), "/hello", accept)).status == 200


@given(st.binary(max_size=300))
def test_whatever_stands_in_accept_is_read_without_harm(value: bytes) -> None:
    _asked(value)


@pytest.mark.parametrize(
    "value",
    ["a/b" + ';c=""' * 20 + ";d", "a" * 1_000, "a/" * 500, ";" * 1_000, ' "' * 500, "a/b;c=," * 140, "a" * 60_000],
)
def test_no_accept_takes_long_to_read(value: str) -> None:
    """It is read before anybody is known, so that whoever sends it could stop the process."""
    begun = time.process_time()
    _asked(value.encode())

    assert time.process_time() - begun < 0.2


async def test_a_query_that_takes_long_to_read_is_not_read(make: Make) -> None:
    """Nor is what comes before anybody is known, and before load is shed."""
    query = "&".join(f"%{n:06x}" for n in range(30_000))
    app = make(*shop())
    begun = time.process_time()

    assert (await get(app, "/api/users/7", query=query + "&version=1")).status == 414
    assert time.process_time() - begun < 0.1


@pytest.mark.parametrize("query", ["colour=red", "verbos=true", "verbose=true&x", "%76erbose=1&%00=1"])
async def test_a_parameter_that_the_route_does_not_know_is_refused(make: Make, query: str) -> None:
    answer = await get(make(*shop()), "/api/v1/users/7", query=query)

    assert (answer.status, answer.json()["errors"][0]["rule"]) == (422, "extra_forbidden")
    assert "verbose" in answer.json()["detail"]


async def test_a_route_whose_query_is_a_model_or_a_list_is_read_by_it(make: Make) -> None:
    app = make(*shop())

    assert (await get(app, "/api/v2/things", query="colour=red&else=1")).json() == "red"
    assert (await get(app, "/api/v2/several", query="ids=1&ids=2")).json() == [1, 2]
    assert (await get(app, "/api/v2/several", query="ids=1&odd=2")).status == 422
