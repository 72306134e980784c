"""One kill at each seam, with real restarts: what `make crash-test` does at every point, in a minute."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash.points import one_per_seam
from tests.crash.report import table
from tests.crash.run import prepared
from tests.harness.outcomes import OUTCOMES

LANES = 2
OUTCOMES_WITH_SEAMS = [one for one in OUTCOMES if not (one.differs_late or one.unsubscribes)]
"""All others have no seam that these do not have."""


@pytest.mark.longest
async def test_an_order_survives_a_kill_at_each_seam(tmp_path: Path) -> None:
    said: list[str] = []

    async with prepared(tmp_path, said.append) as run:
        points = one_per_seam(await run.record(outcomes=OUTCOMES_WITH_SEAMS))
        results = await run.strike_all(points, LANES, cold=True)

    assert not results.failures, "\n".join([*said, *table(results)])
    assert {strike.point for strike in results.strikes} == set(points)
