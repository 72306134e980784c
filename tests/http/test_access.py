"""Who may use a route: nobody unknown, unless the route says so, on either way that a request may take."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from fastapi import APIRouter, WebSocket
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from covey import context
from covey.errors import DefinitionError, Unavailable
from covey.http.access import Caller
from covey.http.application import Application
from covey.http.edge import HttpOptions
from covey.http.transaction import Transaction
from covey.security.access import public, require_owner, requires
from covey.security.principal import DevelopmentTokens, Principal
from covey.testing.asgi import Answer, ask, scope_of
from covey.testing.tokens import KEY, bearer
from tests.http.transactions import FakeTransactions

Make = Callable[..., Application]


@pytest.fixture(params=[True, False], ids=["the short way", "through FastAPI"])
def make(request: pytest.FixtureRequest, make: Make) -> Make:
    """The function of all tests here, for either way that a request may take."""
    return partial(make, options=HttpOptions(direct=request.param), verifier=DevelopmentTokens(KEY))


def shop() -> APIRouter:
    api = APIRouter()

    @api.get("/open")
    @public
    async def open_to_all() -> str | None:
        return context.current().principal

    @api.get("/known")
    async def known() -> str | None:
        return context.current().principal

    @api.post("/staff")
    @requires("staff")
    async def staff(body: dict[str, int]) -> str:
        return "done"

    @api.get("/users/{user_id}")
    async def own(user_id: str, caller: Caller) -> str:
        require_owner(caller, f"user:{user_id}", or_role="staff")
        return user_id

    @api.post("/work")
    async def work(caller: Caller, work: Transaction) -> str:
        return caller.subject

    @api.get("/who")
    @public
    async def who(caller: Caller) -> str:
        return caller.subject

    return api


async def get(app: Application, path: str, headers: dict[str, str] | None = None) -> Answer:
    return await ask(app, "GET", path, headers=headers)


async def test_a_route_that_says_nothing_asks_who_it_is(make: Make) -> None:
    app = make(shop())

    refused, answered = await get(app, "/known"), await get(app, "/known", bearer("user:7"))

    assert (refused.status, refused.headers["www-authenticate"]) == (401, "Bearer")
    assert refused.json()["type"] == "/problems/unauthenticated"
    assert (answered.status, answered.json()) == (200, "user:7")


async def test_a_public_route_needs_no_token_and_knows_whose_it_is_given(make: Make) -> None:
    app = make(shop())

    assert [(await get(app, "/open")).json(), (await get(app, "/open", bearer("user:7"))).json()] == [None, "user:7"]


@pytest.mark.parametrize(
    "value", ["Bearer", "Bearer ", "Bearer x", "Basic dXNlcjpwYXNz", "covey-dev.AAAA", "", "Bearer covey-dev.\xe9"]
)
@pytest.mark.parametrize("path", ["/known", "/open"])
async def test_a_wrong_token_is_refused_also_where_none_is_needed(make: Make, path: str, value: str) -> None:
    answer = await get(make(shop()), path, {"Authorization": value})

    assert (answer.status, answer.headers["www-authenticate"]) == (401, 'Bearer error="invalid_token"')


async def test_the_word_bearer_may_be_written_in_any_letters(make: Make) -> None:
    (value,) = bearer("user:7").values()

    assert (await get(make(shop()), "/known", {"Authorization": value.replace("Bearer", "bEARER ")})).status == 200


async def test_a_role_that_is_asked_for_must_be_there_before_the_body_is_looked_at(make: Make) -> None:
    app = make(shop())

    async def post(headers: dict[str, str], body: bytes) -> tuple[int, str]:
        answer = await ask(app, "POST", "/staff", headers=headers, body=body)
        return answer.status, answer.json() if answer.status == 200 else answer.json()["type"]

    assert await post({}, b"nonsense") == (401, "/problems/unauthenticated")
    assert await post(bearer("user:7"), b"nonsense") == (403, "/problems/forbidden")
    assert await post(bearer("user:7", "staff"), b"nonsense") == (400, "/problems/unreadable")
    assert await post(bearer("user:7", "staff"), b"{}") == (200, "done")


async def test_the_object_has_a_say(make: Make) -> None:
    app = make(shop())

    asked = [await get(app, "/users/7", headers) for headers in (bearer("user:7"), bearer("user:8"))]

    assert [answer.status for answer in asked] == [200, 403]
    assert (await get(app, "/users/7", bearer("service:order"))).status == 403
    assert (await get(app, "/users/7", bearer("user:8", "staff"))).status == 200


async def test_a_route_may_have_its_caller_and_a_transaction(make: Make) -> None:
    transactions = FakeTransactions()
    app = make(shop(), transactions=transactions)

    answer = await ask(app, "POST", "/work", headers=bearer("user:7"))

    assert (answer.json(), transactions.happened) == ("user:7", ["begin", "commit"])
    assert (await ask(app, "POST", "/work")).status == 401
    assert transactions.happened == ["begin", "commit"]


async def test_a_public_route_that_asks_who_it_is_needs_to_know(make: Make) -> None:
    app = make(shop())

    assert [(await get(app, "/who")).status, (await get(app, "/who", bearer("user:7"))).status] == [401, 200]


@pytest.mark.parametrize(
    ("path", "status"), [("/health", 200), ("/ready", 200), ("/metrics", 200), ("/openapi.json", 200)]
)
async def test_what_the_platform_asks_needs_no_token(make: Make, path: str, status: int) -> None:
    assert (await get(make(shop()), path)).status == status


async def test_what_is_not_there_is_not_there_for_anybody(make: Make) -> None:
    app = make(shop())

    assert (await get(app, "/nowhere")).status == 404
    assert (await ask(app, "PUT", "/known")).status == 405


async def test_a_mount_and_a_route_of_starlette_are_closed(make: Make) -> None:
    async def plain(request: Any) -> PlainTextResponse:
        return PlainTextResponse("inside")

    api = APIRouter(routes=[Route("/plain", plain), Mount("/under", Starlette(routes=[Route("/it", plain)]))])
    app = make(api)

    for path in ("/plain", "/under/it"):
        assert ((await get(app, path)).status, (await get(app, path, bearer("user:7"))).status) == (401, 200)


async def test_a_route_that_comes_late_is_nobodys_who_is_unknown(make: Make) -> None:
    app = make(shop())
    assert (await get(app, "/open")).status == 200

    @app.api.get("/late")
    async def late() -> str:
        return "inside"

    assert [(await get(app, "/late")).status, (await get(app, "/late", bearer("user:7"))).status] == [404, 200]


async def test_a_websocket_is_closed_to_who_is_not_known(make: Make) -> None:
    api = APIRouter()

    @api.websocket("/live")
    async def live(socket: WebSocket) -> None:
        await socket.accept()
        await socket.close()

    async def talk(headers: dict[str, str], path: str = "/live") -> list[tuple[str, int | None]]:
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "websocket.connect"}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {**scope_of("GET", path, headers), "type": "websocket", "subprotocols": []}
        await make(api)(scope, receive, send)
        return [(message["type"], message.get("code")) for message in sent]

    assert await talk({}) == [("websocket.close", 1008)]
    assert await talk({}, "/nowhere") == [("websocket.close", 1008)]
    assert (await talk(bearer("user:7")))[0] == ("websocket.accept", None)


async def test_when_nobody_can_tell_now_whose_a_token_is_the_answer_is_503(make: Make) -> None:
    class Away:
        async def verify(self, token: str) -> Principal:
            raise Unavailable("the keys cannot be had")

    answer = await get(make(shop(), verifier=Away()), "/known", bearer("user:7"))

    assert (answer.status, answer.headers["retry-after"]) == (503, "1")


async def test_without_a_verifier_every_route_is_open_and_nobody_is_known(make: Make) -> None:
    app = make(shop(), verifier=None)

    assert (await get(app, "/known")).status == 200
    assert (await get(app, "/who", bearer("user:7"))).status == 401


async def test_the_api_says_which_operations_need_a_token(make: Make) -> None:
    document = make(shop()).api.openapi()

    assert document["components"]["securitySchemes"]["bearer"] == {"type": "http", "scheme": "bearer"}
    assert document["security"] == [{"bearer": []}]
    assert document["paths"]["/open"]["get"]["security"] == [{"bearer": []}, {}]
    assert "security" not in document["paths"]["/known"]["get"]


def test_a_route_is_not_public_and_for_a_role() -> None:
    with pytest.raises(DefinitionError):

        @public
        @requires("staff")
        async def both() -> None: ...
