"""How fast is a backlog worked off, end to end: outbox, relay, stream, inbox, handler?

The outbox is filled while nothing runs; then the relay starts, and the clock runs until the last handler was called.
FastStream on the same server beside it, with neither outbox nor inbox: what its publisher sends is handled meanwhile.
"""

from __future__ import annotations

from bench import event_parties
from bench.laboratory import ALWAYS, DEFAULT, Laboratory
from bench.party import running
from bench.results import Answer, Figure
from bench.rounds import spread
from covey.ids import new_id

COUNT = 12_000
FASTSTREAM_COUNT = 4_000
ROUNDS = 3
HANDLERS = ("parses", "writes", "defers")


async def answer(laboratory: Laboratory) -> Answer:
    """Measure each kind of handler and the peer in both sync modes, interleaved."""
    rates: dict[tuple[str, str], list[float]] = {}
    for _ in range(ROUNDS):
        for mode in (ALWAYS, DEFAULT):
            for how in HANDLERS:
                rates.setdefault((mode, how), []).append(await _covey(laboratory, mode, how))
            rates.setdefault((mode, "FastStream"), []).append(await _faststream(laboratory, mode))
    return _told(rates)


async def _covey(laboratory: Laboratory, mode: str, how: str) -> float:
    common = {"nats_url": laboratory.nats_urls[mode], "collector": laboratory.collector, "system": new_id().hex}
    log, tables = laboratory.log, event_parties.TABLES
    ours, theirs = await laboratory.database(tables), await laboratory.database(tables)
    async with (
        running("event_parties", "filler", log, 0, database_url=ours, **common) as producer,
        running("event_parties", "consumer", log, 1, database_url=theirs, how=how, **common) as consumer,
    ):
        await producer.ask("fill", count=COUNT)
        begun = await producer.ask("relay")
        return COUNT * 1e9 / float(await consumer.ask("wait", count=COUNT) - begun)


async def _faststream(laboratory: Laboratory, mode: str) -> float:
    name = new_id().hex
    common = {"nats_url": laboratory.nats_urls[mode], "stream": name, "subject": f"{name}.placed"}
    async with (
        running("faststream_party", "subscriber", laboratory.log, 1, **common) as subscriber,
        running("faststream_party", "publisher", laboratory.log, 0, **common) as publisher,
    ):
        begun = await publisher.ask("publish", count=FASTSTREAM_COUNT)
        return FASTSTREAM_COUNT * 1e9 / float(await subscriber.ask("wait", count=FASTSTREAM_COUNT) - begun)


def _told(rates: dict[tuple[str, str], list[float]]) -> Answer:
    told = Answer(title="Backlog")
    told.text = [
        f"{COUNT:,} events of 1 KB ({FASTSTREAM_COUNT:,} for FastStream), {ROUNDS} rounds, events/s.",
        "",
        "| sync | " + " | ".join((*HANDLERS, "FastStream")) + " |",
        "|---|" + "---|" * (len(HANDLERS) + 1),
    ]
    for mode in (ALWAYS, DEFAULT):
        cells = [mode, *(spread(rates[mode, how]) for how in (*HANDLERS, "FastStream"))]
        told.text.append(f"| {' | '.join(cells)} |")
        for how in ("writes", "parses"):
            told.figures.append(Figure(bar=f"backlog_{how}", values=rates[mode, how], sync=mode))
    return told
