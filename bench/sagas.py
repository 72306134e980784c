"""What does a saga cost? Four steps in another process, or local ones, against DBOS on the same PostgreSQL.

In the ratios that have bars no step writes anything, on either side: the engines alone. Beside them each step writes a
row. The owner is on core 0, the participant on core 1; DBOS, one process, uses both.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from bench import saga_parties
from bench.laboratory import ALWAYS, DEFAULT, Laboratory
from bench.party import Party, running
from bench.results import Answer, Figure, percentile
from bench.rounds import spread
from covey.ids import new_id

ROUNDS = 5
COUNTS = {1: 30, 16: 300, 64: 600}
FEWER = {"dbos": 4, "dbos, rows": 4}
MORE = {"local": 4, "local, rows": 4}


@dataclass
class Subject:
    """Somebody who runs sagas, and what came of it."""

    party: Party
    how: dict[str, Any]
    rates: dict[int, list[float]] = field(default_factory=dict)
    p50: dict[int, list[float]] = field(default_factory=dict)

    async def run(self, count: int, in_flight: int) -> None:
        """Run so many and remember how fast."""
        ran = await self.party.ask("run", count=count, in_flight=in_flight, **self.how)
        self.rates.setdefault(in_flight, []).append(count / ran["seconds"])
        self.p50.setdefault(in_flight, []).append(percentile(ran["milliseconds"], 0.5))


async def answer(laboratory: Laboratory) -> Answer:
    """Measure every subject at every number in flight once a round."""
    async with AsyncExitStack() as stack:
        subjects = await _subjects(stack, laboratory)
        for subject in subjects.values():
            await subject.party.ask("run", count=40, in_flight=8, **subject.how)
        for number in range(ROUNDS):
            for in_flight, count in COUNTS.items():
                for name in list(subjects) if number % 2 else list(reversed(subjects)):
                    await subjects[name].run(count * MORE.get(name, 1) // FEWER.get(name, 1), in_flight)
    return _told(subjects)


async def _subjects(stack: AsyncExitStack, laboratory: Laboratory) -> dict[str, Subject]:
    subjects: dict[str, Subject] = {}
    for mode in (ALWAYS, DEFAULT):
        owner = await _owner(stack, laboratory, mode)
        subjects[f"remote, sync {mode}"] = Subject(owner, {"which": "remote"})
        subjects[f"remote, rows, sync {mode}"] = Subject(owner, {"which": "remote", "writes": True})
        if mode == ALWAYS:  # local steps meet no broker
            subjects["local"] = Subject(owner, {"which": "local"})
            subjects["local, rows"] = Subject(owner, {"which": "local-rows"})
    for name, writes in (("dbos", False), ("dbos, rows", True)):
        urls = {
            "database_url": await laboratory.bare_database(),
            "tables_url": await laboratory.database(saga_parties.TABLES),
        }
        party = running("dbos_party", "dbos", laboratory.log, None, writes=writes, **urls)
        subjects[name] = Subject(await stack.enter_async_context(party), {})
    return subjects


async def _owner(stack: AsyncExitStack, laboratory: Laboratory, mode: str) -> Party:
    common = {"nats_url": laboratory.nats_urls[mode], "collector": laboratory.collector, "system": new_id().hex}
    parties = []
    for core, role in ((1, "participant"), (0, "owner")):
        url = await laboratory.database(saga_parties.TABLES)
        party = running("saga_parties", role, laboratory.log, core, database_url=url, **common)
        parties.append(await stack.enter_async_context(party))
    return parties[1]


def _told(subjects: dict[str, Subject]) -> Answer:
    told = Answer(title="Sagas")
    told.text = [
        f"Four steps, {ROUNDS} rounds; sagas/s (p50 in ms) at so many in flight.",
        "",
        "| | " + " | ".join(map(str, COUNTS)) + " | to DBOS with as many rows at 16 | at 64 |",
        "|---|" + "---|" * (len(COUNTS) + 2),
    ]
    for name, subject in subjects.items():
        cells = [f"{spread(subject.rates[n])} ({spread(subject.p50[n], 1)})" for n in COUNTS]
        peer = subjects["dbos, rows" if "rows" in name else "dbos"]
        compared = [spread(_ratios(subject, peer, n), 2) for n in (16, 64)]
        told.text.append(f"| {' | '.join([name, *cells, *compared])} |")
    for mode in (ALWAYS, DEFAULT):
        remote = subjects[f"remote, sync {mode}"]
        told.figures += [
            Figure(bar=f"saga_{n}_to_dbos", values=_ratios(remote, subjects["dbos"], n), sync=mode) for n in (16, 64)
        ]
        told.figures.append(Figure(bar="saga_1_p50_ms", values=remote.p50[1], sync=mode))
    told.figures += [
        Figure(bar=f"local_saga_{n}_to_dbos", values=_ratios(subjects["local"], subjects["dbos"], n)) for n in (16, 64)
    ]
    return told


def _ratios(subject: Subject, peer: Subject, in_flight: int) -> list[float]:
    return [one / other for one, other in zip(subject.rates[in_flight], peer.rates[in_flight], strict=True)]
