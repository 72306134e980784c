"""One kill at each seam: what `make crash-test` does at every point, in half a minute."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash.points import one_per_seam
from tests.crash.report import table
from tests.crash.run import prepared
from tests.harness.outcomes import OUTCOMES_WITH_EVERY_SEAM

LANES = 2


@pytest.mark.longest
@pytest.mark.parametrize(
    "cold", [pytest.param(False, id="copied"), pytest.param(True, id="started anew", marks=pytest.mark.slow)]
)
async def test_an_order_survives_a_kill_at_each_seam(tmp_path: Path, cold: bool) -> None:
    said: list[str] = []

    async with prepared(tmp_path, said.append) as run:
        points = one_per_seam(await run.record(LANES, OUTCOMES_WITH_EVERY_SEAM))
        results = await run.strike_all(points, LANES, cold=cold)

    assert not results.failures, "\n".join([*said, *table(results)])
    assert {strike.point for strike in results.strikes} == set(points)
