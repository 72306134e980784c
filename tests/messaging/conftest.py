"""A feed to read, and databases of the shop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from covey.messaging.brokers.memory import MemoryBroker
from tests.messaging.feed import Feed, with_effects


@pytest.fixture
def feed(memory_broker: MemoryBroker) -> Feed:
    """What the shop reads, on the memory broker of the test."""
    return Feed(memory_broker)


@pytest.fixture
def shop_url(make_database: Callable[[Path | None], str]) -> str:
    """A database of the shop: covey's tables and `effect`."""
    return with_effects(make_database(None))
