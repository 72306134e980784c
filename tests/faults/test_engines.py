"""PostgreSQL and NATS may be killed at any time: what was accepted is there when they come back, and goes on."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from covey.testing.eventually import eventually
from tests.faults.conftest import Open
from tests.harness.floor import Floor

pytestmark = pytest.mark.asyncio(loop_scope="module")

TIMES = [pytest.param(1, 32, id="short"), pytest.param(6, 300, id="long", marks=pytest.mark.slow)]


@pytest.mark.parametrize(("times", "number"), TIMES)
@pytest.mark.parametrize("engine", ["postgres", "nats"])
async def test_an_engine_that_is_killed_and_comes_back_loses_nothing(
    open_scene: Open, ground: Floor, engine: str, times: int, number: int
) -> None:
    async with open_scene(1) as scene:
        ordering = asyncio.create_task(scene.crowd.order(number))

        for nth in range(1, times + 1):
            enough = number * nth // (times + 1)
            await eventually(lambda: len(scene.crowd.accepted) >= enough, timedelta(minutes=2))  # noqa: B023 - awaited
            await ground.kill_and_restart(engine)
        await ordering

        await scene.crowd.settle()
