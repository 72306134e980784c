from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from fastapi import APIRouter

from covey.http.application import Application, application
from covey.telemetry.health import Readiness
from covey.telemetry.telemetry import Telemetry


@pytest.fixture
def written() -> list[bytes]:
    """What the telemetry of this test has written, after a flush."""
    return []


@pytest.fixture
def telemetry(written: list[bytes]) -> Telemetry:
    return Telemetry.in_memory("test", written.append)


@pytest.fixture
def readiness() -> Readiness:
    readiness = Readiness()
    readiness.started()
    return readiness


@pytest.fixture
def make(telemetry: Telemetry, readiness: Readiness) -> Callable[..., Application]:
    """A function that makes an application of routers, on the telemetry of this test."""

    def make(*routers: APIRouter, **options: Any) -> Application:
        return application("test", routers, telemetry, readiness, **options)

    return make


@pytest.fixture
def log(telemetry: Telemetry, written: list[bytes]) -> Callable[[], list[dict[str, Any]]]:
    """A function that gives the log lines so far."""

    def log() -> list[dict[str, Any]]:
        telemetry.flush()
        return [json.loads(line) for line in b"".join(written).splitlines()]

    return log


@pytest_asyncio.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session
