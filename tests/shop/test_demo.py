"""`make demo EXIT=1`, as a whole: real processes, real engines, a real SIGKILL."""

from __future__ import annotations

import asyncio
import os
import signal
from datetime import timedelta
from io import StringIO
from pathlib import Path

import pytest

from covey.local.engines.embedded import STREAMS
from covey.testing.eventually import eventually
from shop.demo import Demo, run
from shop.scenarios import SCENARIOS
from shop.showing import ROOT, shown_shop
from shop.terminal import Terminal


@pytest.fixture
def on_valkey(tmp_path: Path) -> Path:
    """The folder of the same shop, on a broker that is Valkey."""
    root = tmp_path / "shop"
    root.mkdir()
    (root / "services").symlink_to(ROOT / "services")
    (root / "shop").symlink_to(ROOT / "shop")
    text = (ROOT / "covey.toml").read_text()
    (root / "covey.toml").write_text(text.replace('name = "shop"\n', 'name = "shop"\nbroker = "valkey"\n', 1))
    return root


@pytest.mark.slow
async def test_the_demo_ends_well_and_tells_what_it_did(tmp_path: Path) -> None:
    stream = StringIO()

    status = await run(Terminal(stream), stay=False, state=tmp_path / "state")

    told = stream.getvalue()
    assert status == 0, told
    assert all(f"✓ {scenario.title}" in told for scenario in SCENARIOS)
    assert "SIGKILL to pid" in told
    assert "Everything is as it should be" in told


@pytest.mark.slow
async def test_orders_of_every_outcome_end_well_on_valkey_which_is_killed_meanwhile(
    on_valkey: Path, tmp_path: Path
) -> None:
    stream = StringIO()

    async with shown_shop(Terminal(stream), tmp_path / "state", on_valkey) as (system, client):
        demo = Demo(system, client, Terminal(stream))
        running = asyncio.create_task(demo.run())
        for title in (SCENARIOS[0].title, SCENARIOS[-4].title):
            await eventually(lambda: running.done() or title in stream.getvalue(), timedelta(minutes=2))  # noqa: B023 - awaited
            os.kill(system.units[STREAMS].pid or 0, signal.SIGKILL)
        await running

    told = stream.getvalue()
    assert demo.failures == [], told
    assert "nats" not in system.units
    assert all(f"✓ {scenario.title}" in told for scenario in SCENARIOS)
