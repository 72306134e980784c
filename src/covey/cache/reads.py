"""`@cached` on a function that reads one thing by its id.

    @cached("product", CacheOptions(ttl=timedelta(minutes=5)))
    async def product_by_id(work: Work, product_id: ProductId) -> Product | None:
        ...

It is called as before. Whoever changes the thing says so twice: `await product_by_id.changing(work, id)` in the
transaction, and `await product_by_id.changed(work, id)` in the handler of the event that tells of it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Generic, TypeVar, get_type_hints
from uuid import UUID

from covey.cache.cache import Cache
from covey.cache.caches import Caches
from covey.cache.options import CacheOptions
from covey.work.unit_of_work import Work

K = TypeVar("K", bound=UUID | int)
V = TypeVar("V")


class CachedRead(Generic[K, V]):
    """A read that is cached where a service runs it, and is only what it was where none does, as in a test of it."""

    def __init__(self, name: str, read: Callable[[Work, K], Awaitable[V]], options: CacheOptions) -> None:
        self.__doc__ = read.__doc__
        self.name = name
        self.options = options
        self._read = read

    @property
    def type(self) -> Any:
        """Return what the read is declared to return: not known before its module is whole."""
        return get_type_hints(self._read)["return"]

    async def __call__(self, work: Work, id_: K) -> V:
        """Return what is kept, or what the read returns, which is then kept: see `Cache.get`.

        In a transaction that has begun it asks the database, for what was written there is for nobody else's eyes.
        """
        if work.begun or (cache := self._cache(work)) is None:
            return await self._read(work, id_)
        return await cache.get(id_, partial(self._read, work, id_))

    async def changing(self, work: Work, *ids: K) -> None:
        """Announce in a transaction that these are about to change: see `Cache.changing`."""
        if (cache := self._cache(work)) is not None:
            await cache.changing(*ids)

    async def changed(self, work: Work, *ids: K) -> None:
        """Forget these after a change: see `Cache.changed`. Raises ValkeyUnavailable."""
        if (cache := self._cache(work)) is not None:
            await cache.changed(*ids)

    def _cache(self, work: Work) -> Cache[V] | None:
        caches: Caches | None = work.resources.get(Caches)
        return None if caches is None else caches.of(self)


def cached(
    name: str, options: CacheOptions | None = None
) -> Callable[[Callable[[Work, K], Awaitable[V]]], CachedRead[K, V]]:
    """Cache what a function reads, under a name that its service gives to no other read.

    The function returns what can be written as JSON and read back, as its annotation says: best a frozen dataclass or
    model, since whoever asks at the same time gets the same object. None says that there is no such thing.
    """
    return lambda read: CachedRead(name, read, options or CacheOptions())
