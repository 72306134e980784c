"""Two services and a saga over them, on one broker."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from covey.messaging.brokers.memory import MemoryBroker
from tests.saga.stage import Stage, on_stage


@pytest.fixture
async def stage(make_database: Callable[[Path | None], str]) -> AsyncIterator[Stage]:
    """Run both services on one broker in memory, which does not recognize duplicates."""
    async with on_stage(make_database(None), make_database(None), MemoryBroker()) as stage:
        yield stage
