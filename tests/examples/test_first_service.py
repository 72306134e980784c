"""The first service of the README runs under `covey up`, and keeps its promise when it is killed."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import aiohttp
import asyncpg
import pytest

from covey.local.running import RunningSystem, UpOptions, running_system
from covey.testing.eventually import eventually

FOLDER = Path(__file__).parents[2] / "examples" / "first-service"
CHOICES = ("tea", "coffee", "water")


@pytest.mark.parametrize("one_process", [False, pytest.param(True, marks=pytest.mark.slow)])
async def test_every_accepted_vote_is_counted_once_though_the_service_is_killed(
    tmp_path: Path, one_process: bool
) -> None:
    options = UpOptions(state=tmp_path / ".covey", one_process=one_process)
    async with running_system(FOLDER, options) as system, client(system) as http:
        votes = [asyncio.create_task(cast(http, choice)) for choice in CHOICES for _ in range(40)]
        await eventually(lambda: any(vote.done() for vote in votes))
        await system.units["ballot"].kill()
        accepted = Counter(choice for choice in await asyncio.gather(*votes) if choice is not None)
        assert accepted.total() < len(votes), "the service was to be killed while it worked"
        await system.units["ballot"].up()
        accepted.update([choice for choice in CHOICES if await cast(http, choice)])

        durable = await outbox(system)
        await eventually(lambda: all_counted(http, durable))
        assert accepted <= durable, "a vote that was answered with 202 is not in the outbox"
        assert durable.total() <= len(votes) + len(CHOICES)


def client(system: RunningSystem) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(system.url("ballot"))


async def cast(http: aiohttp.ClientSession, choice: str) -> str | None:
    """Cast a vote; return it when it was accepted, None when nobody can tell."""
    try:
        async with http.post(f"/votes/{choice}") as response:
            return choice if response.status == 202 else None
    except aiohttp.ClientError:
        return None


async def all_counted(http: aiohttp.ClientSession, durable: Counter[str]) -> bool:
    async with http.get("/votes") as response:
        found = Counter(await response.json())
    assert found <= durable, "a vote was counted twice"
    return found == durable


async def outbox(system: RunningSystem) -> Counter[str]:
    """Return the votes that were committed."""
    connection = await asyncpg.connect(system.database_url("ballot"))
    rows = await connection.fetch("SELECT key FROM covey.outbox")
    await connection.close()
    return Counter(row["key"] for row in rows)
