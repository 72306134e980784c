"""What is a cache worth? Validated hits against cashews, a crowd that misses at once, races of readers and writers.

Hits: one process, on core 0, Valkey wherever it likes. The crowd: 1,000 readers in 4 processes, nothing kept. Races:
each thing is read three times and changed once within 50 ms, from two processes, and then looked at from both: at once,
and when the announcement of the change has run out.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from bench.cache_parties import HOLD, TABLES
from bench.laboratory import Laboratory, run_sql
from bench.party import Party, running
from bench.results import Answer, Figure
from bench.rounds import spread
from covey.ids import new_id
from covey.valkey.client import Valkey

ROUNDS = 5
SECONDS = 1.5
IN_FLIGHT = (1, 32, 256)
PROCESSES = 4
CROWD = 1_000
CROWDS = 5
RACES = 10_000
BATCH = 500


async def answer(laboratory: Laboratory) -> Answer:
    """Ask all three."""
    told = Answer(title="Cache")
    rates = await _hits(laboratory)
    loads = await _crowds(laboratory)
    stale, later = await _races(laboratory)
    told.text = [
        f"Validated hits a second of 230 bytes of JSON, {ROUNDS} rounds, at so many in flight.",
        "",
        "| | " + " | ".join(map(str, IN_FLIGHT)) + " |",
        "|---|" + "---|" * len(IN_FLIGHT),
        *(f"| {name} | {' | '.join(spread(rates[name, n]) for n in IN_FLIGHT)} |" for name in ("covey", "cashews")),
        "| ratio | " + " | ".join(spread(_ratios(rates, n), 1) for n in IN_FLIGHT) + " |",
        "",
        f"{CROWD:,} readers in {PROCESSES} processes who miss at once, {CROWDS} times: {spread(loads)} loads.",
        "",
        f"{RACES:,} races of readers and writers: {stale} old values found after the writers had ended, {later} after"
        " the announcements had run out.",
    ]
    told.figures = [
        Figure(bar="cache_32_to_cashews", values=_ratios(rates, 32)),
        Figure(bar="cache_crowd_loads", values=[max(loads)]),
        Figure(bar="cache_stale", values=[stale + later]),
    ]
    return told


async def _hits(laboratory: Laboratory) -> dict[tuple[str, int], list[float]]:
    rates: dict[tuple[str, int], list[float]] = {}
    async with AsyncExitStack() as stack:
        names = {"covey": "ours", "cashews": "theirs"}
        parties = {name: await _party(stack, laboratory, role, new_id().hex, 0) for name, role in names.items()}
        for number in range(ROUNDS + 1):
            for in_flight in IN_FLIGHT:
                for name in list(parties) if number % 2 else list(reversed(parties)):
                    rate = await parties[name].ask("hits", in_flight=in_flight, seconds=SECONDS)
                    if number:  # the first round is to warm up
                        rates.setdefault((name, in_flight), []).append(rate)
    return rates


async def _crowds(laboratory: Laboratory) -> list[float]:
    loads: list[float] = []
    system = new_id().hex
    async with AsyncExitStack() as stack:
        valkey = await stack.enter_async_context(Valkey.open(laboratory.valkey_url))
        parties = [await _party(stack, laboratory, "ours", system) for _ in range(PROCESSES)]
        for key in range(CROWDS):
            how = {"number": CROWD // PROCESSES, "key": 1_000_000 + key, "count": f"{system}:loads:{key}"}
            found = await asyncio.gather(*(party.ask("crowd", **how) for party in parties))
            if sum(found) != CROWD:
                raise RuntimeError(f"only {sum(found)} of {CROWD} found the value")
            loads.append(float(await valkey.call("GET", how["count"])))
    return loads


async def _races(laboratory: Laboratory) -> tuple[int, int]:
    """Return how many old values were found at once, and how many later."""
    url, system = await laboratory.database(TABLES), new_id().hex
    await run_sql(url, f"INSERT INTO thing SELECT n, 1 FROM generate_series(0, {RACES - 1}) n")
    async with AsyncExitStack() as stack:
        parties = [await _party(stack, laboratory, "ours", system, database_url=url) for _ in range(2)]
        reader, writer = parties
        at_once = later = 0
        for first in range(0, RACES, BATCH):
            these = {"first": first, "number": BATCH}
            await asyncio.gather(reader.ask("read", **these), writer.ask("write", **these))
            at_once += sum([await party.ask("stale", version=2, **these) for party in parties])
        await asyncio.sleep(HOLD.total_seconds())
        for _ in range(2):  # the first keeps what the second finds
            for first in range(0, RACES, BATCH):
                how = {"first": first, "number": BATCH, "version": 2}
                later += sum([await party.ask("stale", **how) for party in parties])
    return at_once, later


async def _party(
    stack: AsyncExitStack,
    laboratory: Laboratory,
    role: str,
    system: str,
    core: int | None = None,
    database_url: str = "",
) -> Party:
    url = database_url or await laboratory.database(TABLES)
    settings = {"database_url": url, "valkey_url": laboratory.valkey_url, "system": system}
    party = running("cache_parties", role, laboratory.log, core, **settings)
    return await stack.enter_async_context(party)


def _ratios(rates: dict[tuple[str, int], list[float]], in_flight: int) -> list[float]:
    pairs = zip(rates["covey", in_flight], rates["cashews", in_flight], strict=True)
    return [ours / theirs for ours, theirs in pairs]
