"""Tests of the nursery: nobody waits in vain for the end of a process."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

from covey.local.ports import free_port
from tests.harness.processes import Nursery


async def test_who_waits_for_a_process_is_told_when_the_nursery_closes(tmp_path: Path) -> None:
    nursery = await Nursery.open("sandbox_carrier.api")
    told = {"PORT": str(free_port()), "COVEY_DATA": str(tmp_path)}
    child = await nursery.start("sandbox_carrier", told, tmp_path / "log")

    await nursery.close()

    async with asyncio.timeout(10):
        assert await child.status == -signal.SIGKILL
