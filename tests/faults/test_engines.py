"""PostgreSQL and NATS may be killed at any time: what was accepted is there when they come back, and goes on."""

from __future__ import annotations

import pytest

from tests.faults.conftest import Open
from tests.faults.outages import order_while_killed
from tests.harness.floor import Floor

pytestmark = pytest.mark.asyncio(loop_scope="module")

TIMES = [pytest.param(1, 32, id="short"), pytest.param(6, 300, id="long", marks=pytest.mark.slow)]


@pytest.mark.parametrize(("times", "number"), TIMES)
@pytest.mark.parametrize("engine", ["postgres", "nats"])
async def test_an_engine_that_is_killed_and_comes_back_loses_nothing(
    open_scene: Open, ground: Floor, engine: str, times: int, number: int
) -> None:
    async with open_scene(1) as scene:
        await order_while_killed(scene.crowd, number, ground, engine, times)

        await scene.crowd.settle()
