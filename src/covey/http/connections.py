"""The connections to one target: kept alive while they are used, no more than calls are under way.

A call takes the connection that was used last, or makes a new one; it is given back when its answer is whole. How many
there are at a time is the bulkhead's to say. Of those that rest `max_idle` are kept, for less time than servers keep
theirs (uvicorn: 5 s), so that hardly a request meets a connection that is being closed.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from dataclasses import dataclass
from functools import partial
from time import monotonic
from urllib.parse import urlsplit

from covey.errors import ConfigurationError, Defect, DependencyUnavailable
from covey.http.connection import Connection

_HOST = re.compile(r"[A-Za-z0-9.-]{1,253}|\[?[0-9A-Fa-f:.]+\]?")
_PATH = re.compile(r"(/[A-Za-z0-9._~!$&'()*+,;=:@%-]*)*")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a target is. `base` is put before every path."""

    host: str
    port: int
    tls: bool
    base: str

    @classmethod
    def parse(cls, url: str) -> Origin:
        """Read `http://host:port` or `https://host:port/base`. Raises ConfigurationError, without what was given."""
        try:
            parts = urlsplit(url)
            host, port, tls = parts.hostname or "", parts.port, parts.scheme == "https"
        except ValueError:
            host, port, tls = "", None, False
        known = parts.scheme in ("http", "https") if host else False
        if not known or not _HOST.fullmatch(host) or not _PATH.fullmatch(parts.path) or "@" in parts.netloc:
            raise ConfigurationError("the address of a target is http://host:port or https://host:port/path")
        if "?" in url or "#" in url:
            raise ConfigurationError("the address of a target has no query and no fragment: nobody would be sent them")
        if port == 0:
            raise ConfigurationError("the address of a target has the port 0, where nobody can be")
        return cls(host, port or (443 if tls else 80), tls, parts.path.rstrip("/"))

    @property
    def authority(self) -> str:
        """Return the value of the header Host."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"


class Connections:
    """All connections to a target. `close()` ends them, and what is under way on them."""

    def __init__(
        self, target: str, origin: Origin, tls: ssl.SSLContext | None, max_body_bytes: int, max_idle: int, idle: float
    ) -> None:
        self._target = target
        self._origin = origin
        self._tls = (tls or ssl.create_default_context()) if origin.tls else None
        self._max_body_bytes = max_body_bytes
        self._max_idle = max_idle
        self._idle_seconds = idle
        self._idle: list[Connection] = []
        self._all: set[Connection] = set()
        self._making: set[asyncio.Task[tuple[asyncio.Transport, Connection]]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False

    async def close(self) -> None:
        """Close all, at once, and return when they are."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        makings, connections = list(self._making), list(self._all)
        for making in makings:
            making.cancel()  # a handshake lasts for as long as the target likes
        for connection in connections:
            connection.abort()
        if makings:
            await asyncio.wait(makings)
        for connection in connections:
            await connection.lost

    def take(self) -> Connection | None:
        """Return one that rests, the one that was used last; None: there is none. Raises Defect when closed."""
        if self._is_closed:
            raise self._closed()
        oldest = monotonic() - self._idle_seconds
        while self._idle:
            connection = self._idle.pop()
            if connection.idle_since > oldest and connection.is_quiet():
                return connection
            connection.abort()
        return None

    async def connect(self) -> Connection:
        """Return a new one. Raises DependencyUnavailable; Defect when closed."""
        if self._is_closed:
            raise self._closed()
        connection = await self._made()
        if self._is_closed:
            connection.abort()
            raise self._closed()
        if not connection.is_open:
            raise DependencyUnavailable(f"{self._target} closes its connections at once")
        self._all.add(connection)
        connection.lost.add_done_callback(lambda _: self._all.discard(connection))
        return connection

    def give_back(self, connection: Connection) -> None:
        """Let one rest whose answer is whole."""
        if not connection.is_open:
            return
        if self._is_closed or len(self._idle) >= self._max_idle:
            connection.abort()
            return
        connection.idle_since = monotonic()
        self._idle.append(connection)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._idle_seconds, self._look)

    async def _made(self) -> Connection:
        """Make one in a task of its own, so that `close` can end that and leave alone whoever waits for it."""
        origin, new = self._origin, partial(Connection, self._target, self._max_body_bytes)
        opening = asyncio.get_running_loop().create_connection(new, origin.host, origin.port, ssl=self._tls)
        making = asyncio.create_task(opening, name=f"connecting to {self._target}")
        self._making.add(making)
        making.add_done_callback(self._making.discard)
        try:
            _, connection = await making
        except (OSError, UnicodeError) as error:  # a name that no resolver takes
            raise DependencyUnavailable(f"{self._target} cannot be reached: {type(error).__name__}") from None
        except asyncio.CancelledError:
            if making.done() and not making.cancelled() and making.exception() is None:
                making.result()[1].abort()  # it was made in the moment in which nobody wanted it any more
            if self._is_closed and not _is_cancelled():
                raise self._closed() from None
            raise
        return connection

    def _closed(self) -> Defect:
        return Defect(f"{self._target}: the client is closed")

    def _look(self) -> None:
        """Close what has rested for too long; those that were used last stand last."""
        self._timer = None
        oldest = monotonic() - self._idle_seconds
        while self._idle and self._idle[0].idle_since <= oldest:
            self._idle.pop(0).abort()
        if self._idle:
            wait = self._idle[0].idle_since - oldest
            self._timer = asyncio.get_running_loop().call_later(wait, self._look)


def _is_cancelled() -> bool:
    """Tell whether the present task itself is to end, not only what it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
