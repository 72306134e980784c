"""A live collector of spans in a process of its own: it takes every one, counts their bytes and forgets them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

from bench.party import Deed, play
from covey.testing.collector import FakeCollector


@asynccontextmanager
async def collector(settings: dict[str, Any]) -> AsyncIterator[Mapping[str, Deed]]:
    """Collect until the bench ends."""
    received = 0

    async def endpoint() -> str:
        return fake.endpoint

    async def received_bytes() -> int:
        return received

    async def forget() -> None:
        nonlocal received
        while True:
            await asyncio.sleep(0.5)
            received += sum(map(len, fake.bodies))
            fake.bodies.clear()

    with FakeCollector() as fake:
        forgetting = asyncio.create_task(forget())
        yield {"endpoint": endpoint, "received_bytes": received_bytes}
        forgetting.cancel()
        with suppress(asyncio.CancelledError):
            await forgetting


if __name__ == "__main__":
    play({"collector": collector})
