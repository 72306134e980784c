"""One load of a thing at a time in a process, and who may take what it brings.

A load that had begun before somebody asked may have read what was true before he asked, and he may know better: he may
have just written it. So he takes what such a load brings only if Valkey has accepted it, which it does not after a
change. Otherwise he looks again; the next load has not begun by then, and serves all who wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from covey.cache.entries import ABSENT
from covey.errors import DeadlineExceeded


class Flight:
    """A load, led by whoever asked first. `begun`: the loader was called. `accepted`: Valkey has taken the value."""

    __slots__ = ("_landed", "accepted", "begun")

    def __init__(self) -> None:
        self.begun = False
        self.accepted = False
        self._landed: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def brings(self) -> Any:
        """Wait, and return what the load brings, or raise what it raises. ABSENT: look again."""
        in_time = not self.begun
        value = await asyncio.shield(self._landed)
        return value if in_time or self.accepted else ABSENT

    def land(self, value: Any) -> None:
        """Bring a value to all who wait."""
        self._landed.set_result(value)

    def fail(self, error: BaseException) -> None:
        """Bring an error to all who wait, or, where it is the leader's alone, have them look again."""
        if isinstance(error, DeadlineExceeded) or not isinstance(error, Exception):
            self._landed.set_result(ABSENT)
        else:
            self._landed.set_exception(error)
            self._landed.exception()  # the leader raises it, also when nobody waits


class Flights:
    """Those of one read, by key."""

    def __init__(self) -> None:
        self._under_way: dict[str, Flight] = {}

    def under_way(self, key: str) -> Flight | None:
        """Return the load of this that is under way."""
        return self._under_way.get(key)

    def part(self, keys: Iterable[str]) -> None:
        """Have who asks for these from now on share nothing with who has asked before."""
        for key in keys:
            self._under_way.pop(key, None)

    @contextmanager
    def leading(self, key: str) -> Iterator[Flight]:
        """Be who loads it. The block lands the flight, or it fails with what the block raises."""
        flight = self._under_way[key] = Flight()
        try:
            yield flight
        except BaseException as error:
            flight.fail(error)
            raise
        finally:
            if self._under_way.get(key) is flight:
                del self._under_way[key]
