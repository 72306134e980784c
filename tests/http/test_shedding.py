"""Load shedding where it is felt: at the routes of a service, over the wire."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import aiohttp
import inventory_service.routes
import order_service.routes
import pytest
from fastapi import APIRouter
from starlette.types import Message

from covey.http.application import Application
from covey.http.edge import HttpOptions
from covey.http.shedding import priority, priority_of
from covey.resilience.load_shedding import Priority, SheddingOptions
from covey.security.principal import DevelopmentTokens
from covey.testing.asgi import ask, scope_of
from covey.testing.clock import FakeClock
from covey.testing.eventually import eventually
from covey.testing.serving import serving
from covey.testing.tokens import KEY, bearer

FOUR = HttpOptions(shedding=SheddingOptions(initial=4, least=4, most=4))
"""As much as may be under way: three of low importance, four as ever, eight where it is critical."""

PATIENCE = aiohttp.ClientTimeout(total=10)
"""Whoever is let in waits until all are let go: who ought to be refused must not wait for ever."""

CALLER = bearer("user:ada")


@dataclass
class Work:
    """Requests under way, which wait until they are let go."""

    go: asyncio.Event = field(default_factory=asyncio.Event)
    begun: int = 0

    async def __call__(self) -> str:
        self.begun += 1
        await self.go.wait()
        return "done"


@dataclass(frozen=True)
class Stage:
    """A service of which as much as it can do is under way, or less."""

    http: aiohttp.ClientSession
    work: Work

    def ask(self, path: str) -> asyncio.Task[tuple[int, float]]:
        """Ask; return status and `Retry-After` once there is an answer."""

        async def asked() -> tuple[int, float]:
            async with self.http.get(path, headers=CALLER) as response:
                return response.status, float(response.headers.get("Retry-After", 0))

        return asyncio.create_task(asked())

    async def under_way(self, path: str, times: int) -> list[asyncio.Task[tuple[int, float]]]:
        """Ask so many times, and wait until all of them are being handled."""
        before = self.work.begun
        asked = [self.ask(path) for _ in range(times)]
        await eventually(lambda: self.work.begun == before + times)
        return asked

    async def shed(self) -> dict[str, float]:
        """Return how many were refused, by importance."""
        async with self.http.get("/metrics") as response:
            text = await response.text()
        return {
            level: float(count)
            for level, count in re.findall(r'http_requests_shed_total\{priority="(\w+)"\} (\S+)', text)
        }


@pytest.fixture
async def stage(make: Callable[..., Application]) -> AsyncIterator[Stage]:
    async with _stage(make) as stage:
        yield stage


@asynccontextmanager
async def _stage(make: Callable[..., Application]) -> AsyncIterator[Stage]:
    work, api = Work(), APIRouter()
    for path, level in (("/low", Priority.LOW), ("/critical", Priority.CRITICAL), ("/uncounted", None)):
        api.get(path)(priority(level)(_handler(work)))
    api.get("/normal")(_handler(work))
    # Its time stands still: after a second without an answer one would be let in past the limit.
    app = make(api, options=FOUR, verifier=DevelopmentTokens(KEY), clock=FakeClock())
    async with (
        serving(app) as url,
        aiohttp.ClientSession(url, connector=aiohttp.TCPConnector(limit=0), timeout=PATIENCE) as http,
    ):
        try:
            yield Stage(http, work)
        finally:
            work.go.set()


def _handler(work: Work) -> Callable[[], object]:
    async def handle() -> str:
        return await work()

    return handle


async def test_past_capacity_the_least_important_is_refused_at_once_and_the_rest_done(stage: Stage) -> None:
    working = await stage.under_way("/normal", 3)
    low = await stage.ask("/low")
    working += await stage.under_way("/normal", 1)
    normal = await stage.ask("/normal")
    working += await stage.under_way("/critical", 4)
    critical = await stage.ask("/critical")
    shed = await stage.shed()
    stage.work.go.set()
    answers = [await one for one in working]

    for status, seconds in (low, normal, critical):
        assert (status, 1 <= seconds <= 3) == (503, True)
    assert answers == [(200, 0)] * 8
    assert shed == {"low": 1, "normal": 1, "critical": 1}
    assert (await stage.ask("/low"))[0] == 200, "when it is over nobody is refused any more"


async def test_who_is_refused_is_not_asked_first_who_it_is(stage: Stage) -> None:
    async with stage.http.get("/normal") as response:
        unknown = response.status
    await stage.under_way("/normal", 4)
    async with stage.http.get("/normal") as response:
        refused = response.status, response.content_type

    assert (unknown, refused) == (401, (503, "application/problem+json"))


async def test_what_the_platform_asks_is_let_in_and_counts_for_nothing(stage: Stage) -> None:
    await stage.under_way("/uncounted", 5)
    await stage.under_way("/normal", 4)

    for path in ("/health", "/ready", "/metrics"):
        async with stage.http.get(path) as response:
            assert response.status == 200


async def test_how_long_an_answer_waits_for_its_reader_says_nothing_of_how_long_work_takes(
    make: Callable[..., Application],
) -> None:
    clock, api = FakeClock(), APIRouter()

    @api.get("/work")
    async def work() -> str:
        await clock.advance(timedelta(milliseconds=10))
        return "done"

    app = make(api, options=HttpOptions(shedding=SheddingOptions(initial=40)), clock=clock)

    async def asked(reader_takes: timedelta) -> None:
        async def receive() -> Message:
            return {"type": "http.request"}

        async def send(message: Message) -> None:
            await clock.advance(reader_takes)

        await app(scope_of("GET", "/work", {}), receive, send)

    for takes in (timedelta(), timedelta(seconds=10)):
        for _ in range(30):
            await asked(takes)

    metrics = (await ask(app, "GET", "/metrics")).body.decode()
    assert "\nhttp_concurrency_limit 40.0\n" in metrics


def test_in_the_shop_checkout_comes_before_browsing() -> None:
    orders, products = order_service.routes, inventory_service.routes

    assert priority_of(orders.create_order) is Priority.CRITICAL
    assert priority_of(orders.list_orders) is Priority.NORMAL
    assert {priority_of(one) for one in (products.get_product, products.list_products)} == {Priority.LOW}
