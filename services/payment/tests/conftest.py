"""A sandbox provider on a port of its own, for each test that wants one."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvicorn
from sandbox_provider.api import Delays, application

from covey.database.pool import Database
from covey.work.unit_of_work import Transactions

SHORT = Delays(slow=0.2, late=0.5, silence=1.0)


@asynccontextmanager
async def serving(book: Path, delays: Delays = SHORT) -> AsyncIterator[str]:
    """Serve a provider whose book is at that path; yields its URL."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        config = uvicorn.Config(application(book, delays), log_level="warning", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve([listening]))
        while not server.started:  # noqa: ASYNC110 - uvicorn tells nobody when it has started
            await asyncio.sleep(0.005)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        await serving


@pytest.fixture
async def sandbox(tmp_path: Path) -> AsyncIterator[str]:
    """The URL of a sandbox provider with an empty book."""
    async with serving(tmp_path / "book") as url:
        yield url


@pytest.fixture
async def transactions(new_database: Callable[[str], str]) -> AsyncIterator[Transactions]:
    """Where work on a new database begins."""
    async with Database.open(new_database("payment")) as database:
        yield Transactions(database, "payment")
