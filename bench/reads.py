"""How many rows can a service read by their ids in a second?

A million accounts, a pool of 16 connections, 64 readers and one alone; each reads as a request does, one row, of which
it makes an object. covey's `Work`, in which a read that is nothing else is one statement, against the ORM of
SQLAlchemy, set up as its documentation advises: an asyncio engine on asyncpg with a pool of the same size, sessions
that do not expire on commit, a read by `session.get`. Besides, for comparison: the same with AUTOCOMMIT, and asyncpg
with its own pool. All on uvloop, each a process on core 0.
"""

from __future__ import annotations

from contextlib import AsyncExitStack

from bench.laboratory import Laboratory
from bench.party import running
from bench.read_parties import READERS, ROWS, TABLES
from bench.results import Answer, Figure
from bench.rounds import Measurements, ratios, spread

ROUNDS = 5
SECONDS = 2.0
IN_FLIGHT = (1, 64)
POOL = 16


async def answer(laboratory: Laboratory) -> Answer:
    """Read with all of them, interleaved."""
    url = await laboratory.database(TABLES)
    taken: Measurements = {f"{name} {n}": [] for name in READERS for n in IN_FLIGHT}
    async with AsyncExitStack() as stack:
        settings = {"database_url": url, "pool": POOL}
        parties = {
            name: await stack.enter_async_context(running("read_parties", name, laboratory.log, 0, **settings))
            for name in READERS
        }
        for number in range(-1, ROUNDS):  # the first opens connections and prepares statements
            for in_flight in IN_FLIGHT:
                for name in list(parties) if number % 2 else reversed(parties):
                    rate = await parties[name].ask("reads", in_flight=in_flight, seconds=SECONDS)
                    if number >= 0:
                        taken[f"{name} {in_flight}"].append(rate)
    return _told(taken)


def _told(taken: Measurements) -> Answer:
    told = Answer(title="Reads by id")
    told.text = [
        f"{ROWS:,} rows, a pool of {POOL}; reads a second, {ROUNDS} rounds of {SECONDS:g} s, and the ratio to the ORM.",
        "",
        "| in flight | " + " | ".join(READERS) + " |",
        "|---|" + "---|" * len(READERS),
    ]
    for n in IN_FLIGHT:
        cells = [
            f"{spread(taken[f'{name} {n}'])}; {spread(ratios(taken, f'{name} {n}', f'sqlalchemy {n}'), 1)}"
            for name in READERS
        ]
        told.text.append(f"| {n} | {' | '.join(cells)} |")
    told.figures = [Figure(bar="reads_to_orm", values=ratios(taken, "covey 64", "sqlalchemy 64"))]
    return told
