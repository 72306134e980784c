"""Two replicas of every service: any of them may die at any time. `test_stopped.py` has those that stand still."""

from __future__ import annotations

import asyncio
import random

import pytest

from tests.faults.conftest import Open, Scene

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def kill_again_and_again(scene: Scene, seed: int, done: asyncio.Event) -> int:
    """Kill one replica after another and start it again, until told to end; return how many were killed."""
    dice, kills = random.Random(seed), 0
    everyone = [replica for replicas in scene.shop.replicas.values() for replica in replicas]
    while not done.is_set():
        victim = dice.choice(everyone)
        victim.kill()
        await victim.died()
        kills += 1
        await victim.start()
    return kills


@pytest.mark.parametrize(
    ("number", "seed"),
    [pytest.param(40, 1, id="short"), *(pytest.param(600, n, id=f"long-{n}", marks=pytest.mark.slow) for n in (2, 3))],
)
async def test_replicas_killed_one_after_the_other_lose_nothing(open_scene: Open, number: int, seed: int) -> None:
    async with open_scene(2) as scene:
        done = asyncio.Event()
        killing = asyncio.create_task(kill_again_and_again(scene, seed, done))

        await scene.crowd.order(number)
        done.set()
        kills = await killing

        await scene.crowd.settle()
        assert kills
