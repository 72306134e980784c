"""`make demo EXIT=1`, as a whole: real processes, real engines, a real SIGKILL."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest

from shop.demo import run
from shop.scenarios import SCENARIOS
from shop.terminal import Terminal


@pytest.mark.slow
async def test_the_demo_ends_well_and_tells_what_it_did(tmp_path: Path) -> None:
    stream = StringIO()

    status = await run(Terminal(stream), stay=False, state=tmp_path / "state")

    told = stream.getvalue()
    assert status == 0, told
    assert all(f"✓ {scenario.title}" in told for scenario in SCENARIOS)
    assert "SIGKILL to pid" in told
    assert "Everything is as it should be" in told
