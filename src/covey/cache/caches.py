"""What all cached reads of a service share in one process: Valkey, a prefix, an epoch, metrics."""

from __future__ import annotations

import re
from typing import Any, Protocol

from covey.cache.cache import Cache
from covey.cache.entries import Entries
from covey.cache.observation import Observation
from covey.cache.options import CacheOptions
from covey.cache.sessions import Sessions
from covey.errors import DefinitionError
from covey.telemetry.metrics import Metrics
from covey.valkey.client import Valkey

_NAME = re.compile(r"[a-z][a-z0-9_-]*")


class Declared(Protocol):
    """A read as it is declared; no other of its service has its name. `type` is asked for at the first read."""

    @property
    def name(self) -> str: ...

    @property
    def options(self) -> CacheOptions: ...

    @property
    def type(self) -> Any: ...


class Caches:
    """Those of a service of a system; no other has a key in common with it.

    Without a Valkey every read is loaded, once at a time in this process and never too many.
    """

    def __init__(self, valkey: Valkey | None, system: str, service: str, metrics: Metrics) -> None:
        self._prefix = f"{system}:{service}:cache"
        self._sessions = Sessions(valkey, f"{self._prefix}-epoch")
        self._metrics = metrics
        self._caches: dict[Declared, Cache[Any]] = {}

    def of(self, read: Declared) -> Cache[Any]:
        """Return the cache of a read, made when it is first asked for.

        Raises DefinitionError for a name that is none or another's, and for a type that cannot be written as JSON.
        """
        return self._caches.get(read) or self._made(read)

    def _made(self, read: Declared) -> Cache[Any]:
        if not _NAME.fullmatch(read.name):
            raise DefinitionError(f"{read.name!r} cannot name a cached read: lower-case letters, digits, - and _")
        if any(read.name == other.name for other in self._caches):
            raise DefinitionError(f"two cached reads are called {read.name!r}: they would take each other's values")
        entries: Entries[Any] = Entries(read.type, read.options.version)
        observation = Observation(self._metrics, read.name)
        cache = Cache(f"{self._prefix}:{read.name}:", entries, read.options, self._sessions, observation)
        self._caches[read] = cache
        return cache
