"""Who asks must also read: uvicorn waits for ever until there is room for more of an answer.

A client that asks for much, or for one thing after the other, and reads nothing would hold for ever what an answer
holds: its memory, and its share of what may be under way (slow read, the other end of slow loris).
"""

from __future__ import annotations

import fcntl
import socket
import struct
import sys
import termios
from asyncio import TimerHandle
from contextlib import suppress
from typing import Any, ClassVar

import structlog
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from covey.http.head import BoundedHead

_FORGET = struct.pack("ii", 1, 0)

log = structlog.get_logger("covey.http")


class BoundedAnswer(BoundedHead):
    """A connection whose answers are read, besides: pass it to uvicorn as `http`.

    While more waits to be sent than there is room for, at least `least_bytes` of it must arrive in each
    `unread_seconds`: else the connection is cut. What is under way on it ends as when its client leaves.
    """

    least_bytes: ClassVar[int] = 10 * 1024
    unread_seconds: ClassVar[float] = 10.0

    _reader: TimerHandle | None = None
    _unread = 0
    _running: RequestResponseCycle | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        """End what is under way. uvicorn takes the last request that has come for it, not the first of several."""
        self._stop_looking()
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Look from now on whether the client reads."""
        super().pause_writing()
        self._stop_looking()
        self._look_later()

    def resume_writing(self) -> None:
        """Look no longer: there is room."""
        self._stop_looking()
        super().resume_writing()

    def handle_websocket_upgrade(self) -> None:
        """Look no longer: it is another's connection."""
        self._stop_looking()
        super().handle_websocket_upgrade()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _look_later(self) -> None:
        self._unread = self._count_unread()
        self._reader = self.loop.call_later(self.unread_seconds, self._look)

    def _stop_looking(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            self._reader = None

    def _look(self) -> None:
        if self._unread - self._count_unread() >= self.least_bytes:
            self._look_later()
        else:
            log.info("reader_cut", unread_bytes=self._unread)
            with suppress(OSError):  # or the kernel would go on sending what it has
                self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _FORGET)
            self.transport.abort()

    def _count_unread(self) -> int:
        """Return how much has not arrived. The kernel takes up to megabytes, and says nothing while it sends them."""
        unread = self.transport.get_write_buffer_size()
        if sys.platform == "linux":
            with suppress(OSError):
                file = self.transport.get_extra_info("socket").fileno()
                unread += struct.unpack("i", fcntl.ioctl(file, termios.TIOCOUTQ, bytes(4)))[0]
        return unread
