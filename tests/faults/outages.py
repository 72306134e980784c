"""Orders that meet an engine which is killed."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from covey.testing.eventually import eventually
from tests.harness.crowd import Crowd
from tests.harness.floor import Floor


async def order_while_killed(crowd: Crowd, number: int, ground: Floor, engine: str, times: int) -> None:
    """Place so many orders, and have an engine killed and come back so often between the first and the last."""
    ordering = asyncio.create_task(crowd.order(number))
    for nth in range(1, times + 1):
        enough = number * nth // (times + 1)
        await eventually(lambda: len(crowd.accepted) >= enough, timedelta(minutes=2))  # noqa: B023 - awaited
        await ground.kill_and_restart(engine)
    await ordering
