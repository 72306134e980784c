"""Connections that are lent: at most so many, the last one used first, those who wait served in turn.

Taking one that is free and giving it back are plain function calls: asyncpg's own pool makes a task, two timers and a
proxy of it, which cost more than a short transaction (60 µs of 110 on the measuring machine).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

from covey.database.errors import ServerFull
from covey.errors import DatabaseUnavailable, PoolExhausted

IDLE_SECONDS = 300.0
"""A connection that nobody has needed for so long is closed, down to `keep`."""

FULL_SECONDS = 0.3
"""So often one that waits asks a server for another connection that has granted no more."""

_TOO_LATE: Any = object()
"""What they get in place of a connection whose wait is over."""


class Connections:
    """Lends what `connect` opens: asyncpg's connections. For one event loop."""

    def __init__(self, connect: Callable[[], Awaitable[Any]], size: int, keep: int, wait_seconds: float) -> None:
        self._connect = connect
        self._size = size
        self._keep = keep
        self._wait_seconds = wait_seconds
        self._idle: deque[tuple[Any, float]] = deque()
        self._lent: set[Any] = set()
        self._opening = 0
        self._all_back = asyncio.Event()
        self._waiting: deque[tuple[asyncio.Future[Any], float]] = deque()
        self._looking: asyncio.TimerHandle | None = None
        self._trying: asyncio.TimerHandle | None = None
        self._closed = False
        self.exhausted = 0
        """How many have waited in vain."""
        self.waited: Callable[[float], object] = _forget
        """Told for how many seconds somebody has waited, in vain or not; not of those who found one free."""

    @property
    def waiting(self) -> int:
        """Return how many wait for a connection now."""
        return len(self._waiting)

    @property
    def usage(self) -> tuple[int, int]:
        """Return how many connections are open, and how many of these are idle."""
        return len(self._idle) + len(self._lent), len(self._idle)

    async def open(self) -> None:
        """Open the connections that are kept, so that the first to need one does not wait."""
        taken: list[Any] = []
        try:
            for _ in range(self._keep):
                taken.append(await self.take())
        finally:
            for connection in taken:
                self.give(connection)

    async def take(self) -> Any:
        """Borrow a connection. Raises PoolExhausted when none is free in time, DatabaseUnavailable.

        Whoever has to wait is served before all who come later, also when what comes back is lost and a new one has to
        be opened; turn and opening together take no longer than the wait. Where the server grants no more, what is lent
        already is waited for: with fewer connections than it may have a service is slower, and goes on.
        """
        connection = self._free()
        if connection is not None:
            return connection
        if self._closed:
            raise DatabaseUnavailable("the pool is closed")
        full = ""
        if self._has_room() and not self._waiting:
            self._opening += 1
            try:
                return await self._opened()
            except ServerFull as error:
                if self._closed or not self._lent:
                    raise
                full = f"; {error}"
        begun, again = time.monotonic(), False
        try:
            while True:
                connection = await self._turn(begun, again)
                if connection is not None:
                    return connection
                async with asyncio.timeout(begun + self._wait_seconds - time.monotonic()):
                    try:
                        return await self._opened()
                    except ServerFull as error:
                        if self._closed or not self._lent:
                            raise
                        full, again = f"; {error}", True
        except TimeoutError:
            self.exhausted += 1
            raise PoolExhausted(
                f"no database connection became free within {self._wait_seconds:g} s{full}", timedelta(seconds=1)
            ) from None
        finally:
            self.waited(time.monotonic() - begun)

    def give(self, connection: Any) -> None:
        """Take a connection back. One that was lost, or is in a transaction, is not lent again."""
        self._lent.discard(connection)
        if self._closed or connection.is_closed() or connection.is_in_transaction():
            connection.terminate()
            self._vacate()
        elif (turn := self._next()) is not None:
            self._lent.add(connection)
            turn.set_result(connection)
        else:
            self._idle.append((connection, time.monotonic()))
            self._close_idle()

    async def close(self, patience_seconds: float) -> None:
        """Close all, those that are lent when they come back or when patience is over."""
        self._closed = True
        while self._waiting:
            self._vacate()  # they find the pool closed
        for timer in (self._looking, self._trying):
            if timer is not None:
                timer.cancel()
        idle = [connection for connection, _ in self._idle]
        self._idle.clear()
        if self._lent or self._opening:
            self._all_back.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._all_back.wait(), patience_seconds)
        try:
            await asyncio.gather(*(connection.close(timeout=1) for connection in idle), return_exceptions=True)
        finally:
            for connection in [*idle, *self._lent]:
                connection.terminate()

    def _has_room(self) -> bool:
        return len(self._lent) + self._opening < self._size

    def _free(self) -> Any:
        while self._idle:
            connection, _ = self._idle.pop()
            if not connection.is_closed():
                self._lent.add(connection)
                return connection
        return None

    async def _opened(self) -> Any:
        """Open a connection in a place that is counted for it already."""
        opening = asyncio.create_task(self._open(), name="opening a connection")
        return await uncancelled(opening, self.give)

    async def _open(self) -> Any:
        try:
            if self._closed:
                raise DatabaseUnavailable("the pool is closed")
            connection = await self._connect()
        except BaseException as error:
            self._opening -= 1
            if isinstance(error, ServerFull) and self._lent:
                self._try_again()  # and not now: all who wait would be refused, one after the other
            else:
                self._vacate()
            raise
        self._opening -= 1
        self._lent.add(connection)
        if self._waiting and self._has_room():
            self._vacate()  # the server grants more again
        return connection

    async def _turn(self, begun: float, again: bool) -> Any:
        """Wait for a connection, or (None) for a place in which to open one. Raises TimeoutError when that is over.

        Who could not open one in its place waits `again`, and is still the first.
        """
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[Any] = loop.create_future()
        ends = begun + self._wait_seconds
        if again:
            self._waiting.appendleft((turn, ends))
        else:
            self._waiting.append((turn, ends))
        if again and self._looking is not None:
            self._looking.cancel()  # it may be the next one's
            self._looking = None
        if self._looking is None:
            self._looking = loop.call_later(max(0.0, ends - time.monotonic()), self._end_waits)
        try:
            connection = await turn
        except BaseException:
            self._forgo(turn)
            raise
        if connection is _TOO_LATE:
            raise TimeoutError
        return connection

    def _end_waits(self) -> None:
        """End the waits that are over. All last equally long, so one timer does for them: that of who came first."""
        self._looking = None
        now = time.monotonic()
        while self._waiting:
            turn, ends = self._waiting[0]
            if ends > now and not turn.done():
                self._looking = asyncio.get_running_loop().call_later(ends - now, self._end_waits)
                return
            self._waiting.popleft()
            if not turn.done():
                turn.set_result(_TOO_LATE)

    def _forgo(self, turn: asyncio.Future[Any]) -> None:
        """Pass on what came at the moment at which its taker gave up."""
        if turn.cancelled() or not turn.done():
            for entry in self._waiting:
                if entry[0] is turn:  # else whoever looked for the next has passed over it
                    self._waiting.remove(entry)
                    break
        elif (connection := turn.result()) is None:
            self._opening -= 1
            self._vacate()
        elif connection is not _TOO_LATE:
            self.give(connection)

    def _vacate(self) -> None:
        """Give a place that has become free to who has waited longest; it is taken before anybody else can look."""
        if (turn := self._next()) is not None:
            self._opening += 1
            turn.set_result(None)
        elif not self._lent and not self._opening:
            self._all_back.set()

    def _try_again(self) -> None:
        """Have who has waited longest find out after a while whether the server grants more by now."""
        if self._trying is None:
            self._trying = asyncio.get_running_loop().call_later(FULL_SECONDS, self._try)

    def _try(self) -> None:
        self._trying = None
        if self._waiting and self._has_room():
            self._vacate()

    def _next(self) -> asyncio.Future[Any] | None:
        """Return the turn of who has waited longest, if somebody waits."""
        while self._waiting:
            turn, _ = self._waiting.popleft()
            if not turn.done():
                return turn
        return None

    def _close_idle(self) -> None:
        oldest, since = self._idle[0]
        if len(self._idle) + len(self._lent) > self._keep and time.monotonic() - since > IDLE_SECONDS:
            self._idle.popleft()
            oldest.terminate()


def _forget(seconds: float) -> None:
    """Nobody wants to know."""


async def uncancelled(opening: asyncio.Task[Any], otherwise: Callable[[Any], None]) -> Any:
    """Wait for a connection that is being opened; when we are cancelled it goes to `otherwise` once it is there.

    asyncpg cancelled while it connects leaves a future whose exception nobody fetches, which the loop complains of.
    """
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(
            lambda done: None if done.cancelled() or done.exception() else otherwise(done.result())
        )
        raise
