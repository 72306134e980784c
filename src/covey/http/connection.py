"""One connection to another service, HTTP/1.1: one exchange at a time, and none after one that did not end well.

Requests are written by us, answers parsed by llhttp (through httptools), which refuses what could be read in two ways:
a length that comes twice, or beside chunks (RFC 9112, section 6.3). A connection is closed, and not used again, when
the caller is cancelled, when anything is wrong with an answer, when the answer says so, when something comes that was
not asked for, and after HEAD, whose answer tells the length of what does not follow.
"""

from __future__ import annotations

import asyncio
import select
from contextlib import suppress

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from covey.errors import DependencyUnavailable, TooLarge

MAX_HEAD_BYTES = 64 * 1024
"""What status and headers of an answer may have."""

_MOST_FRAMING = 4  # bytes on the wire for each byte of the largest body: chunks of one byte have seven


class Answer:
    """What came back, `body` whole. `head` begins with all that came before the body."""

    __slots__ = ("_head", "_headers", "body", "status")

    def __init__(self, status: int, head: bytes, body: bytes) -> None:
        self.status = status
        self.body = body
        self._head = head
        self._headers: list[tuple[bytes, bytes]] | None = None

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """Return the headers as they came; hardly an answer is asked for them, so they are read when it is."""
        if self._headers is None:
            self._headers = _headers(self._head)
        return self._headers

    def header(self, name: str) -> str | None:
        """Return the value of a header, of several the first; the case of names says nothing."""
        wanted = name.lower().encode("latin-1")
        return next((value.decode("latin-1") for known, value in self.headers if known.lower() == wanted), None)


class _NoTransport(asyncio.Transport):
    """What a connection has before it is made."""

    def is_closing(self) -> bool:
        return True

    def abort(self) -> None:
        return None


_NONE = _NoTransport()


class Connection(asyncio.Protocol):
    """A connection to a target; `lost` is done when it is closed."""

    def __init__(self, target: str, max_body_bytes: int) -> None:
        self._target = target
        self._max_body_bytes = max_body_bytes
        self._most_bytes = MAX_HEAD_BYTES + _MOST_FRAMING * max_body_bytes
        self._loop = asyncio.get_running_loop()
        self._parser = HttpResponseParser(self)
        self._transport: asyncio.Transport = _NONE
        self._poll = select.poll()
        self._waiter: asyncio.Future[Answer] = self._loop.create_future()
        self._waiter.cancel()  # nobody waits
        self._reset(is_head=False)
        self.lost: asyncio.Future[None] = self._loop.create_future()
        self.answers = 0
        self.idle_since = 0.0

    @property
    def is_open(self) -> bool:
        """Tell whether a request can be sent on it, as far as this side knows."""
        return not self._transport.is_closing()

    def is_quiet(self) -> bool:
        """Tell whether it is open, and nothing has come that the loop has not looked at: its end, or what nobody asked.

        A server that closed it while it rested is noticed here, before a request is written that nobody would read.
        """
        if self._transport.is_closing():
            return False
        try:
            return not self._poll.poll(0)
        except OSError:  # of no file any more
            return False

    @property
    def is_stale(self) -> bool:
        """Tell whether it has answered before, and was closed without a byte of an answer to what was asked last."""
        return self.answers > 0 and not self._received and self.lost.done()

    def exchange(self, request: bytes, *, is_head: bool) -> asyncio.Future[Answer]:
        """Send a whole request, and return its answer to come: on one that is open, whose last one has come.

        It ends in DependencyUnavailable: there is none, or none that can be read; or in TooLarge. Whoever waits for it
        aborts the connection however that ends but in an answer: not even a cancellation does that by itself.
        """
        self._reset(is_head)
        waiter = self._waiter = self._loop.create_future()
        self._transport.write(request)
        return waiter

    def abort(self) -> None:
        """Close it at once; what is under way has no answer, not the part of one that has come."""
        if not self._waiter.done():
            self._waiter.set_exception(DependencyUnavailable(f"the connection to {self._target} was closed"))
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Be open from now on."""
        self._transport = transport  # type: ignore[assignment]  # of a connection; uvloop's is no subclass
        self._poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)

    def connection_lost(self, exc: Exception | None) -> None:
        """End the exchange under way: an answer without a length ends here, any other is cut off.

        Over TLS none ends so: asyncio does not tell the end from a cut (RFC 9112, section 9.8).
        """
        if not self.lost.done():
            self.lost.set_result(None)
        is_plain = self._transport.get_extra_info("ssl_object") is None
        if self._status and exc is None and self._length() is None and is_plain:
            self._finish()
        elif self._received:
            self._fail(DependencyUnavailable(f"{self._target} cut its answer off"))
        else:
            self._fail(DependencyUnavailable(f"{self._target} closed the connection without an answer"))

    def data_received(self, data: bytes) -> None:
        """Parse what has come."""
        if self._waiter.done():
            self.abort()  # nobody asked
            return
        if not self._status:
            self._head += data
        self._received += len(data)
        if self._received > self._most_bytes:
            self._fail(DependencyUnavailable(f"{self._target} sends more than an answer may have"))
            return
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            self._fail(DependencyUnavailable(f"{self._target} does not speak HTTP: {str(error)[:100]}"))
        if not self._waiter.done():
            self._look_ahead()

    def on_message_begin(self) -> None:
        """Begin with an answer; a second one to one request makes the connection useless."""
        if self._waiter.done():
            self.abort()

    def on_headers_complete(self) -> None:
        """Know the status. That of what only informs (1xx) is none."""
        status = self._parser.get_status_code()
        if status >= 200:
            self._status = status
            if self._is_head:
                self._finish()
                self.abort()

    def on_body(self, part: bytes) -> None:
        """Keep a part of the body."""
        self._size += len(part)
        if self._size > self._max_body_bytes:
            self._fail(self._too_large())
        else:
            self._body.append(part)

    def on_message_complete(self) -> None:
        """Hand the answer over. One that only informs (1xx) is not the answer."""
        if not self._status:
            return
        self._finish()
        if not self._parser.should_keep_alive() or self._transport.get_write_buffer_size():
            self.abort()

    def _reset(self, is_head: bool) -> None:
        self._is_head = is_head
        self._status = self._size = self._received = 0
        self._head = b""
        self._headers: list[tuple[bytes, bytes]] | None = None
        self._body: list[bytes] = []

    def _look_ahead(self) -> None:
        """Give up an answer, not all of which has come, as soon as it is known to be too large."""
        if not self._status:
            if self._received > MAX_HEAD_BYTES:
                self._fail(DependencyUnavailable(f"{self._target} sends more than an answer may have"))
        elif (self._length() or 0) > self._max_body_bytes:
            self._fail(self._too_large())

    def _length(self) -> int | None:
        """Return how long the body will be at least; None: it ends with the connection."""
        if self._headers is None:
            self._headers = _headers(self._head)
        for name, value in self._headers:
            if name.lower() == b"content-length":
                return int(value)  # one number: the parser has seen to that
            if name.lower() == b"transfer-encoding":
                return 0
        return None

    def _finish(self) -> None:
        if not self._waiter.done():
            self.answers += 1
            body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
            self._waiter.set_result(Answer(self._status, self._head, body))

    def _fail(self, error: Exception) -> None:
        if not self._waiter.done():
            self._waiter.set_exception(error)
        self.abort()

    def _too_large(self) -> TooLarge:
        return TooLarge(
            f"{self._target}: the answer has more than {self._max_body_bytes} bytes: ask for less at a time"
        )


class _Reader:
    """Keeps the headers of an answer: none of what only informs (1xx) before it, none that come after its body."""

    def __init__(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self._parser = HttpResponseParser(self)
        self._is_whole = False

    def read(self, head: bytes) -> None:
        with suppress(HttpParserError, HttpParserUpgrade):  # of what comes behind the head
            self._parser.feed_data(head)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._is_whole:
            self.headers.append((name, value.strip(b" \t")))  # the parser leaves what stands behind it

    def on_headers_complete(self) -> None:
        self._is_whole = self._parser.get_status_code() >= 200

    def on_message_complete(self) -> None:
        if not self._is_whole:
            self.headers.clear()


def _headers(head: bytes) -> list[tuple[bytes, bytes]]:
    reader = _Reader()
    reader.read(head)
    return reader.headers
