"""What a request's head may be: uvicorn bounds neither its size nor its time, and takes trailers for headers.

A head that never ends would fill the memory, a connection that never sends one would be kept for ever (slow loris).
Trailers may not be merged into headers (RFC 9110, section 6.5.1): a proxy that removes a header which only it may set
lets a trailer of the same name pass. Nothing here needs them.
"""

from __future__ import annotations

from asyncio import TimerHandle, Transport
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class BoundedHead(HttpToolsProtocol):
    """A connection whose requests begin in time: pass it to uvicorn as `http`.

    A head over `max_bytes` (and what came in one piece with it) is answered with 431. A connection that sends no whole
    head for `seconds`, or goes on sending after its request was answered, is closed.
    """

    max_bytes: ClassVar[int] = 64 * 1024
    seconds: ClassVar[float] = 10.0

    _timer: TimerHandle | None = None
    _in_head = True
    _begun = False
    _size = 0

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]  # uvicorn serves no other
        """Wait for the first head."""
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse, and count what belongs to a head that is not whole yet."""
        was_in_head, self._begun = self._in_head, False
        super().data_received(data)
        if self._in_head:
            self._size += len(data) if was_in_head and not self._begun else 0
            if self._size > self.max_bytes:
                self._refuse()
            self._wait()
        elif self.cycle is not None and self.cycle.response_complete:
            self._wait()

    def on_message_begin(self) -> None:
        """Begin to count."""
        super().on_message_begin()
        self._in_head = self._begun = True
        self._size = 0

    def on_headers_complete(self) -> None:
        """Hand the request over; its headers are final."""
        self._in_head = False
        self._stop_waiting()
        super().on_headers_complete()
        if not self.parser.should_upgrade():
            self.headers = _Trailers()

    def _wait(self) -> None:
        if self._timer is None and not self.transport.is_closing():
            self._timer = self.loop.call_later(self.seconds, self._waited)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _waited(self) -> None:
        self._timer = None
        if self._is_answering():
            self._wait()  # a request before this one is not to blame
        else:
            self.transport.close()

    def _refuse(self) -> None:
        if not self._is_answering():
            self.transport.write(_TOO_LARGE)
        self.transport.close()

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete


class _Trailers(list[Any]):
    """Where headers go that come after the body: nowhere."""

    def append(self, item: Any) -> None:
        """Forget it."""
