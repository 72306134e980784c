"""`covey drill` as a whole: a small system that keeps its promises, one that does not, and somebody in a hurry."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from covey.errors import ConfigurationError
from covey.local.system import read_system
from covey.testing.drill.drilled import opener
from covey.testing.drill.faults import Kill
from covey.testing.drill.schedule import Targets, draw
from covey.testing.eventually import eventually

WriteTally = Callable[..., Path]
SEED, MINUTES = 5, 0.15
_SECONDS = 150


def _with_ctrl_c() -> None:
    """Be interruptible, as what runs on a terminal is: a shell starts its background jobs deaf to Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


async def drilled(root: Path, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "covey.cli", "drill", "--seed", str(SEED), "--rate", "20", *arguments),
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(root)},
        preexec_fn=_with_ctrl_c,
    )


async def ended(command: asyncio.subprocess.Process) -> tuple[int | None, dict[str, Any], str]:
    """Return the exit status, what was said to a script, and what was said to people."""
    async with asyncio.timeout(_SECONDS):
        out, err = await command.communicate()
    assert out, err.decode()
    return command.returncode, json.loads(out), err.decode()


@pytest.mark.slow
async def test_a_system_that_keeps_its_promises_passes_whatever_is_killed(write_tally: WriteTally) -> None:
    root = write_tally()

    command = await drilled(root, "--minutes", str(MINUTES), "--report", "page.html", "--json")
    status, result, told = await ended(command)

    assert status == 0, told
    assert result["passed"]
    assert result["kills"]["hit"] == result["kills"]["scheduled"] > 0
    assert result["struck"].keys() == {"kills", "pauses", "nothing at all"}
    assert all(result["struck"].values())
    assert result["accepted"] > 20
    assert result["completed"] == result["accepted"]
    assert "Passed: no violation" in (root / "page.html").read_text()
    assert not list(root.glob("covey-drill-*"))


@pytest.mark.slow
async def test_a_system_that_answers_before_it_has_written_is_found_out(write_tally: WriteTally) -> None:
    there = Targets(services={"tally": ["tally", "tally-2"]}, engines=["postgres", "nats", "valkey"])
    faults = draw(SEED, 60 * MINUTES, there).faults
    assert any(isinstance(fault, Kill) and fault.unit.startswith("tally") for fault in faults), "choose another seed"
    root = write_tally(forgetful=True)

    command = await drilled(root, "--minutes", str(MINUTES), "--json")
    status, result, told = await ended(command)

    assert status == 1, told
    assert result["rules"]["every vote is kept"]
    assert "violation" in result["objections"][0]
    assert (Path(result["state"]) / "logs" / "tally.log").is_file()
    assert "is lost" in (root / f".covey/drills/seed-{SEED}.html").read_text()


@pytest.mark.slow
async def test_a_fault_that_could_never_be_begun_fails_the_drill(write_tally: WriteTally) -> None:
    root = write_tally(deaf=True)

    command = await drilled(root, "--minutes", str(MINUTES), "--json")
    status, result, told = await ended(command)

    assert status == 1, told
    assert "nobody was hit by any of: nothing at all" in result["objections"]
    assert result["struck"]["nothing at all"] == 0
    assert {strike["note"] for strike in result["strikes"] if not strike["hit"]} == {"nobody obeys"}


@pytest.mark.slow
async def test_ctrl_c_ends_load_and_faults_and_what_was_accepted_is_audited(write_tally: WriteTally) -> None:
    root = write_tally()
    command = await drilled(root, "--minutes", "10", "--json")

    def is_under_load() -> bool:
        return (root / "votes").is_file() and (root / "votes").read_text().count("\n") > 20

    await eventually(is_under_load, within=timedelta(seconds=60))
    command.send_signal(signal.SIGINT)
    status, result, told = await ended(command)

    assert status == 1, told
    assert "it was interrupted" in result["objections"]
    assert result["rules"]["every vote is kept"] == []
    assert result["completed"] == result["accepted"] > 20
    assert "interrupted: no more load" in told


def test_a_system_that_says_nothing_of_drills_is_told_what_to_write(write_tally: WriteTally) -> None:
    root = write_tally()
    text = (root / "covey.toml").read_text()
    (root / "covey.toml").write_text(text.partition("[drill]")[0])

    with pytest.raises(ConfigurationError, match=r"says nothing of drills.*\[drill\]"):
        opener(read_system(root))


@pytest.mark.parametrize(
    ("source", "told"),
    [
        pytest.param("import nowhere_to_be_found", "cannot be imported: No module named", id="an import that fails"),
        pytest.param("", "has no function 'drilled'", id="no function"),
    ],
)
def test_a_module_that_is_none_for_drills_is_named(write_tally: WriteTally, source: str, told: str) -> None:
    root = write_tally()
    next(root.glob("drill_of_*.py")).write_text(source)

    with pytest.raises(ConfigurationError, match=f"drill.module: drill_of_.* {told}"):
        opener(read_system(root))
