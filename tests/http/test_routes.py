"""The flat table of routes finds what FastAPI itself would find."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, Request
from starlette.applications import Starlette
from starlette.requests import Request as StarletteRequest
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from covey.http.application import Application
from covey.http.routes import _NO_FILES
from covey.testing.asgi import Answer, ask

Make = Callable[..., Application]

PATHS = [
    "/", "", "/a", "/a/", "/a/1", "/a/1/b", "/a/1/b/2", "/a/1/b/x", "/a/1/files/x/y/z", "/a/1/files/",
    "/c", "/c/d/e", "/static/x", "/static/x/y", "/starlette/7", "/starlette", "/late/1", "/a/%20", "/A/1", "/a//1",
    "/nowhere", "/secured",
]  # fmt: skip
METHODS = ["GET", "POST", "PUT", "DELETE", "OPTIONS"]


def say(name: str) -> Callable[..., Any]:
    async def endpoint(request: Request) -> dict[str, Any]:
        return {"route": name, "parameters": dict(request.path_params), "path": request.url.path}

    endpoint.__name__ = name
    return endpoint


async def known(request: Request) -> str:
    return request.headers.get("x-who", "nobody")


def routers() -> list[APIRouter]:
    inner = APIRouter(prefix="/{a_id}/b")
    inner.add_api_route("", say("b_list"), methods=["GET"])
    inner.add_api_route("/{b_id}", say("b_one"), methods=["GET", "PUT"])
    a = APIRouter(prefix="/a")
    a.add_api_route("/me", say("a_me"), methods=["GET"])
    a.add_api_route("/{a_id}", say("a_one"), methods=["GET"])
    a.add_api_route("/{a_id}", say("a_delete"), methods=["DELETE"])
    a.add_api_route("", say("a_create"), methods=["POST"])
    a.add_api_route("/{a_id}/files/{path:path}", say("a_file"), methods=["GET"])
    a.include_router(inner)

    async def raw(request: StarletteRequest) -> JSONResponse:
        return JSONResponse({"route": "starlette", "parameters": request.path_params})

    async def secured(who: Annotated[str, Depends(known)]) -> str:
        return who

    c = APIRouter()
    c.add_api_route("/c", say("c"), methods=["GET"])
    c.routes.append(Route("/starlette/{number:int}", raw))
    c.routes.append(Mount("/static", app=Starlette(routes=[Route("/{name}", raw)])))
    c.add_api_route("/static/x", say("hidden behind the mount"), methods=["POST"])
    c.add_api_route("/secured", secured, methods=["GET"])
    late = APIRouter(prefix="/late", dependencies=[Depends(known)])
    late.add_api_route("/{number}", say("late"), methods=["GET"])
    return [a, c, late]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("path", PATHS)
async def test_every_path_and_method_is_answered_as_by_fastapi(make: Make, path: str, method: str) -> None:
    plain = FastAPI(redirect_slashes=False)
    for router in routers():
        plain.include_router(router)

    ours = await ask(make(*routers()), method, path)
    theirs = await ask(plain, method, path)

    assert ours.status == theirs.status
    if ours.status == 200:
        assert ours.json() == theirs.json()
        assert without_ours(ours) == without_ours(theirs)


def without_ours(answer: Answer) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name != "x-correlation-id"}


async def test_an_address_that_is_written_out_is_no_value_of_a_template(make: Make) -> None:
    """FastAPI would have `DELETE /a/{a_id}` delete `me`; OpenAPI says that `/a/me` is another address."""
    read, deleted = await ask(make(*routers()), "GET", "/a/me"), await ask(make(*routers()), "DELETE", "/a/me")

    assert read.json()["route"] == "a_me"
    assert (deleted.status, deleted.headers["allow"]) == (405, "GET, HEAD")


async def test_head_is_answered_where_get_is(make: Make) -> None:
    assert (await ask(make(*routers()), "HEAD", "/a/1")).status == 200
    assert (await ask(make(*routers()), "HEAD", "/a")).status == 405


async def test_routes_may_be_added_until_the_first_request(make: Make) -> None:
    api = APIRouter()
    app = make(api)
    api.add_api_route("/late", say("late"), methods=["GET"])

    assert (await ask(app, "GET", "/late")).json()["route"] == "late"


async def test_a_number_in_a_path_that_nobody_can_read_is_not_found(make: Make) -> None:
    api = APIRouter()
    api.add_api_route("/things/{number:int}", say("thing"))

    answer = await ask(make(api), "GET", "/things/" + "9" * 5_000)

    assert answer.status == 404


async def test_urls_of_routes_can_be_made(make: Make) -> None:
    api = APIRouter()

    @api.get("/link")
    async def link(request: Request) -> str:
        return str(request.url_for("a_one", a_id="7"))

    assert (await ask(make(*routers(), api), "GET", "/link")).json() == "http://127.0.0.1/a/7"


async def test_the_applications_state_is_at_hand(make: Make) -> None:
    api = APIRouter()

    @api.get("/state")
    async def state(request: Request) -> str:
        return str(request.app.state.greeting)

    assert (await ask(make(api, state={"greeting": "hello"}), "GET", "/state")).json() == "hello"


async def test_a_dependency_can_be_overridden_for_a_test(make: Make) -> None:
    app = make(*routers())
    app.api.dependency_overrides[known] = lambda: "ann"

    assert (await ask(app, "GET", "/secured")).json() == "ann"


async def test_nothing_is_left_on_the_stack_that_all_requests_share(make: Make) -> None:
    api = APIRouter()

    @api.post("/count")
    async def count(words: dict[str, int], who: Annotated[str, Depends(known)]) -> int:
        return len(words)

    app = make(*routers(), api)
    for path in PATHS:
        await ask(app, "GET", path)
    json = {"content-type": "application/json"}
    assert (await ask(app, "POST", "/count", body=b'{"a": 1}', headers=json)).json() == 1
    assert (await ask(app, "POST", "/count", body=b'{"a": "b"}', headers=json)).status == 422

    assert not _NO_FILES._exit_callbacks  # type: ignore[attr-defined]  # there is no public way to look
