"""A floor for each module of fault tests, and shops on it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from itertools import count

import pytest
import pytest_asyncio

from tests.harness.crowd import Crowd
from tests.harness.floor import Floor, floor
from tests.harness.ledger import Ledger
from tests.harness.shop import Shop, open_shop
from tests.harness.testimony import testimony


@dataclass(frozen=True)
class Scene:
    """A shop that is up, its books, and customers who are about to come."""

    shop: Shop
    ledger: Ledger
    crowd: Crowd


Open = Callable[[int], AbstractAsyncContextManager[Scene]]


@pytest.fixture(scope="module")
def broker_engine() -> str:
    """The engine that is the broker in this module."""
    return "nats"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ground(tmp_path_factory: pytest.TempPathFactory, broker_engine: str) -> AsyncIterator[Floor]:
    """Engines and nurseries for the tests of a module."""
    async with floor(tmp_path_factory.mktemp("floor"), broker_engine) as opened:
        yield opened


@pytest.fixture(scope="module")
def open_scene(ground: Floor) -> Open:
    """A function that opens a new shop with so many replicas of each service."""
    numbers = count(1)

    @asynccontextmanager
    async def open_(replicas: int) -> AsyncIterator[Scene]:
        async with (
            open_shop(ground, f"faults{next(numbers)}", replicas) as shop,
            Ledger.open(shop.sources) as ledger,
        ):
            try:
                yield Scene(shop, ledger, Crowd(shop, ledger))
            except AssertionError as error:
                error.add_note(await testimony(shop, ledger))
                raise

    return open_
