from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
import uvloop
from fastapi import APIRouter

from covey.http.application import Application, application
from covey.telemetry.health import Readiness
from covey.telemetry.telemetry import Telemetry


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Have what deals with connections tested on both event loops: tests run on asyncio's, services on uvloop."""
    own = {"asyncio": asyncio.new_event_loop}
    both = item.path.name in ("test_client.py", "test_slow_readers.py")
    return {**own, "uvloop": uvloop.new_event_loop} if both else own


@pytest.fixture
def make(telemetry: Telemetry, readiness: Readiness) -> Callable[..., Application]:
    """A function that makes an application of routers, on the telemetry of this test."""

    def make(*routers: APIRouter, **options: Any) -> Application:
        return application("test", routers, telemetry, readiness, **options)

    return make


@pytest_asyncio.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session
