"""The processes of the question about hops: a service that asks the next one, if there is one, and who calls the first.

The last works in steps of 5 ms, and notes when each was. Instants are of the monotonic clock, which on one machine all
processes share.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

from fastapi import APIRouter

from bench.party import Deed, play
from covey import context
from covey.clock import SystemClock
from covey.errors import Unavailable
from covey.http.application import application
from covey.http.client import HttpClient, HttpClientOptions
from covey.resilience.circuit_breaker import BreakerOptions
from covey.resilience.policy import PolicyOptions
from covey.security.access import public
from covey.telemetry.health import Readiness
from covey.telemetry.telemetry import Telemetry, TelemetryOptions
from covey.testing.serving import serving

NEVER_OPENS = HttpClientOptions(policy=PolicyOptions(breaker=BreakerOptions(minimum=10**9)))
STEPS, STEP_SECONDS = 1_000, 0.005


class Hop:
    """What one service does, and how much."""

    def __init__(self, following: HttpClient | None) -> None:
        self._following = following
        self._came = 0
        self._under_way = 0
        self._down = False
        self._steps: list[float] = []

    async def do(self) -> int:
        """Ask the next one, or work."""
        self._came += 1
        self._under_way += 1
        try:
            if self._following is not None:
                return await self._following.ask("GET", "/do", int)
            if self._down:
                raise RuntimeError("down")
            for _ in range(STEPS):
                await asyncio.sleep(STEP_SECONDS)
                self._steps.append(time.monotonic())
            return STEPS
        finally:
            self._under_way -= 1

    async def go_down(self) -> None:
        """Answer 500 to everything from now on."""
        self._down = True

    async def came(self) -> int:
        """Return how many requests have come."""
        return self._came

    async def under_way(self) -> int:
        """Return how many are handled now."""
        return self._under_way

    async def steps(self) -> list[float]:
        """Return the instants of all steps."""
        return self._steps


@asynccontextmanager
async def service(settings: dict[str, Any]) -> AsyncIterator[Mapping[str, Deed]]:
    """Be a service. Settings: its `name`, the address of the `following` one or "", whether there are `breakers`."""
    async with AsyncExitStack() as stack:
        following, options = None, HttpClientOptions() if settings["breakers"] else NEVER_OPENS
        if settings["following"]:
            client = HttpClient.open("following", settings["following"], options, caller=settings["name"])
            following = await stack.enter_async_context(client)
        hop, api = Hop(following), APIRouter()

        @api.get("/do")
        @public
        async def do() -> int:
            return await hop.do()

        telemetry = stack.enter_context(Telemetry.open(TelemetryOptions(service=settings["name"])))
        readiness = Readiness()
        readiness.started()
        address = await stack.enter_async_context(serving(application(settings["name"], [api], telemetry, readiness)))

        async def url() -> str:
            return address

        yield {"url": url, "go_down": hop.go_down, "came": hop.came, "under_way": hop.under_way, "steps": hop.steps}


@asynccontextmanager
async def caller(settings: dict[str, Any]) -> AsyncIterator[Mapping[str, Deed]]:
    """Be who calls the first, once for each call. Settings: its `url`."""
    async with HttpClient.open("first", settings["url"], NEVER_OPENS, caller="bench") as client:

        async def calls(number: int, at_once: int, seconds: float) -> float:
            """Call so often, each within so many seconds; return the instant of the last deadline."""
            left = iter(range(number))

            async def one() -> float:
                last = 0.0
                for _ in left:
                    deadline = SystemClock().now() + timedelta(seconds=seconds)
                    last = time.monotonic() + seconds
                    with context.use(replace(context.new_context(), deadline=deadline)):
                        try:
                            await client.ask("GET", "/do", int)
                        except Unavailable:
                            continue
                        raise RuntimeError("it was answered")
                return last

            return max(await asyncio.gather(*(one() for _ in range(at_once))))

        yield {"calls": calls}


if __name__ == "__main__":
    play({"service": service, "caller": caller})
