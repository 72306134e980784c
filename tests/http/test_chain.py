"""A chain of three services whose last one is down: what it costs, and what goes on when nobody waits any more."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest
from fastapi import APIRouter

from covey import context
from covey.clock import SystemClock
from covey.errors import DeadlineExceeded, Unavailable
from covey.http.client import HttpClient, HttpClientOptions
from covey.resilience.circuit_breaker import BreakerOptions
from covey.resilience.policy import PolicyOptions
from covey.resilience.retry import RetryOptions
from covey.testing.eventually import eventually
from covey.testing.serving import serving

CALLS = 300

# The breaker is out of the way: it would spare the target still more, and here the budgets are on trial.
POLICY = PolicyOptions(
    retry=RetryOptions(attempts=3, reserve=5, base=timedelta(milliseconds=1), cap=timedelta(milliseconds=2)),
    breaker=BreakerOptions(minimum=10**9),
)


@dataclass
class Chain:
    """Who calls the first, how many requests came to each service, and how many it handles now."""

    client: HttpClient
    came: Counter[str]
    under_way: Counter[str]


@asynccontextmanager
async def chain(make: Callable[..., Any], last: Callable[[], Any]) -> AsyncIterator[Chain]:
    """Three services in a row, each on a socket of its own; the last does what it is told to."""
    options = HttpClientOptions(policy=POLICY)
    came, under_way = Counter[str](), Counter[str]()
    async with AsyncExitStack() as stack:

        async def served(name: str, then: Callable[[], Any]) -> HttpClient:
            router = APIRouter()

            @router.get("/do")
            async def do() -> int:
                came[name] += 1
                under_way[name] += 1
                try:
                    return int(await then())
                finally:
                    under_way[name] -= 1

            url = await stack.enter_async_context(serving(make(router)))
            client = HttpClient.open(name, url, options, caller="test")
            return await stack.enter_async_context(client)

        third = await served("third", last)
        second = await served("second", lambda: third.ask("GET", "/do", int))
        first = await served("first", lambda: second.ask("GET", "/do", int))
        yield Chain(first, came, under_way)


async def test_the_load_on_what_is_down_grows_by_a_tenth_at_most_however_long_the_chain(
    make: Callable[..., Any],
) -> None:
    async def down() -> int:
        raise RuntimeError("down")  # a 500, which names no time to come back

    async with chain(make, down) as whole:
        for _ in range(CALLS):
            with pytest.raises(Unavailable):
                await whole.client.ask("GET", "/do", int)

    reserve = 5
    assert whole.came["first"] == whole.came["second"] == CALLS, "only who asks it tries again"
    assert CALLS < whole.came["third"] <= 1.1 * CALLS + reserve


async def test_time_shrinks_along_the_chain_and_nothing_goes_on_when_it_is_over(make: Callable[..., Any]) -> None:
    left: list[float] = []
    steps: list[float] = []

    async def work() -> int:
        deadline = context.current().deadline
        assert deadline is not None
        left.append((deadline - SystemClock().now()).total_seconds())
        while True:
            await asyncio.sleep(0.01)
            steps.append(time.monotonic())

    async def call() -> None:
        soon = replace(context.new_context(), deadline=SystemClock().now() + timedelta(seconds=1))
        with context.use(soon), pytest.raises(DeadlineExceeded):
            await whole.client.ask("GET", "/do", int)

    async with chain(make, work) as whole, stalls() as worst:
        await asyncio.gather(*(call() for _ in range(5)))
        over = time.monotonic()
        await eventually(lambda: whole.under_way == {"first": 0, "second": 0, "third": 0})

    assert left and max(left) < 1
    # Each of the three hears of it from the one before, a turn of the loop later, which may be long where others work.
    soon = over + 0.05 + 4 * max(worst)
    assert len([step for step in steps if step > soon]) <= 0.01 * len(steps)


@asynccontextmanager
async def stalls() -> AsyncIterator[list[float]]:
    """Note how long the loop lets a task wait that would go on at once, in seconds, as long as the block runs."""
    noted = [0.0]

    async def note() -> None:
        while True:
            begun = time.monotonic()
            await asyncio.sleep(0.001)
            noted.append(time.monotonic() - begun - 0.001)

    noting = asyncio.create_task(note())
    try:
        yield noted
    finally:
        noting.cancel()
