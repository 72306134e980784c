"""The first service of the README runs under `covey up`, and keeps its promise when it is killed."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
from collections import Counter
from pathlib import Path

import aiohttp
import asyncpg
import pytest

from covey.local.running import RunningSystem, UpOptions, running_system
from covey.local.system import read_system
from covey.testing.eventually import eventually
from covey.tools.export import export
from tests.docs.pages import ROOT, blocks

FOLDER = ROOT / "examples" / "first-service"
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


def test_the_first_service_of_the_readme_is_fifteen_lines() -> None:
    (shown,) = [block for block in blocks(ROOT / "README.md") if block.file == FOLDER / "ballot_service/main.py"]

    assert len([line for line in shown.text.splitlines() if line]) == 15


def rows_of(readme: str) -> list[tuple[str, str]]:
    """Return what the table of the page renames, from and to."""
    cells = [re.findall(r"`([^`]+)`", line) for line in readme.splitlines() if line.startswith("| ")]
    return [(row[-2], row[-1]) for row in cells if row]


def test_a_copy_that_is_renamed_as_the_page_says_is_a_service_of_its_own(tmp_path: Path) -> None:
    readme = (FOLDER / "README.md").read_text()
    commands = re.search(r"```sh\n(mkdir .*?)```", readme, re.DOTALL)
    assert commands is not None
    (tmp_path / "clone").mkdir()
    (tmp_path / "clone/examples").symlink_to(FOLDER.parent)
    subprocess.run(["sh", "-e", "-c", commands[1]], cwd=tmp_path / "clone", check=True)
    for file in (tmp_path / "library").rglob("*.*"):
        text = file.read_text()
        for old, new in rows_of(readme):
            text = text.replace(old, new)
        file.write_text(text)

    system = read_system(tmp_path / "library")
    exported = asyncio.run(export(system, system.services, os.environ))

    assert not [file for file in (tmp_path / "library").rglob("*.*") if re.search(r'ballot["_.]', file.read_text())]
    assert {(one.service, one.file.name) for one in exported} == {("loans", "asyncapi.json"), ("loans", "openapi.json")}
    assert sorted(str(file.relative_to(tmp_path / "library")) for file in (tmp_path / "library").rglob("*.*")) == [
        "covey.toml",
        *(f"loans_service/{name}.py" for name in ("__init__", "__main__", "main")),
        "migrations/0001_vote.py",
    ]


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
