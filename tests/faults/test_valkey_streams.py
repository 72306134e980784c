"""The shop on a broker that is Valkey: the same orders, and kills of engines and services, with the same audit."""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta

import pytest

from covey.local.engines.embedded import STREAMS
from covey.testing.eventually import eventually
from tests.faults.conftest import Open
from tests.faults.outages import order_while_killed
from tests.harness.floor import Floor

pytestmark = pytest.mark.asyncio(loop_scope="module")

TIMES = [pytest.param(1, 32, id="short"), pytest.param(6, 300, id="long", marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def broker_engine() -> str:
    return STREAMS


@pytest.mark.parametrize(("times", "number"), TIMES)
@pytest.mark.parametrize("engine", [STREAMS, pytest.param("postgres", marks=pytest.mark.slow)])
async def test_an_engine_that_is_killed_and_comes_back_loses_nothing(
    open_scene: Open, ground: Floor, engine: str, times: int, number: int
) -> None:
    async with open_scene(1) as scene:
        await order_while_killed(scene.crowd, number, ground, engine, times)

        await scene.crowd.settle()


@pytest.mark.slow
async def test_replicas_and_the_broker_killed_together_lose_nothing(open_scene: Open, ground: Floor) -> None:
    dice = random.Random(4)
    async with open_scene(2) as scene:
        everyone = [replica for replicas in scene.shop.replicas.values() for replica in replicas]
        ordering = asyncio.create_task(scene.crowd.order(40))
        for accepted in (10, 20, 30):
            await eventually(lambda: len(scene.crowd.accepted) >= accepted, timedelta(minutes=2))  # noqa: B023 - awaited
            victims = dice.sample(everyone, 3)
            for victim in victims:
                victim.kill()
            await ground.kill_and_restart(STREAMS)
            for victim in victims:
                await victim.died()
                await victim.start()
        await ordering

        await scene.crowd.settle()
