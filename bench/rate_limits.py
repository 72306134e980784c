"""How many decisions of a rate limiter are there in a second, over Valkey, by callers that wait for their answers?

The peer is `limits`, which slowapi stands on, by its asyncio client for Valkey and its fixed window, which is its
quickest strategy. 2,000 subjects in turn, all admitted.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable

from limits import parse
from limits.aio.strategies import FixedWindowRateLimiter
from limits.storage import storage_from_string

from bench.laboratory import Laboratory
from bench.results import Answer, Figure
from bench.rounds import Measurements, ratios, spread
from covey.ids import new_id
from covey.resilience.rate_limit import RateLimit, RateLimiter
from covey.valkey.client import Valkey

ROUNDS = 5
SECONDS = 1.5
SUBJECTS = 2_000
IN_FLIGHT = (1, 32, 256)

Decide = Callable[[str], Awaitable[bool]]


async def answer(laboratory: Laboratory) -> Answer:
    """Measure both at every concurrency, interleaved."""
    limit = "1000000/minute"
    async with Valkey.open(laboratory.valkey_url) as valkey:
        ours = RateLimiter(valkey, new_id().hex)
        mine = [("default", RateLimit.parse(limit))]

        async def covey(subject: str) -> bool:
            return (await ours.take(subject, mine)).admitted

        storage = storage_from_string(f"async+{laboratory.valkey_url}", implementation="valkey", max_connections=256)
        theirs, item = FixedWindowRateLimiter(storage), parse(limit)  # type: ignore[arg-type]  # an async storage

        async def peer(subject: str) -> bool:
            return await theirs.hit(item, subject)

        taken: Measurements = {f"{name} {n}": [] for n in IN_FLIGHT for name in ("covey", "limits")}
        subjects: dict[str, Decide] = {"covey": covey, "limits": peer}
        for number in range(-1, ROUNDS):  # the first opens connections
            for in_flight in IN_FLIGHT:
                for name in subjects if number % 2 else reversed(subjects):
                    rate = await _rate(subjects[name], in_flight)
                    if number >= 0:
                        taken[f"{name} {in_flight}"].append(rate)
    return _told(taken)


async def _rate(decide: Decide, in_flight: int) -> float:
    numbers, ends = itertools.count(), time.perf_counter() + SECONDS
    begun = time.perf_counter()

    async def caller() -> int:
        done = 0
        while time.perf_counter() < ends:
            if not await decide(f"user:{next(numbers) % SUBJECTS}"):
                raise RuntimeError("a request was refused that is within its limit")
            done += 1
        return done

    counts = await asyncio.gather(*(caller() for _ in range(in_flight)))
    return sum(counts) / (time.perf_counter() - begun)


def _told(taken: Measurements) -> Answer:
    told = Answer(title="Rate limits")
    told.text = [
        f"Decisions a second, {ROUNDS} rounds of {SECONDS:g} s each.",
        "",
        "| in flight | covey | limits | ratio |",
        "|---|---|---|---|",
    ]
    for n in IN_FLIGHT:
        found = ratios(taken, f"covey {n}", f"limits {n}")
        told.text.append(
            f"| {n} | {spread(taken[f'covey {n}'])} | {spread(taken[f'limits {n}'])} | {spread(found, 1)} |"
        )
        if n > 1:
            told.figures.append(Figure(bar=f"rate_limits_{n}", values=found))
    return told
