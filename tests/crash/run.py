"""Runs points: several shops beside each other on the same engines, in each one order after the other."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from traceback import format_exc

from shop.auditor import audit
from tests.crash.lane import Lane, Strike
from tests.crash.points import Point
from tests.harness.floor import Floor, floor
from tests.harness.lanes import lanes_of
from tests.harness.ledger import Ledger
from tests.harness.outcomes import OUTCOMES, Outcome
from tests.harness.shop import open_shop

ATTEMPTS = 16
"""So often an order is run in which a point is not reached, before that is a failure."""

RECORDINGS = 3
"""So often each outcome is recorded where every point is struck: what one alone has seen came about by chance."""

RESUME_SECONDS = 5.0
"""Work goes on at most so long after the process is ready again: what takes longer is stuck, not slow.

The bar of a second is for a quiet machine, and a bench holds it; here several shops share two cores.
"""

POINT_SECONDS = 120.0
"""So long one order may take, with its kill and all that is asked about it. Each part has limits of its own; this one
is for what nobody thought of.
"""

HOPELESS = 20
"""After so many failures there is nothing more to learn from this run."""

Tell = Callable[[str], None]


@dataclass(slots=True)
class Results:
    """What came of a run. `failures` are sentences; none: every kill was survived."""

    strikes: list[Strike] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    missed: Counter[Point] = field(default_factory=Counter)
    orders: int = 0

    def judge(self, strike: Strike) -> list[str]:
        """Enter what came of a kill; return what is wrong with it."""
        self.strikes.append(strike)
        wrong = list(strike.problems)
        if not strike.unfinished and strike.point.when == "before":
            wrong.append("nothing was unfinished at the moment of the kill")
        if strike.resumed_seconds is not None and strike.resumed_seconds > RESUME_SECONDS:
            wrong.append(f"work went on only {strike.resumed_seconds:.2f} s after the process was ready")
        self.failures += [f"{strike.point}: {one}" for one in wrong]
        return wrong


class Run:
    """One run of the crash test on a floor of its own."""

    def __init__(self, ground: Floor, tell: Tell) -> None:
        self._floor = ground
        self._tell = tell
        self._names = count(1)
        self.results = Results()

    async def record(
        self, lanes: int = 1, outcomes: Collection[Outcome] = OUTCOMES, recordings: int = 1
    ) -> list[Point]:
        """Run orders of each outcome undisturbed, in `lanes` shops, and return all points, in order.

        Of several recordings those points that most have seen: two orders whose saga waits for a lock at another moment
        differ in a call, which may not come again in a hundred.
        """
        waiting = deque(outcomes)
        points: dict[str, list[Point]] = {}
        async with asyncio.TaskGroup() as group:
            for _ in range(lanes):
                group.create_task(self._record(waiting, points, recordings))
        return [point for outcome in outcomes for point in points[outcome.name]]

    async def _record(self, waiting: deque[Outcome], points: dict[str, list[Point]], recordings: int) -> None:
        """Record what waits, in one shop.

        What a connection does for the first time is another one's first time in the next run. So one order goes
        ahead of each that is recorded.
        """
        async with self._lane() as lane:
            while waiting:
                outcome = waiting.popleft()
                await lane.record(outcome)
                seen = Counter[Point]()
                for _ in range(recordings):
                    seen.update(await lane.record(outcome))
                points[outcome.name] = [point for point, times in seen.items() if times > recordings / 2]
                if chance := len(seen) - len(points[outcome.name]):
                    self._tell(f"{outcome.name}: {chance} calls that most orders do not make are no points")

    async def strike_all(self, points: Iterable[Point], lanes: int, *, cold: bool = False) -> Results:
        """Kill at every point, in `lanes` shops beside each other, and audit each shop as a whole at its end."""
        waiting = deque(points)
        async with asyncio.TaskGroup() as group:
            for _ in range(lanes):
                group.create_task(self._work(waiting, len(waiting), cold))
        return self.results

    async def _work(self, waiting: deque[Point], total: int, cold: bool) -> None:
        while waiting and len(self.results.failures) < HOPELESS:
            async with self._lane() as lane:
                healthy = True
                while waiting and healthy:
                    healthy = await self._strike(lane, waiting, total, cold)
                if healthy:
                    await self._audit(lane)

    async def _strike(self, lane: Lane, waiting: deque[Point], total: int, cold: bool) -> bool:
        """Run one point; False when the shop is no longer as it should be, and the next needs a new one."""
        point = waiting.popleft()
        outcome = next(one for one in OUTCOMES if one.name == point.outcome)
        self.results.orders += 1
        try:
            async with asyncio.timeout(POINT_SECONDS):
                strike = await lane.strike(point, outcome, cold=cold)
        except Exception as error:  # whatever it was: this point has failed, and the next is struck in a new shop
            self.results.failures.append(f"{point}: {type(error).__name__}: {error}")
            self._tell(f"FAILED  {self.results.failures[-1]} (shop {lane.shop.name})\n{format_exc()}")
            return False
        if strike is None:
            self._missed(point, waiting)
            return True
        wrong = self.results.judge(strike)
        for one in wrong:
            self._tell(f"FAILED  {point}: {one} (shop {lane.shop.name})")
        if len(self.results.strikes) % 25 == 0:
            self._tell(f"{len(self.results.strikes)} of {total} points, {len(self.results.failures)} failures")
        return not wrong

    def _missed(self, point: Point, waiting: deque[Point]) -> None:
        self.results.missed[point] += 1
        if self.results.missed[point] < ATTEMPTS:
            waiting.append(point)
        else:
            self.results.failures.append(f"{point}: not reached in {ATTEMPTS} orders")
            self._tell(f"FAILED  {self.results.failures[-1]}")

    async def _audit(self, lane: Lane) -> None:
        found = await audit(lane.shop.sources)
        self.results.failures += [f"audit of shop {lane.shop.name}: {one}" for one in found.violations]
        self._tell(f"shop {lane.shop.name}: {found.summary()[0]}; {len(found.violations)} violations")

    @asynccontextmanager
    async def _lane(self) -> AsyncIterator[Lane]:
        async with (
            open_shop(self._floor, f"shop{next(self._names)}") as shop,
            Ledger.open(shop.sources) as ledger,
            lanes_of(shop.sources.databases) as lanes,
        ):
            yield Lane(shop, ledger, lanes)


@asynccontextmanager
async def prepared(folder: Path, tell: Tell) -> AsyncIterator[Run]:
    """Have engines and nurseries in a folder for the length of a block, and a run on them."""
    async with floor(folder) as ground:
        yield Run(ground, tell)


def chosen(points: Collection[Point], words: Collection[str]) -> list[Point]:
    """Return the points whose names contain all of these words."""
    return [point for point in points if all(word in str(point) for word in words)]
