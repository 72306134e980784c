"""Rate limits on routes: who is counted, what is told, and what holds without Valkey."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from functools import partial

import pytest
from fastapi import APIRouter
from starlette.types import Receive, Scope, Send

from covey.errors import DefinitionError
from covey.http.application import Application
from covey.http.limits import Limits, limited
from covey.local.engines.embedded import Engines
from covey.security.access import public
from covey.security.principal import DevelopmentTokens
from covey.testing.asgi import Answer, ask
from covey.testing.cable import Cable
from covey.testing.eventually import eventually
from covey.testing.tokens import KEY, bearer
from covey.valkey.client import Valkey

Make = Callable[..., Application]


@pytest.fixture
async def valkey(covey_engines: Engines) -> AsyncIterator[Valkey]:
    async with Valkey.open(covey_engines.valkey_url) as opened:
        yield opened


@pytest.fixture
def make(make: Make, valkey: Valkey, system_name: str) -> Make:
    """The function of all tests here, with the limits counted in Valkey."""
    return partial(make, verifier=DevelopmentTokens(KEY), limits=Limits(valkey, system_name, "test"))


def shop() -> APIRouter:
    api = APIRouter()

    @api.post("/orders")
    @public
    @limited("3/hour", "5/day", but_not="staff")
    async def order(body: dict[str, int]) -> str:
        return "placed"

    @api.get("/orders")
    @public
    @limited("3/hour")
    async def orders() -> str:
        return "listed"

    @api.get("/closed")
    @public
    @limited("3/hour", when_away="refuse")
    async def closed() -> str:
        return "open"

    @api.get("/free")
    @public
    async def free() -> str:
        return "free"

    return api


async def post(app: Application, headers: dict[str, str] | None = None, body: bytes = b"{}") -> Answer:
    return await ask(app, "POST", "/orders", headers=headers, body=body)


async def test_who_asks_too_often_is_refused_and_told_how_they_stand(make: Make) -> None:
    app = make(shop())
    answers = [await post(app, bearer("user:7")) for _ in range(4)]

    assert [answer.status for answer in answers] == [200, 200, 200, 429]
    assert {answer.headers["ratelimit-policy"] for answer in answers} == {'"3/hour";q=3;w=3600, "5/day";q=5;w=86400'}
    left = [re.findall(r"r=(\d+)", answer.headers["ratelimit"]) for answer in answers]
    assert left == [["2", "4"], ["1", "3"], ["0", "2"], ["0", "2"]]
    assert answers[3].json()["type"] == "/problems/too-many-requests"
    assert 1_190 <= int(answers[3].headers["retry-after"]) <= 1_200
    assert "retry-after" not in answers[0].headers


async def test_each_caller_and_each_route_is_counted_by_itself(make: Make) -> None:
    app = make(shop())
    for _ in range(3):
        await post(app, bearer("user:7"))

    assert (await post(app, bearer("user:7"))).status == 429
    assert (await post(app, bearer("user:8"))).status == 200
    assert (await ask(app, "GET", "/orders", headers=bearer("user:7"))).status == 200
    assert (await post(app)).status == 200


async def test_to_ask_for_the_head_is_counted_as_to_ask_for_it_all(make: Make) -> None:
    app = make(shop())

    statuses = [(await ask(app, method, "/orders")).status for method in ("GET", "HEAD", "HEAD", "GET", "HEAD")]

    assert statuses == [200, 200, 200, 429, 429]


async def test_who_has_the_role_is_not_counted(make: Make) -> None:
    app = make(shop())

    answers = [await post(app, bearer("user:7", "staff")) for _ in range(6)]

    assert {answer.status for answer in answers} == {200}
    assert "ratelimit" not in answers[0].headers


async def test_who_says_nothing_of_themselves_is_counted_by_address(make: Make) -> None:
    app = make(shop())

    assert [(await post(app)).status for _ in range(4)] == [200, 200, 200, 429]


@pytest.mark.parametrize(
    ("first", "second", "together"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
    ],
)
async def test_of_an_address_counts_what_its_owner_cannot_choose(
    make: Make, first: str, second: str, together: bool
) -> None:
    app = make(shop())

    async def status(address: str) -> int:
        async def called(scope: Scope, receive: Receive, send: Send) -> None:
            await app({**scope, "client": (address, 1)}, receive, send)

        return (await ask(called, "GET", "/orders")).status

    assert [await status(first) for _ in range(4)] == [200, 200, 200, 429]
    assert await status(second) == (429 if together else 200)


async def test_a_refusal_comes_before_the_body_is_validated_and_an_invalid_one_is_counted(make: Make) -> None:
    app = make(shop())

    statuses = [(await post(app, bearer("user:7"), b"nonsense")).status for _ in range(4)]

    assert statuses == [400, 400, 400, 429]


async def test_a_route_that_is_not_limited_tells_nothing(make: Make) -> None:
    answer = await ask(make(shop()), "GET", "/free")

    assert "ratelimit" not in answer.headers and "ratelimit-policy" not in answer.headers


async def test_two_processes_count_together(
    make: Make, valkey: Valkey, covey_engines: Engines, system_name: str
) -> None:
    async with Valkey.open(covey_engines.valkey_url) as another:
        apps = [make(shop()), make(shop(), limits=Limits(another, system_name, "test"))]

        answers = await asyncio.gather(*(post(apps[n % 2], bearer("user:7")) for n in range(20)))

    assert [answer.status for answer in answers].count(200) == 3


async def test_without_valkey_each_process_counts_for_itself_unless_the_route_is_closed(
    make: Make, covey_engines: Engines, system_name: str
) -> None:
    async with Cable.to(covey_engines.valkey_url) as cable, Valkey.open(cable.url) as away:
        app = make(shop(), limits=Limits(away, system_name, "test"))
        assert (await post(app, bearer("user:7"))).status == 200
        cable.cut()
        await eventually(lambda: not away.is_connected)

        statuses = [(await post(app, bearer("user:7"))).status for _ in range(4)]

        assert statuses == [200, 200, 200, 429]
        assert (await ask(app, "GET", "/closed")).status == 503


def test_what_is_no_limit_is_refused_where_it_is_declared() -> None:
    for wrong in ([], ["3"], ["0/hour"], ["3/fortnight"]):
        with pytest.raises(DefinitionError):
            limited(*wrong)
