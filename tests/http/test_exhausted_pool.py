"""A service whose pool is taken, over the wire and against PostgreSQL: who waits in vain is told so, in time."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import aiohttp
from fastapi import APIRouter

from covey.http.transaction import Transaction
from covey.messaging.brokers.memory import MemoryBroker
from covey.security.access import public
from covey.service import Parts, Running, Service
from covey.settings import ServiceSettings
from covey.testing.eventually import eventually
from covey.testing.serving import serving

WAIT = timedelta(milliseconds=300)
SIZE = 4  # the workers have connections of their own
TAKES = 0.05

api = APIRouter()


@api.get("/sum")
@public
async def read(work: Transaction) -> int:
    return int(await work.fetchval("SELECT sum(n) FROM generate_series(1, 3) n"))


@api.get("/slow")
@public
async def slow(work: Transaction) -> int:
    return int(await work.fetchval("SELECT 1 FROM pg_sleep($1)", TAKES))


@asynccontextmanager
async def served(database_url: str) -> AsyncIterator[tuple[Running, aiohttp.ClientSession]]:
    """Have a service with a small pool and little patience, and a client of it."""
    settings = ServiceSettings(database_url=database_url, nats_url="nats://unused", pool_size=SIZE, pool_wait=WAIT)
    async with (
        Service("small", Parts(http=[api])).running(settings, MemoryBroker()) as running,
        serving(running.app) as url,
        aiohttp.ClientSession(url, connector=aiohttp.TCPConnector(limit=0)) as client,
    ):
        yield running, client


async def test_who_waits_in_vain_gets_503_within_the_wait_and_is_told_when_to_come_back(database_url: str) -> None:
    loop = asyncio.get_running_loop()
    async with served(database_url) as (running, client):
        held = [running.database.acquire() for _ in range(SIZE)]
        for one in held:
            await one.__aenter__()
        begun = loop.time()
        answers = await asyncio.gather(*(answered(client, "/sum") for _ in range(10)))
        took = loop.time() - begun

        assert {status for status, _, _ in answers} == {503}
        assert WAIT.total_seconds() * 0.9 <= took < WAIT.total_seconds() + 2
        for _, headers, body in answers:
            problem = json.loads(body)
            assert (headers["Content-Type"], headers["Retry-After"]) == ("application/problem+json", "1")
            assert (problem["type"], problem["status"]) == ("/problems/unavailable", 503)
            assert problem["correlation_id"] == headers["X-Correlation-Id"]
            assert "detail" not in problem, "how large our pool is, is nobody's business"

        for one in held:
            await one.__aexit__(None, None, None)
        assert (await answered(client, "/sum"))[0] == 200


async def test_under_ten_times_its_load_nobody_waits_for_longer_and_the_pool_is_not_idle(database_url: str) -> None:
    loop = asyncio.get_running_loop()
    within = int(SIZE * WAIT.total_seconds() / TAKES)
    async with served(database_url) as (_, client):
        begun = loop.time()
        answers = await asyncio.gather(*(answered(client, "/slow") for _ in range(10 * within)))
        took = loop.time() - begun

    statuses = Counter(status for status, _, _ in answers)
    assert set(statuses) == {200, 503}
    assert statuses[200] >= within / 2, statuses
    assert took < WAIT.total_seconds() + TAKES + 2


async def test_metrics_show_the_pool_who_waits_and_who_did_in_vain(database_url: str) -> None:
    async with served(database_url) as (running, client):
        held = [running.database.acquire() for _ in range(SIZE)]
        for one in held:
            await one.__aenter__()
        before = await metrics(client)
        asking = asyncio.create_task(answered(client, "/sum"))
        await eventually(lambda: _shows(client, "active_connections", 2))  # the request that waits, and the scrape
        meanwhile = await metrics(client)
        await asking
        afterwards = await metrics(client)
        for one in held:
            await one.__aexit__(None, None, None)
        await eventually(lambda: _shows(client, 'covey_pool_connections{state="idle"}', SIZE))
        at_the_end = await metrics(client)

    assert meanwhile["covey_pool_size"] == SIZE
    assert meanwhile['covey_pool_connections{state="open"}'] == SIZE
    assert meanwhile['covey_pool_connections{state="active"}'] == SIZE
    assert meanwhile['covey_pool_connections{state="idle"}'] == 0
    assert meanwhile["covey_pool_waiting"] >= 1
    assert afterwards["covey_pool_exhausted_total"] >= before["covey_pool_exhausted_total"] + 1
    assert afterwards["covey_pool_wait_seconds_count"] >= before["covey_pool_wait_seconds_count"] + 1
    waited = afterwards["covey_pool_wait_seconds_sum"] - before["covey_pool_wait_seconds_sum"]
    assert waited >= WAIT.total_seconds() * 0.9
    assert at_the_end["covey_pool_waiting"] == 0


async def answered(client: aiohttp.ClientSession, path: str) -> tuple[int, dict[str, str], bytes]:
    async with client.get(path) as answer:
        return answer.status, {name.title(): value for name, value in answer.headers.items()}, await answer.read()


async def metrics(client: aiohttp.ClientSession) -> dict[str, float]:
    """Return every series that the service shows."""
    _, _, text = await answered(client, "/metrics")
    found = re.findall(r"^([a-z_]+(?:\{[^}]*\})?) ([0-9.e+-]+)$", text.decode(), re.MULTILINE)
    return {name: float(value) for name, value in found}


async def _shows(client: aiohttp.ClientSession, name: str, value: float) -> bool:
    return (await metrics(client))[name] == value
