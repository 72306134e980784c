"""Things that are read and changed, in place of a database, and processes that do it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from covey.cache.cache import Cache
from covey.cache.caches import Caches
from covey.cache.options import CacheOptions
from covey.errors import Invalid
from covey.resilience.bulkhead import BulkheadOptions
from covey.telemetry.metrics import Counter, Metrics
from covey.testing.eventually import eventually
from covey.valkey.client import Valkey, ValkeyOptions

PATIENT = timedelta(seconds=5)
"""How long a server may be silent in tests that are not about that, on a machine that has much else to do."""


@dataclass(frozen=True, slots=True)
class Thing:
    """Something to be read, at a version."""

    id: int
    version: int

    def __post_init__(self) -> None:
        if self.version < 1:
            raise Invalid("versions begin with 1")


@dataclass(frozen=True, eq=False)
class Declaration:
    """A read as it is declared."""

    name: str = "thing"
    options: CacheOptions = field(default_factory=CacheOptions)
    type: Any = Thing | None


def declared(**options: Any) -> Declaration:
    """Return a read with these options; `most` and `waiting` bound its loads."""
    loads = {name: options.pop(name) for name in ("most", "waiting") if name in options}
    return Declaration(options=CacheOptions(loads=BulkheadOptions(**{"most": 8, "waiting": 1_000} | loads), **options))


@dataclass
class Shelf:
    """Where things are. `loads` are the ids that were read; a read sees what is there when it begins.

    With `pause`, a read waits for that, after it has seen.
    """

    versions: dict[int, int] = field(default_factory=dict)
    loads: list[int] = field(default_factory=list)
    pause: Callable[[], Awaitable[object]] | None = None
    most_at_once: int = 0
    _at_once: int = 0

    async def read(self, id_: int) -> Thing | None:
        """Return a thing as it is."""
        self.loads.append(id_)
        version = self.versions.get(id_)
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            await (self.pause() if self.pause else asyncio.sleep(0))
        finally:
            self._at_once -= 1
        return None if version is None else Thing(id_, version)


@dataclass(frozen=True)
class Process:
    """One process of a service, as far as its cache goes."""

    system: str
    valkey: Valkey
    caches: Caches
    cache: Cache[Any]
    metrics: Metrics

    async def get(self, shelf: Shelf, id_: int = 1) -> Thing | None:
        """Read a thing."""
        found: Thing | None = await self.cache.get(id_, lambda: shelf.read(id_))
        return found

    async def raw(self, id_: int = 1) -> bytes | None:
        """Return what stands in Valkey under the key of a thing."""
        entry: bytes | None = await self.valkey.call("GET", self.key(id_))
        return entry

    def key(self, id_: int = 1) -> str:
        """Return the key of a thing."""
        return f"{self.system}:shelf:cache:thing:{id_}"

    def counted(self, metric: str, *labels: str) -> float:
        """Return the value of a series of its metrics."""
        counters = [one for one in self.metrics.all() if one.name == f"covey_cache_{metric}_total"]
        return sum(one.value(("thing", *labels)) for one in counters if isinstance(one, Counter))


@asynccontextmanager
async def process(
    url: str, system: str, read: Declaration | None = None, service: str = "shelf", answer: timedelta = PATIENT
) -> AsyncIterator[Process]:
    """Have a process as long as the block runs."""
    async with Valkey.open(url, ValkeyOptions(name="test", answer=answer)) as valkey:
        metrics = Metrics()
        caches = Caches(valkey, system, service, metrics)
        yield Process(system, valkey, caches, caches.of(read or declared()), metrics)


async def kept_again(one: Process, shelf: Shelf, thing: Thing) -> None:
    """Wait until a process finds a thing in Valkey, and see that it is this one all the time."""
    before = one.counted("reads", "hit")

    async def hit() -> bool:
        if (found := await one.get(shelf, thing.id)) != thing:
            pytest.fail(f"{found} was believed, and it is {thing}")
        return one.counted("reads", "hit") > before

    await eventually(hit)


class Gate:
    """Where reads wait until they are let through. `waiting` says that one is there."""

    def __init__(self) -> None:
        self.waiting = asyncio.Event()
        self.open = asyncio.Event()

    async def __call__(self) -> None:
        """Wait to be let through."""
        self.waiting.set()
        await self.open.wait()
