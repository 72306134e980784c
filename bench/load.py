"""A load generator that one core runs beside the server it loads: N connections, each always waiting for an answer."""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from collections import Counter
from typing import cast

import httptools
import uvloop


def pin(core: int) -> None:
    """Keep this process on one core, where the system can do that."""
    if hasattr(os, "sched_setaffinity") and (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(0, {core})


class Connection(asyncio.Protocol):
    """Sends the request again as soon as its answer is complete."""

    def __init__(self, request: bytes, statuses: Counter[int]) -> None:
        self._request = request
        self._statuses = statuses
        self._parser = httptools.HttpResponseParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one without saying so
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        """Called by the parser."""
        self._statuses[self._parser.get_status_code()] += 1
        self._transport.write(self._request)


async def load(port: int, request: bytes, connections: int, seconds: float) -> tuple[float, Counter[int]]:
    """Return answers a second, and how many had which status."""
    statuses: Counter[int] = Counter()
    loop = asyncio.get_running_loop()
    made = [
        await loop.create_connection(lambda: Connection(request, statuses), "127.0.0.1", port)
        for _ in range(connections)
    ]
    await asyncio.sleep(0.2)
    statuses.clear()
    begun = time.perf_counter()
    await asyncio.sleep(seconds)
    rate, result = statuses.total() / (time.perf_counter() - begun), Counter(statuses)
    for transport, _ in made:
        transport.abort()
    return rate, result


def main() -> None:
    """Load a server and print answers a second; fails when any answer was not a 2xx."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("port", type=int)
    arguments.add_argument("request", help="the bytes of the request, in hexadecimal")
    arguments.add_argument("--connections", type=int, default=64)
    arguments.add_argument("--seconds", type=float, default=3.0)
    given = arguments.parse_args()
    pin(1)
    rate, statuses = uvloop.run(load(given.port, bytes.fromhex(given.request), given.connections, given.seconds))
    if not statuses or any(not 200 <= status < 300 for status in statuses):
        raise SystemExit(f"answers other than 2xx: {dict(statuses)}")
    print(rate)


if __name__ == "__main__":
    main()
