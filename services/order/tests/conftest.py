"""A real database of the order service for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from covey.database.pool import Database
from covey.work.unit_of_work import Transactions


@pytest.fixture
async def transactions(new_database: Callable[[str], str]) -> AsyncIterator[Transactions]:
    """Where work on a new database begins."""
    async with Database.open(new_database("order")) as database:
        yield Transactions(database, "order")
