"""How soon do sagas go on after `kill -9` of their service?

So many are started at once; their process is killed while they are in flight; it is started again, and from the moment
at which it is ready (and, beside it, from the start of the process) the clock runs until each of them has moved.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from uuid import UUID

import asyncpg

from bench import saga_parties
from bench.laboratory import ALWAYS, DEFAULT, Laboratory
from bench.party import running, start
from bench.results import Answer, Figure
from bench.rounds import spread
from covey.ids import new_id

IN_FLIGHT = 100
ROUNDS = 5
PATIENCE_SECONDS = 30
OPEN = "SELECT id, moved_at FROM covey.saga WHERE ended_at IS NULL"
STILL = """
SELECT count(*) FROM unnest($1::uuid[], $2::timestamptz[]) u (id, at) JOIN covey.saga s USING (id)
WHERE s.moved_at = u.at
"""


async def answer(laboratory: Laboratory) -> Answer:
    """Kill, start and wait, in both sync modes."""
    told = Answer(title="Resume")
    told.text = [
        f"{IN_FLIGHT} sagas started, their process killed at once, {ROUNDS} rounds; seconds until each that was open"
        " has moved.",
        "",
        "| sync | open when killed | from ready | from the start of the process |",
        "|---|---|---|---|",
    ]
    for mode in (ALWAYS, DEFAULT):
        rounds = [await _round(laboratory, mode) for _ in range(ROUNDS)]
        columns = [[r[i] for r in rounds] for i in range(3)]
        cells = [mode, spread(columns[0]), spread(columns[1], 2), spread(columns[2], 2)]
        told.text.append(f"| {' | '.join(cells)} |")
        told.figures.append(Figure(bar="resume_s", values=columns[1], sync=mode))
    return told


async def _round(laboratory: Laboratory, mode: str) -> tuple[float, float, float]:
    common = {"nats_url": laboratory.nats_urls[mode], "collector": laboratory.collector, "system": new_id().hex}
    ours = await laboratory.database(saga_parties.TABLES)
    theirs = await laboratory.database(saga_parties.TABLES)
    owner = partial(start, "saga_parties", "owner", laboratory.log, 0, database_url=ours, **common)
    async with running("saga_parties", "participant", laboratory.log, 1, database_url=theirs, **common):
        killed = await owner()
        await killed.ask("start", count=IN_FLIGHT)
        await killed.kill()
        connection = await asyncpg.connect(ours)
        try:
            was_open = await connection.fetch(OPEN)
            begun = time.monotonic()
            restarted = await owner()
            ready = time.monotonic()
            moved = await _all_moved(connection, [row[0] for row in was_open], [row[1] for row in was_open])
            await restarted.end()
            return len(was_open), max(0.0, moved - ready), moved - begun
        finally:
            await connection.close()


async def _all_moved(connection: asyncpg.Connection, ids: list[UUID], moved_at: list[object]) -> float:
    if not ids:
        raise RuntimeError("no saga was open when its process was killed: nothing was measured")
    deadline = time.monotonic() + PATIENCE_SECONDS
    while await connection.fetchval(STILL, ids, moved_at):
        if time.monotonic() > deadline:
            raise RuntimeError(f"not every saga has moved within {PATIENCE_SECONDS} s")
        await asyncio.sleep(0.005)
    return time.monotonic()
