"""FastStream, the peer for a backlog: a durable JetStream subscriber with a pydantic model, as its documentation shows.

https://faststream.ag2.ai/latest/nats/jetstream/: neither outbox nor inbox; each message is confirmed when published and
acknowledged when handled.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from faststream.nats import JStream, NatsBroker
from pydantic import BaseModel

from bench.event_parties import TEXT
from bench.party import Deed, play


class Placed(BaseModel):
    """The event, as large as covey's."""

    n: int
    order_id: str
    text: str


@asynccontextmanager
async def publisher(settings: dict[str, Any]) -> AsyncIterator[Mapping[str, Deed]]:
    """Publish with a confirmation for each, 64 at a time."""
    broker = NatsBroker(settings["nats_url"])
    await broker.connect()

    async def publish(count: int, in_flight: int = 64) -> int:
        numbers = iter(range(count))

        async def writer() -> None:
            for n in numbers:
                message = Placed(n=n, order_id=f"order-{n % 997}", text=TEXT)
                await broker.publish(message, settings["subject"], stream=settings["stream"])

        begun = time.monotonic_ns()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(in_flight):
                tasks.create_task(writer())
        return begun

    yield {"publish": publish}
    await broker.stop()


@asynccontextmanager
async def subscriber(settings: dict[str, Any]) -> AsyncIterator[Mapping[str, Deed]]:
    """Parse and acknowledge."""
    broker = NatsBroker(settings["nats_url"])
    seen: set[int] = set()
    changed = asyncio.Event()
    last = 0

    stream = JStream(settings["stream"], subjects=[settings["subject"]])

    @broker.subscriber(settings["subject"], stream=stream, durable="bench", deliver_policy="all")
    async def handle(message: Placed) -> None:
        nonlocal last
        seen.add(message.n)
        last = time.monotonic_ns()
        changed.set()

    async def wait(count: int, seconds: float = 60) -> int:
        async with asyncio.timeout(seconds):
            while len(seen) < count:
                changed.clear()
                await changed.wait()
        seen.clear()
        return last

    await broker.start()
    yield {"wait": wait}
    await broker.stop()


if __name__ == "__main__":
    play({"publisher": publisher, "subscriber": subscriber})
