"""Publishing and reading on each broker, alone: `python -m bench.brokers`. Both sync to disk before they confirm.

Interleaved rounds, medians. The services around a broker cost more than it does: this only shows that neither is in the
way. What is published is what the relay does: chunks, each confirmed before the next, of events or of commands.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import uvloop

from covey.ids import new_id
from covey.local.engines.embedded import STREAMS, EngineOptions, start_engines
from covey.local.state import open_state
from covey.messaging.broker import Broker, Topic
from covey.messaging.brokers.nats import NatsBroker
from covey.messaging.brokers.valkey import ValkeyBroker
from covey.testing.broker_contract import event

ROUNDS = 5
NUMBERS = {1: 500, 32: 8_000, 500: 20_000}
"""How many messages are published in a round, by the size of a chunk."""

Open = Callable[[str], Awaitable[Broker]]


async def measured(open_broker: Open, size: int, kind: str) -> tuple[float, float]:
    """Return messages published and messages read each second, in a stream of its own."""
    broker, number = await open_broker(new_id().hex), NUMBERS[size]
    await broker.ensure_stream("order")
    sent = [replace(event(key=f"k{n % 50}", kind=kind), body=bytes(200)) for n in range(number)]  # type: ignore[arg-type]  # a text here
    begun = time.perf_counter()
    for first in range(0, number, size):
        await broker.publish(sent[first : first + size])
    published = time.perf_counter()
    found = 0
    async with broker.read("order", [Topic(kind)], 0) as reader:  # type: ignore[arg-type]  # a text here
        while found < number:
            found += len(await reader.next(500))
    read = time.perf_counter()
    await broker.close()
    return number / (published - begun), number / (read - published)


async def main() -> None:
    """Print a table."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:  # on a disk, not in memory
        state = await open_state(Path(folder))
        try:
            engines = await start_engines(state, ["nats", STREAMS], EngineOptions())
            brokers: dict[str, Open] = {
                "nats": lambda system: NatsBroker.open(engines["nats"].url, system),
                "valkey": lambda system: ValkeyBroker.open(engines[STREAMS].url, system, reader="shop"),
            }
            print("| kind | chunk | broker | published/s | read/s |\n|---|---|---|---|---|")
            for kind in ("event", "command"):
                for size in NUMBERS:
                    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in brokers}
                    for nth in range(ROUNDS):
                        for name in sorted(brokers, reverse=bool(nth % 2)):
                            rates[name].append(await measured(brokers[name], size, kind))
                    for name, found in rates.items():
                        published, read = (_range([pair[n] for pair in found]) for n in (0, 1))
                        print(f"| {kind} | {size} | {name} | {published} | {read} |", flush=True)
        finally:
            await state.close()


def _range(rates: list[float]) -> str:
    return f"{statistics.median(rates):,.0f} [{min(rates):,.0f}..{max(rates):,.0f}]"


if __name__ == "__main__":
    uvloop.run(main())
