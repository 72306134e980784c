"""Every error is problem details (RFC 9457)."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from http import HTTPStatus
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Body, Depends, Header, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import StreamingResponse
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, Json, field_validator

from covey import errors
from covey.http.application import Application
from covey.http.body import TooSlow
from covey.http.problems import problem_of
from covey.testing.asgi import Answer, ask, scope_of
from covey.work.idempotency import InProgress, KeyReused

Make = Callable[..., Application]
Log = Callable[[], list[dict[str, Any]]]


class Line(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    product_id: str
    quantity: int = Field(ge=1)

    @field_validator("product_id")
    @classmethod
    def known(cls, value: str) -> str:
        if value == "forbidden":
            raise ValueError("not sold any more")
        return value


class Order(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    lines: list[Line]
    note: str = ""


def raising(error: Exception) -> APIRouter:
    api = APIRouter()

    @api.get("/raise")
    async def fail() -> None:
        raise error

    return api


def orders() -> APIRouter:
    api = APIRouter()

    @api.post("/orders", status_code=201)
    async def place(order: Order) -> Order:
        return order

    @api.get("/orders")
    async def search(limit: int = Query(le=100), x_version: int = Header()) -> int:
        return limit

    return api


def is_problem(answer: Answer, status: int, slug: str) -> dict[str, Any]:
    assert answer.status == status, answer.body
    assert answer.headers["content-type"] == "application/problem+json"
    assert int(answer.headers["content-length"]) == len(answer.body)
    problem: dict[str, Any] = answer.json()
    assert problem["type"] == f"/problems/{slug}"
    assert problem["status"] == status
    assert problem["title"]
    assert problem["correlation_id"] == answer.headers["x-correlation-id"]
    return problem


@pytest.mark.parametrize(
    ("error", "status", "slug"),
    [
        (errors.Rejected("why"), 400, "rejected"),
        (errors.Unreadable("why"), 400, "unreadable"),
        (errors.Unauthenticated("why"), 401, "unauthenticated"),
        (errors.Forbidden("why"), 403, "forbidden"),
        (errors.NotFound("why"), 404, "not-found"),
        (errors.Conflict("why"), 409, "conflict"),
        (errors.ConstraintViolated("why", "orders_pkey"), 409, "conflict"),
        (InProgress("why"), 409, "idempotency-key-in-use"),
        (errors.TooLarge("why"), 413, "too-large"),
        (errors.Invalid("why"), 422, "invalid"),
        (KeyReused("why"), 422, "idempotency-key-reused"),
        (errors.Unavailable("inside"), 503, "unavailable"),
        (errors.DatabaseUnavailable("inside"), 503, "unavailable"),
        (errors.PoolExhausted("inside"), 503, "unavailable"),
        (errors.DependencyUnavailable("inside"), 502, "dependency-unavailable"),
        (errors.DeadlineExceeded("inside"), 504, "deadline-exceeded"),
        (errors.Defect("inside"), 500, "internal"),
        (errors.ConfigurationError("inside"), 500, "internal"),
        (RuntimeError("inside"), 500, "internal"),
        (HTTPException(400, "why"), 400, "rejected"),
        (HTTPException(404), 404, "not-found"),
        (HTTPException(422, "why"), 422, "invalid"),
        (HTTPException(500), 500, "internal"),
        (HTTPException(418, "why"), 418, "im-a-teapot"),
        (HTTPException(410), 410, "gone"),
        (HTTPException(599), 599, "error"),
        (HTTPException(429, "why"), 429, "too-many-requests"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
async def test_each_error_has_its_status_and_a_stable_type(
    make: Make, error: Exception, status: int, slug: str
) -> None:
    answer = await ask(make(raising(error)), "GET", "/raise")

    problem = is_problem(answer, status, slug)
    assert problem["instance"] == "/raise"
    assert problem.get("detail") in (None, "why"), "of what is our own business the caller is told nothing"
    assert (problem.get("detail") == "why") == ("why" in str(error))


def test_a_type_has_one_status_and_one_title_however_it_came_about() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.CoveyError)]
    raised = [made(kind) for kind in (*kinds, InProgress, KeyReused, TooSlow)]
    raised += [HTTPException(status) for status in HTTPStatus if status >= 400]
    found: dict[str, set[tuple[int, str]]] = {}
    for error in raised:
        problem = problem_of(error)
        found.setdefault(problem.slug, set()).add((problem.status, problem.title))

    assert len(found) > 30
    assert {slug: meanings for slug, meanings in found.items() if len(meanings) > 1} == {}


def made(kind: type[Exception]) -> Exception:
    return kind("x", None) if kind is errors.ConstraintViolated else kind("x")


def test_every_error_of_the_tree_means_something_in_http() -> None:
    tree = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.CoveyError)]
    assert len(tree) > 20
    for kind in tree:
        status = problem_of(made(kind)).status
        assert (400 <= status < 500) == issubclass(kind, errors.Rejected), kind


@pytest.mark.parametrize("query", ["filter=", "filter={", "filter=[]&limit=x"])
async def test_a_parameter_that_should_be_json_is_not_taken_for_the_body(make: Make, query: str) -> None:
    api = APIRouter()

    @api.get("/")
    async def search(filter: Json[int], limit: int = 1) -> int:
        return filter

    problem = is_problem(await ask(make(api), "GET", "/", query=query), 422, "invalid")

    assert {found["in"] for found in problem["errors"]} == {"query"}


async def test_who_is_not_known_is_told_how_to_be(make: Make) -> None:
    answer = await ask(make(raising(errors.Unauthenticated("who"))), "GET", "/raise")

    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (errors.Unavailable("x"), "1"),
        (errors.Unavailable("x", retry_after=timedelta(seconds=7.2)), "8"),
        (HTTPException(429), "1"),
        (HTTPException(429, headers={"Retry-After": "30"}), "30"),
        (HTTPException(503), "1"),
        (InProgress("x"), "1"),
    ],
)
async def test_who_may_try_again_is_told_when(make: Make, error: Exception, seconds: str) -> None:
    answer = await ask(make(raising(error)), "GET", "/raise")

    assert answer.headers["retry-after"] == seconds


async def test_what_we_did_not_foresee_tells_nothing_of_our_inside_and_is_logged_once(make: Make, log: Log) -> None:
    secret = "postgresql://order:hunter2@10.0.0.7/order"

    answer = await ask(make(raising(RuntimeError(secret))), "GET", "/raise", headers={"X-Correlation-ID": "find-me"})

    assert b"hunter2" not in answer.body and b"10.0.0.7" not in answer.body and b"RuntimeError" not in answer.body
    failures = [line for line in log() if "exception" in line]
    assert [line["correlation_id"] for line in failures] == ["find-me"]
    assert failures[0]["exception"]["type"] == "RuntimeError"
    assert failures[0]["exception"]["frames"][-1].endswith("in raising.<locals>.fail")
    assert "hunter2" not in repr(log())


async def test_what_the_caller_did_wrong_is_no_failure_of_ours(make: Make, log: Log) -> None:
    await ask(make(raising(errors.Conflict("x"))), "GET", "/raise")

    assert [(line["event"], line["level"]) for line in log()] == [("request", "info")]


async def test_a_body_that_is_no_json_is_400(make: Make) -> None:
    for body in (b"{", b"{'a': 1}", b"\xff\xfe", b'{"lines": [}', b"nonsense"):
        answer = await ask(make(orders()), "POST", "/orders", body=body)
        assert answer.status == 400, body
        assert answer.headers["content-type"] == "application/problem+json"


async def test_a_number_of_more_digits_than_python_reads_is_named_as_what_is_wrong(make: Make) -> None:
    body = b'{"lines": [{"product_id": "a", "quantity": %s}]}'

    unread = is_problem(await ask(make(orders()), "POST", "/orders", body=body % (b"9" * 5_000)), 400, "unreadable")
    invalid = await ask(make(orders()), "POST", "/orders", body=b'{"lines": [{"product_id": "a", "quantity": 0.5}]}')
    parameter = await ask(make(orders()), "GET", "/orders", query="limit=" + "9" * 5_000, headers={"X-Version": "1"})

    assert unread["detail"] == "numbers in JSON may have 4300 digits"
    assert is_problem(invalid, 422, "invalid")["errors"][0]["pointer"] == "#/lines/0/quantity"
    assert [found["pointer"] for found in is_problem(parameter, 422, "invalid")["errors"]] == ["#/limit"]


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json", 201),
        ("application/json; charset=utf-8", 201),
        ("application/vnd.shop+json", 201),
        ("Application/JSON", 201),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("application/jsonp", 415),
        ("nonsense", 415),
        ("", 415),
    ],
)
async def test_a_body_that_is_not_sent_as_json_is_415(make: Make, content_type: str, status: int) -> None:
    body = b'{"lines": [{"product_id": "a", "quantity": 1}]}'

    answer = await ask(make(orders()), "POST", "/orders", headers={"Content-Type": content_type}, body=body)

    assert answer.status == status
    if status == 415:
        assert "Content-Type: application/json" in is_problem(answer, 415, "unsupported-media-type")["detail"]
        assert answer.headers["accept"] == "application/json"


async def test_a_body_without_a_content_type_is_415_as_browsers_send_one_across_origins(make: Make) -> None:
    sent: list[Any] = []
    incoming = [{"type": "http.request", "body": b'{"lines": []}', "more_body": False}]

    async def receive() -> Any:
        return incoming.pop()

    async def send(message: Any) -> None:
        sent.append(message)

    await make(orders())(scope_of("POST", "/orders", {"content-length": "13"}), receive, send)

    assert sent[0]["status"] == 415


async def test_a_route_that_takes_no_json_takes_any_content_type(make: Make) -> None:
    api = APIRouter()

    @api.post("/raw")
    async def raw(request: Request) -> int:
        return len(await request.body())

    @api.post("/bytes")
    async def take(body: Annotated[bytes, Body(media_type="application/octet-stream")]) -> int:
        return len(body)

    @api.post("/nothing")
    async def nothing() -> int:
        return 0

    app = make(api)
    for path, length in (("/raw", 3), ("/bytes", 3), ("/nothing", 0)):
        answer = await ask(app, "POST", path, headers={"Content-Type": "image/png"}, body=b"abc")
        assert (answer.status, answer.json()) == (200, length), path


async def test_what_is_wrong_with_a_parameter_is_told_whatever_the_content_type(make: Make) -> None:
    api = APIRouter()

    @api.post("/bytes")
    async def take(limit: int, body: Annotated[bytes, Body(media_type="image/png")]) -> None: ...

    answer = await ask(make(api), "POST", "/bytes", query="limit=x", headers={"Content-Type": "image/png"}, body=b"a")

    assert [found["in"] for found in is_problem(answer, 422, "invalid")["errors"]] == ["query"]


async def test_every_broken_rule_is_listed_with_its_place(make: Make) -> None:
    body = b'{"lines": [{"product_id": "a", "quantity": 0}, {"product_id": 5, "quantity": 1.5, "x/y~z": 1}]}'

    problem = is_problem(await ask(make(orders()), "POST", "/orders", body=body), 422, "invalid")

    assert {(found["in"], found["pointer"], found["rule"]) for found in problem["errors"]} == {
        ("body", "#/lines/0/quantity", "greater_than_equal"),
        ("body", "#/lines/1/product_id", "string_type"),
        ("body", "#/lines/1/quantity", "int_type"),
        ("body", "#/lines/1/x~1y~0z", "extra_forbidden"),
    }
    assert all(found["what"] for found in problem["errors"])


def test_what_only_follows_from_a_mistake_further_in_is_not_told() -> None:
    wrong = {"type": "greater_than_equal", "loc": ("body", "lines", 0, "quantity"), "msg": "at least 1"}
    follows = {"type": "too_short", "loc": ("body", "lines"), "msg": "Tuple should have at least 1 item, not 0"}

    problem = problem_of(RequestValidationError([wrong, follows]))

    assert [found["pointer"] for found in problem.errors] == ["#/lines/0/quantity"]


@pytest.mark.parametrize(
    ("python", "json"),
    [
        ("Tuple should have at least 1 item after validation, not 0", "Array should have at least 1 item, not 0"),
        ("Input should be a valid list", "Input should be an array"),
        ("Input should be a valid dictionary or object to extract fields from", "Input should be an object"),
        ("Input should be a valid dictionary or instance of Line", "Input should be an object"),
        ("A List should be a valid list of lists", "A List should be a valid list of lists"),
    ],
)
def test_what_a_rule_asks_for_is_said_in_the_words_of_json(python: str, json: str) -> None:
    problem = problem_of(RequestValidationError([{"type": "of_pydantic", "loc": ("body", "lines"), "msg": python}]))

    assert [found["what"] for found in problem.errors] == [json]


async def test_parameters_and_headers_are_judged_alike(make: Make) -> None:
    answer = await ask(make(orders()), "GET", "/orders", query="limit=1000")

    assert {(found["in"], found["pointer"]) for found in is_problem(answer, 422, "invalid")["errors"]} == {
        ("query", "#/limit"),
        ("header", "#/x-version"),
    }


async def test_a_rule_of_the_models_own_says_what_its_author_wrote(make: Make) -> None:
    answer = await ask(make(orders()), "POST", "/orders", body=b'{"lines":[{"product_id":"forbidden","quantity":1}]}')

    assert is_problem(answer, 422, "invalid")["errors"][0]["what"] == "not sold any more"


async def test_a_body_of_a_thousand_mistakes_is_answered_shortly(make: Make) -> None:
    body = b'{"lines":[' + b",".join([b'{"product_id":1,"quantity":0}'] * 1000) + b"]}"

    answer = await ask(make(orders()), "POST", "/orders", body=body)

    assert len(is_problem(answer, 422, "invalid")["errors"]) == 25
    assert len(answer.body) < 10_000


class Wide(BaseModel):
    """Something whose every field may be missing."""

    a: int
    b: int
    c: int
    d: int
    e: int


async def wide(item: list[Wide]) -> None:
    """Be depended upon, with a body of its own."""


@pytest.mark.parametrize("path", ["/one", "/two", "/inner"])
async def test_a_body_of_countless_mistakes_is_refused_by_their_number(make: Make, path: str) -> None:
    """Describing each of them would hold up everybody else: no description of one is ever made."""
    api = APIRouter()

    @api.post("/one")
    async def one(items: list[Wide]) -> None: ...

    @api.post("/two")
    async def two(items: list[Wide], others: list[Wide]) -> None: ...

    @api.post("/inner", dependencies=[Depends(wide)])
    async def inner() -> None: ...

    app = make(api)
    few, many = ([{}] * count for count in (1_000, 1_001))

    told = await ask(app, "POST", path, body=body_of(path, few))
    refused = await ask(app, "POST", path, body=body_of(path, many))

    assert is_problem(told, 422, "invalid")["detail"].startswith("5000 rules are broken; the first 25")
    problem = is_problem(refused, 422, "invalid")
    assert problem["detail"].startswith("5005 rules are broken, more than are told of")
    assert "errors" not in problem


def body_of(path: str, items: list[Any]) -> bytes:
    return json.dumps({"items": items, "others": []} if path == "/two" else items).encode()


async def test_what_was_sent_is_not_sent_back_and_not_logged(make: Make, log: Log) -> None:
    body = b'{"lines":"hunter2", "password": "hunter2"}'

    answer = await ask(make(orders()), "POST", "/orders", body=body)

    assert answer.status == 422
    assert b"hunter2" not in answer.body
    assert "hunter2" not in repr(log())


async def test_an_answer_that_breaks_its_own_model_is_our_defect(make: Make, log: Log) -> None:
    api = APIRouter()

    @api.get("/wrong")
    async def wrong() -> Order:
        return {"lines": "hunter2"}  # type: ignore[return-value]  # that is the defect

    answer = await ask(make(api), "GET", "/wrong")

    is_problem(answer, 500, "internal")
    assert "hunter2" not in repr(log())


@pytest.fixture
def shop(make: Make) -> Application:
    return make(orders())


anything = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(alphabet=st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.just("lines"), inner, max_size=3),
    max_leaves=10,
)


@given(body=anything.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=60))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_whatever_is_sent_gets_an_answer_that_can_be_read(shop: Application, body: bytes) -> None:
    answer = await ask(shop, "POST", "/orders", body=body)

    assert answer.status in (201, 400, 422)
    assert answer.status == 201 or is_problem(
        answer, answer.status, "unreadable" if answer.status == 400 else "invalid"
    )


@given(path=st.text(st.characters(codec=None), max_size=30).map(lambda text: "/nowhere/" + text))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_whatever_is_asked_for_gets_an_answer_that_can_be_read(shop: Application, path: str) -> None:
    scope = {**scope_of("GET", "/", {}), "path": path}
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError("there is no body")

    await shop(scope, receive, send)

    assert json.loads(sent[1]["body"])["status"] == sent[0]["status"]


async def test_an_unknown_path_is_404(make: Make) -> None:
    is_problem(await ask(make(orders()), "GET", "/nowhere"), 404, "not-found")


async def test_a_wrong_method_is_405_with_all_that_the_path_knows(make: Make) -> None:
    answer = await ask(make(orders()), "DELETE", "/orders")

    is_problem(answer, 405, "method-not-allowed")
    assert answer.headers["allow"] == "GET, HEAD, POST"


async def test_an_error_after_the_answer_has_begun_leaves_it_incomplete_and_is_logged_once(
    make: Make, log: Log
) -> None:
    api = APIRouter()

    async def parts() -> Any:
        yield b"half an ans"
        raise RuntimeError("torn")

    @api.get("/stream")
    async def stream() -> StreamingResponse:
        return StreamingResponse(parts())

    answer = await ask(make(api), "GET", "/stream")

    assert [message["type"] for message in answer.messages] == ["http.response.start", "http.response.body"]
    assert answer.messages[-1]["more_body"], "the end is missing, and the client will see that"
    assert [line["event"] for line in log()] == ["request failed", "request"]


@pytest.mark.parametrize("status", [204, 304, 307])
async def test_a_status_that_is_no_error_is_answered_without_a_body(make: Make, status: int) -> None:
    error = HTTPException(status, headers={"Location": "/elsewhere"})

    answer = await ask(make(raising(error)), "GET", "/raise")

    assert (answer.status, answer.body, answer.headers["location"]) == (status, b"", "/elsewhere")
    assert "content-type" not in answer.headers


async def test_the_only_error_of_a_group_is_what_counts(make: Make) -> None:
    error = ExceptionGroup("tasks", [ExceptionGroup("inner", [errors.Conflict("why")])])

    is_problem(await ask(make(raising(error)), "GET", "/raise"), 409, "conflict")

    both = ExceptionGroup("tasks", [errors.Conflict("why"), errors.NotFound("why")])
    is_problem(await ask(make(raising(both)), "GET", "/raise"), 500, "internal")


async def test_problem_details_are_in_the_openapi_document(make: Make) -> None:
    document = (await ask(make(orders()), "GET", "/openapi.json")).json()

    responses = document["paths"]["/orders"]["post"]["responses"]
    assert set(responses) == {"201", "4XX", "5XX"}, "and not FastAPI's own 422"
    for status in ("4XX", "5XX"):
        assert responses[status]["content"] == {
            "application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}
        }
    assert "type" in document["components"]["schemas"]["Problem"]["properties"]
    assert not {"HTTPValidationError", "ValidationError"} & set(document["components"]["schemas"])
