"""Whichever way a request goes, the answer is FastAPI's: the same status, the same headers in order, the same bytes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import quote, urlencode

import pytest
from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import ResponseValidationError
from fastapi.routing import iter_route_contexts
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.types import ASGIApp, Receive, Scope, Send

from covey.errors import Conflict
from covey.http.application import Application, application
from covey.http.arguments import HEADERS
from covey.http.direct import is_plain
from covey.http.edge import HttpOptions
from covey.http.routes import Routes
from covey.http.transaction import Transaction, begin, work_of
from covey.telemetry.health import Readiness
from covey.telemetry.telemetry import Telemetry
from covey.testing.asgi import Answer, ask
from tests.http.plain_routes import PATHS, idempotent, others, plain
from tests.http.transactions import FakeTransactions

Make = Callable[..., Application]

ITEM = b'{"name": "a", "price": 1.5, "tags": [{"label": "x", "weight": "1.10"}]}'


def made(*routers: APIRouter, direct: bool) -> Application:
    return application("test", routers, Telemetry.in_memory(), Readiness(), options=HttpOptions(direct=direct))


def bare_fastapi() -> FastAPI:
    api = FastAPI(redirect_slashes=False)
    for router in plain:
        api.include_router(router)
    return api


def transactional() -> APIRouter:
    api = APIRouter()

    @api.post("/works")
    async def works(work: Transaction, request: Request) -> bool:
        work.happened.append("works")  # type: ignore[attr-defined]  # the fake's own
        return work_of(request) is work

    @api.post("/raises")
    async def raises(work: Transaction) -> None:
        work.happened.append("raises")  # type: ignore[attr-defined]
        raise Conflict("no")

    @api.post("/breaks")
    async def breaks(work: Transaction) -> int:
        work.happened.append("breaks")  # type: ignore[attr-defined]
        return "no number"  # type: ignore[return-value]  # that is the defect

    return api


SHORT = made(*plain, direct=True)
LONG = made(*plain, direct=False)
BARE = bare_fastapi()


@dataclass
class Watched:
    """An application, and whether FastAPI has handled its last request."""

    app: ASGIApp
    is_fastapis: bool = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)
        self.is_fastapis = "fastapi_function_astack" in scope


async def answer_of_all(
    method: str, path: str, *, query: str = "", body: bytes = b"", headers: Mapping[str, str] | None = None
) -> tuple[Answer, bool]:
    """Return the answer on which all ways agree, and whether it was made the short way."""
    given = {"x-correlation-id": "the-same", **(headers or {})}
    watched = Watched(SHORT)
    ours = await ask(watched, method, path, query=query, body=body, headers=given)

    through_fastapi = await ask(LONG, method, path, query=query, body=body, headers=given)
    assert ours.messages == through_fastapi.messages

    if ours.status < 400:
        alone = await ask(BARE, "GET" if method == "HEAD" else method, path, query=query, body=body, headers=given)
        assert ours.status == alone.status
        assert ours.body == alone.body
        assert ours.messages[0]["headers"] == [*alone.messages[0]["headers"], (b"x-correlation-id", b"the-same")]
    return ours, not watched.is_fastapis


@pytest.mark.parametrize(
    ("method", "path", "query", "body"),
    [
        ("GET", "/path/int/7", "", b""),
        ("HEAD", "/path/int/7", "", b""),
        ("GET", "/path/converted/7", "", b""),
        ("GET", "/path/rest/a/b", "", b""),
        ("GET", "/query", "q=1", b""),
        ("GET", "/query", "q=&limit=5&colour=red&sort=down&from=2026-01-02&is-exact=1&checked=3&made=x&nested=5", b""),
        ("GET", "/query", "q=a&q=b&unknown=1", b""),
        ("GET", "/collected", "", b""),
        ("GET", "/headers", "", b""),
        ("POST", "/items", "", ITEM),
        ("POST", "/items", "", b"\xef\xbb\xbf" + ITEM),
        ("POST", "/items", "", b'{"name": "a", "name": "b", "price": "2", "seen": 0}'),
        ("POST", "/items", "", b'{"name": "a", "price": Infinity}'),
        ("PUT", "/items/1", "dry=yes", ITEM),
        ("PATCH", "/exact", "", b'{"count": 1, "share": 1}'),
        ("POST", "/numbers", "", b'{"a": 123456789012345678901234567890, "b": 1e3, "c": "4"}'),
        ("POST", "/list", "", b'[{"count": 1, "share": 1.0}, {"name": "", "price": 1}]'),
        ("POST", "/anything", "", b"null"),
        ("POST", "/anything", "", b'{"a": [NaN, 1.0, 1e999, -0, "\\u0000"]}'),
        ("POST", "/optional", "", b"null"),
        ("POST", "/optional", "", ITEM),
        ("POST", "/scalar", "", b"5"),
        ("POST", "/read-again", "a=1", ITEM),
        ("POST", "/read-raw", "", b"anything"),
        ("GET", "/shown", "", b""),
        ("GET", "/shown", "item_id=4&note=n", b""),
        ("GET", "/shown/bare", "", b""),
        ("GET", "/shown/bare", "note=n", b""),
        ("GET", "/shown/set", "", b""),
        ("GET", "/shown/least", "note=n", b""),
        ("GET", "/untyped", "", b""),
        ("GET", "/nothing", "", b""),
        ("DELETE", "/gone", "", b""),
        ("POST", "/set", "", b""),
        ("POST", "/set", "status=202", b""),
        ("POST", "/set", "status=204", b""),
        ("POST", "/set", "status=205", b""),
        ("POST", "/set", "status=304", b""),
        ("GET", "/returned", "", b""),
        ("GET", "/returned", "code=404", b""),
        ("GET", "/redirect", "", b""),
        ("POST", "/streamed", "", ITEM),
        ("GET", "/raises/http", "", b""),
        ("GET", "/raises/covey", "", b""),
        ("GET", "/raises/value", "", b""),
        ("GET", "/raises/key", "", b""),
        ("GET", "/broken", "", b""),
        ("GET", "/unserializable", "", b""),
    ],
)
async def test_an_ordinary_request_goes_the_short_way(method: str, path: str, query: str, body: bytes) -> None:
    _, is_short = await answer_of_all(method, path, query=query, body=body, headers={"X-Version": "2"})

    assert is_short


@pytest.mark.parametrize(
    ("method", "path", "query", "body", "status"),
    [
        ("GET", "/path/int/x", "", b"", 422),
        ("GET", "/path/int/" + "9" * 5_000, "", b"", 422),
        ("GET", "/query", "", b"", 422),
        ("GET", "/query", "q=1&limit=0", b"", 422),
        ("GET", "/query", "q=1&nested={", b"", 422),
        ("POST", "/items", "", b"", 422),
        ("POST", "/items", "", b"null", 422),
        ("POST", "/items", "", b"[]", 422),
        ("POST", "/items", "", b'{"name": "a", "price": NaN}', 422),
        ("POST", "/items", "", b'{"name": "a", "price": 0, "tags": [{"label": "too long"}, {}]}', 422),
        ("POST", "/items", "", b'{"name": 1', 400),
        ("POST", "/items", "", b'{"name": "a", "price": ' + b"9" * 5_000 + b"}", 400),
        ("PUT", "/items/x", "dry=maybe", b"{}", 422),
        ("PATCH", "/exact", "", b'{"count": "1", "share": 1.0}', 422),
        ("PATCH", "/exact", "", b'{"count": 1.0, "share": 1.0}', 422),
        ("PATCH", "/exact", "", b'{"count": 1, "share": 1.0, "on": "2026-01-01"}', 422),
        ("PATCH", "/exact", "", b'{"count": 1, "share": 1.0, "more": 1}', 422),
        ("POST", "/optional", "", b"", 200),
        ("POST", "/scalar", "", b"-1", 422),
    ],
)
async def test_an_unusual_request_is_left_to_fastapi(
    method: str, path: str, query: str, body: bytes, status: int
) -> None:
    answer, is_short = await answer_of_all(method, path, query=query, body=body)

    assert answer.status == status
    assert not is_short


@pytest.mark.parametrize(
    ("content_type", "status", "short"),
    [
        ("application/json", 201, True),
        ("application/json; charset=utf-8", 201, True),
        ("Application/JSON", 201, False),
        ("application/json; charset=latin-1", 201, False),
        ("application/merge-patch+json", 201, False),
        ("text/plain", 415, False),
        ("application/x-www-form-urlencoded", 415, False),
        ("", 415, False),
    ],
)
async def test_a_body_is_what_its_content_type_says(content_type: str, status: int, short: bool) -> None:
    answer, is_short = await answer_of_all("POST", "/items", body=ITEM, headers={"content-type": content_type})

    assert (answer.status, is_short) == (status, short)


async def test_a_validator_that_raises_something_else_is_answered_alike() -> None:
    answer, _ = await answer_of_all("POST", "/items", body=b'{"name": "forbidden", "price": 1}')

    assert answer.status == 418


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/"), max_size=20)
values = st.one_of(
    st.sampled_from(["", "1", "-1", " 1", "1.0", "1e2", "true", "on", "NaN", "red", "RED", "a", "abc", "+1", "1_0"]),
    st.integers().map(str), st.floats().map(str), st.uuids().map(str), st.dates().map(str), st.datetimes().map(str),
    st.decimals().map(str), texts,
)  # fmt: skip


@given(kind=st.sampled_from([*PATHS, "converted", "rest"]), value=values)
@settings(max_examples=400, deadline=None)
async def test_whatever_stands_in_a_path(kind: str, value: str) -> None:
    await answer_of_all("GET", f"/path/{kind}/{value}")


names = st.sampled_from(
    ["q", "limit", "colour", "sort", "from", "since", "is-exact", "exact", "made", "checked", "nested", "Q", ""]
)
queries = st.lists(st.tuples(names, values), max_size=6).map(urlencode) | st.text(
    st.sampled_from("q=&;+%10-limit#"), max_size=20
)


@given(query=queries | queries.map(lambda rest: f"{rest}&q=x"))
@settings(max_examples=400, deadline=None)
async def test_whatever_is_asked(query: str) -> None:
    await answer_of_all("GET", "/query", query=query)


@given(version=values, agent=values, mixed=values)
@settings(max_examples=100, deadline=None)
async def test_whatever_stands_in_headers(version: str, agent: str, mixed: str) -> None:
    given = {"x-version": version, "user-agent": agent, "x_mixed_case": mixed}

    await answer_of_all("GET", "/headers", headers={name: quote(value, safe=" +") for name, value in given.items()})


scalars = st.none() | st.booleans() | st.integers() | st.floats() | values
trees = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=8
)
tags = st.fixed_dictionaries({"label": st.text(max_size=6) | scalars}, optional={"weight": scalars})
items = st.fixed_dictionaries(
    {"name": texts | scalars, "price": st.floats(0, 9) | scalars},
    optional={"colour": scalars, "seen": scalars, "tags": st.lists(tags, max_size=2) | scalars, "more": scalars},
)
exacts = st.fixed_dictionaries(
    {"count": st.integers() | scalars, "share": st.floats() | scalars},
    optional={"on": scalars, "sort": st.sampled_from(["up", "down"]) | scalars},
)
documents = st.one_of(trees, items, exacts, st.lists(items | exacts, max_size=2)).map(json.dumps).map(str.encode)
bodies = documents | st.tuples(documents, st.integers(0, 40)).map(lambda cut: cut[0][: cut[1]]) | st.binary(max_size=20)


@given(
    route=st.sampled_from(
        ["POST /items", "PUT /items/1", "PATCH /exact", "POST /numbers", "POST /list", "POST /anything",
         "POST /optional", "POST /scalar", "POST /read-again", "POST /streamed"]
    ),
    body=bodies,
)  # fmt: skip
@settings(max_examples=600, deadline=None)
async def test_whatever_is_sent(route: str, body: bytes) -> None:
    method, path = route.split()

    await answer_of_all(method, path, body=body)


async def test_what_is_wrong_with_a_result_is_said_as_by_fastapi() -> None:
    said = []
    routes = Routes(bare_fastapi())

    async def behind_the_edge(scope: Scope, receive: Receive, send: Send) -> None:
        await routes({**scope, HEADERS: dict(scope["headers"])}, receive, send)

    for app in (behind_the_edge, BARE):
        with pytest.raises(ResponseValidationError) as raised:
            await ask(app, "GET", "/broken")
        said.append((str(raised.value), raised.value.body, raised.value.__context__))

    assert said[0] == said[1]
    assert "GET /broken" in said[0][0]


@pytest.mark.parametrize(
    ("path", "happened"),
    [
        ("/works", ["begin", "works", "commit", "http.response.start", "http.response.body"]),
        ("/raises", ["begin", "raises", "rollback", "http.response.start", "http.response.body"]),
        ("/breaks", ["begin", "breaks", "rollback", "http.response.start", "http.response.body"]),
    ],
)
async def test_a_transaction_ends_before_the_answer_begins(make: Make, path: str, happened: list[str]) -> None:
    fake = FakeTransactions()
    app = Watched(make(transactional(), transactions=fake))

    await fake.answered(app, path)

    assert not app.is_fastapis
    assert fake.happened == happened


async def test_a_transaction_that_is_overridden_is_left_to_fastapi(make: Make) -> None:
    fake, other = FakeTransactions(), FakeTransactions()
    app = make(transactional(), transactions=fake)
    app.api.dependency_overrides[begin] = lambda: other

    assert await fake.answered(app, "/raises") == 409
    assert "begin" not in fake.happened
    assert other.happened == ["raises"]


def test_every_plain_route_is_known_as_one() -> None:
    for router in plain:
        assert [found.path for found in iter_route_contexts(router.routes) if not is_plain(found)] == []


@pytest.mark.parametrize("name", others())
async def test_a_route_that_is_not_plain_is_left_to_fastapi(name: str) -> None:
    router = others()[name]

    short = Watched(made(router, direct=True))
    answers = [
        await ask(app, method, "/", query="value=1&label=a", headers={"x-correlation-id": "same"})
        for method in ("GET", "POST")
        for app in (short, made(router, direct=False))
    ]

    assert not any(map(is_plain, iter_route_contexts(router.routes)))
    assert answers[0].messages == answers[1].messages
    assert answers[2].messages == answers[3].messages


async def test_an_idempotent_route_is_plain_until_a_key_is_sent() -> None:
    app = Watched(made(idempotent, direct=True))

    assert (await ask(app, "POST", "/idempotent/items", body=ITEM)).status == 201
    assert not app.is_fastapis
    assert (await ask(app, "POST", "/idempotent/items", body=ITEM, headers={"Idempotency-Key": "a"})).status == 201
    assert app.is_fastapis
