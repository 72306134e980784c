"""Queues on Valkey Streams: at least once, whoever dies. Workers in processes of their own are killed, and a Valkey."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from covey.errors import ValkeyUnavailable
from covey.testing.eventually import eventually
from tests.harness.breakable_valkey import BreakableValkey, breakable_valkey
from tests.messaging.queues import OpenPlace, Place

WORKER = """
import asyncio, os, sys
from datetime import timedelta
from pydantic import BaseModel
from covey.clock import Grace
from covey.database.pool import Database
from covey.messaging.queue import Queue
from covey.messaging.queue_options import QueueOptions
from covey.messaging.queues import Queues
from covey.telemetry.metrics import Metrics
from covey.valkey.client import Valkey
from covey.work.unit_of_work import Transactions

database_url, valkey_url, system, how = sys.argv[1:]

class Job(BaseModel):
    n: int

queue = Queue("things", Job, QueueOptions(
    at_once=4, lease=timedelta(seconds=1), poll=timedelta(milliseconds=50), max_attempts=20 if how != "deadly" else 3
))

@queue.handler
async def handle(job, work):
    if how == "deadly" and job.n == 0:
        os.kill(os.getpid(), 9)
    await work.execute("INSERT INTO done (n) VALUES ($1)", job.n)
    await asyncio.sleep(0.005)

async def main():
    async with Database.open(database_url) as database, Valkey.open(valkey_url) as valkey:
        transactions = Transactions(database, "shop")
        async with Queues([queue], valkey, system, transactions, Metrics()).running(Grace(timedelta(seconds=5))):
            await asyncio.Event().wait()

asyncio.run(main())
"""


class TestKilled:
    """Workers in processes of their own, and a Valkey of this test, all of which get killed."""

    @pytest.fixture
    async def valkey(self, tmp_path: Path) -> AsyncIterator[BreakableValkey]:
        async with breakable_valkey(tmp_path / "engines") as server:
            yield server

    @pytest.fixture
    async def here(self, open_place: OpenPlace, valkey: BreakableValkey, database_url: str) -> Place:
        """Where jobs are added, on a database in which it is noted what was done."""
        connection = await asyncpg.connect(database_url)
        await connection.execute("CREATE TABLE done (n int)")
        await connection.close()
        opened: Place = await open_place(url=valkey.url)
        return opened

    @pytest.fixture
    async def start(
        self, tmp_path: Path, database_url: str, valkey: BreakableValkey, system_name: str
    ) -> AsyncIterator[Callable[..., Any]]:
        """A function that starts a worker."""
        (tmp_path / "worker.py").write_text(WORKER)
        started: list[asyncio.subprocess.Process] = []

        async def start(how: str = "") -> asyncio.subprocess.Process:
            program = [str(tmp_path / "worker.py"), database_url, valkey.url, system_name, how or "well"]
            started.append(await asyncio.create_subprocess_exec(sys.executable, *program, stderr=-3))
            return started[-1]

        yield start
        for process in started:
            if process.returncode is None:
                process.kill()
                await process.wait()

    async def test_workers_lose_no_job(self, here: Place, start: Callable[..., Any]) -> None:
        for n in range(300):
            await here.add(n)

        for part in (50, 120, 200):
            worker = await start()
            await eventually(lambda: _done(here, part), timedelta(seconds=30))  # noqa: B023 - awaited
            worker.kill()
            await worker.wait()
        await start()

        await eventually(here.is_empty, timedelta(seconds=30))
        assert await _numbers(here) == set(range(300))

    async def test_valkey_loses_no_job(self, here: Place, start: Callable[..., Any], valkey: BreakableValkey) -> None:
        await start()
        await start()
        for n in range(300):
            if n % 100 == 50:
                await valkey.restart()
            await eventually(lambda: _added(here, n), timedelta(seconds=20))  # noqa: B023 - awaited

        await eventually(lambda: _is_empty(here), timedelta(seconds=30))
        assert await _numbers(here) == set(range(300))

    async def test_by_a_job_that_kills_them_workers_are_not_killed_for_ever(
        self, here: Place, start: Callable[..., Any]
    ) -> None:
        for n in range(4):
            await here.add(n, id=str(n))
        for _ in range(3):
            worker = await start("deadly")
            assert await asyncio.wait_for(worker.wait(), 20) == -signal.SIGKILL
        await start("deadly")

        (dead,) = await eventually(lambda: here.ask(here.queue.dead), timedelta(seconds=20))
        assert (dead.id, dead.error) == ("0", "its workers have died, or lost it")
        await eventually(lambda: _done(here, 3), timedelta(seconds=20), because="the others are done, not dead with it")

    async def test_a_worker_that_stood_still_has_lost_its_jobs_and_harms_none(
        self, here: Place, start: Callable[..., Any]
    ) -> None:
        for n in range(100):
            await here.add(n)
        stopped = await start()
        await eventually(lambda: _done(here, 10), timedelta(seconds=20))
        os.kill(stopped.pid, signal.SIGSTOP)
        await start()
        await eventually(here.is_empty, timedelta(seconds=30))
        os.kill(stopped.pid, signal.SIGCONT)
        await here.add(100)

        await eventually(here.is_empty, timedelta(seconds=30))
        assert await _numbers(here) == set(range(101))


async def _numbers(place: Place) -> set[int]:
    return {row["n"] for row in await place.ask(lambda work: work.fetch("SELECT DISTINCT n FROM done"))}


async def _done(place: Place, count: int) -> bool:
    return len(await _numbers(place)) >= count


async def _added(place: Place, n: int) -> bool:
    """Add it, as who has to does: again until it is certain. Its id makes that safe."""
    try:
        await place.add(n, id=f"job {n}")
    except ValkeyUnavailable:
        return False
    return True


async def _is_empty(place: Place) -> bool:
    try:
        return await place.is_empty()
    except ValkeyUnavailable:
        return False
