"""How soon is a committed event handled, and what does the outbox cost?

150 events a second, open loop: each is written with its effect in one transaction, relayed, stored, and handled by
a handler that writes a row. Then as many as go, one a transaction, with the outbox and without (commit, then
publish), to the same consumer. Producer on core 0, consumer on core 1, a database each.
"""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from typing import Any

from bench import event_parties
from bench.laboratory import ALWAYS, DEFAULT, Laboratory
from bench.party import Party, running
from bench.results import Answer, Figure, percentile
from bench.rounds import spread
from covey.ids import new_id

RATE = 150
SECONDS = 4.0
ROUNDS = 5
COUNT = 2_000
IN_FLIGHT = 16


async def answer(laboratory: Laboratory) -> Answer:
    """Measure both questions in both sync modes, interleaved."""
    paced: dict[str, list[dict[str, float]]] = {mode: [] for mode in (ALWAYS, DEFAULT)}
    saturated: dict[tuple[str, str], list[float]] = {(m, h): [] for m in paced for h in ("outbox", "unsafe")}
    async with AsyncExitStack() as stack:
        pairs = {mode: await _pair(stack, laboratory, mode) for mode in paced}
        for producer, consumer in pairs.values():
            await _paced(producer, consumer, 1.0)
        for number in range(ROUNDS):
            for mode, (producer, consumer) in pairs.items():
                paced[mode].append(await _paced(producer, consumer, SECONDS))
                for how in ("outbox", "unsafe") if number % 2 else ("unsafe", "outbox"):
                    saturated[mode, how].append(await _saturated(producer, consumer, how))
    return _told(paced, saturated)


async def _pair(stack: AsyncExitStack, laboratory: Laboratory, mode: str) -> tuple[Party, Party]:
    common = {"nats_url": laboratory.nats_urls[mode], "collector": laboratory.collector, "system": new_id().hex}
    parties = []
    for core, role, more in ((0, "producer", {"pool_size": 20}), (1, "consumer", {"how": "writes"})):
        url = await laboratory.database(event_parties.TABLES)
        party = running("event_parties", role, laboratory.log, core, database_url=url, **common, **more)
        parties.append(await stack.enter_async_context(party))
    return parties[0], parties[1]


async def _paced(producer: Party, consumer: Party, seconds: float) -> dict[str, float]:
    await consumer.ask("forget")
    sent = await producer.ask("paced", rate=RATE, seconds=seconds)
    await consumer.ask("wait", count=len(sent["n"]))
    seen: dict[str, Any] = await consumer.ask("seen")
    at = dict(zip(seen["n"], seen["at"], strict=True))
    committed = [(at[n] - t) / 1e6 for n, t in zip(sent["n"], sent["committed"], strict=True)]
    begun = [(at[n] - t) / 1e6 for n, t in zip(sent["n"], sent["begun"], strict=True)]
    return {
        "p50": percentile(committed, 0.5),
        "p99": percentile(committed, 0.99),
        "begun p50": percentile(begun, 0.5),
        "begun p99": percentile(begun, 0.99),
    }


async def _saturated(producer: Party, consumer: Party, how: str) -> float:
    """Return events a second from the first transaction's begin to the last handler's call."""
    await consumer.ask("forget")
    begun = time.monotonic_ns()
    await producer.ask("saturated", how=how, count=COUNT, in_flight=IN_FLIGHT)
    return COUNT * 1e9 / float(await consumer.ask("wait", count=COUNT) - begun)


def _told(paced: dict[str, list[dict[str, float]]], saturated: dict[tuple[str, str], list[float]]) -> Answer:
    told = Answer(title="Events")
    told.text = [
        f"{RATE} a second for {SECONDS:g} s, {ROUNDS} rounds; ms from the commit (and from the transaction's begin) to"
        " the handler's first line. Saturated: one event per transaction,"
        f" {IN_FLIGHT} transactions at a time, events/s until handled.",
        "",
        "| sync | commit p50 | commit p99 | begin p50 | begin p99 | outbox | unsafe | ratio |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for mode, rounds in paced.items():
        outbox, unsafe = saturated[mode, "outbox"], saturated[mode, "unsafe"]
        ratio = [one / other for one, other in zip(outbox, unsafe, strict=True)]
        delays = [spread([r[name] for r in rounds], 2) for name in ("p50", "p99", "begun p50", "begun p99")]
        cells = [mode, *delays, spread(outbox), spread(unsafe), spread(ratio, 2)]
        told.text.append(f"| {' | '.join(cells)} |")
        told.figures += [
            Figure(bar="event_p50_ms", values=[r["p50"] for r in rounds], sync=mode),
            Figure(bar="event_p99_ms", values=[r["p99"] for r in rounds], sync=mode),
            Figure(bar="outbox_to_unsafe", values=ratio, sync=mode),
            Figure(bar="event_per_transaction", values=outbox, sync=mode),
        ]
    return told
