"""What a caller says of proxies that it came through is not believed: they would choose by it who is counted."""

from __future__ import annotations

import asyncio

import aiohttp
from fastapi import APIRouter

from covey.http.limits import limited
from covey.local.engines.embedded import Engines
from covey.local.ports import free_port
from covey.security.access import public
from covey.service import Parts, Service
from covey.settings import ServiceSettings


async def test_who_names_another_address_each_time_is_counted_as_one(
    database_url: str, covey_engines: Engines, system_name: str
) -> None:
    api = APIRouter()

    @api.get("/")
    @public
    @limited("3/hour")
    async def hello() -> str:
        return "hello"

    settings = ServiceSettings(
        database_url=database_url, nats_url=covey_engines.nats_url, system=system_name, port=free_port()
    )
    stop, started = asyncio.Event(), asyncio.Event()
    serving = asyncio.create_task(Service("shop", Parts(http=[api])).serve(settings, stop, started.set))
    try:
        await started.wait()
        async with aiohttp.ClientSession() as client:
            statuses = [await _status(client, settings.port, f"192.0.2.{n}") for n in range(4)]
    finally:
        stop.set()
        await serving

    assert statuses == [200, 200, 200, 429]


async def _status(client: aiohttp.ClientSession, port: int, address: str) -> int:
    while True:
        try:
            async with client.get(f"http://127.0.0.1:{port}/", headers={"X-Forwarded-For": address}) as answer:
                return answer.status
        except aiohttp.ClientConnectorError:  # the socket opens a moment after the rest
            await asyncio.sleep(0.01)
