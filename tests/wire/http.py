"""HTTP/1.1 as a client with small bodies speaks it: requests and answers with a Content-Length, one at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from tests.wire.exchange import Call, Stage, Tap
from tests.wire.proxy import Line, both


@dataclass(frozen=True, slots=True)
class Message:
    """A request or an answer. Names of headers are in lower case."""

    line: str
    headers: dict[str, str]
    body: bytes
    whole: bytes


class Messages:
    """Cuts a stream of bytes into messages. Raises ValueError for a chunked body, which nobody here sends."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Message]:
        """Yield the messages that are now complete."""
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            line, *rest = bytes(self._buffer[:end]).decode().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (one.partition(":") for one in rest)}
            if "transfer-encoding" in headers:
                raise ValueError("a body in chunks")
            total = end + 4 + int(headers.get("content-length", "0"))
            if len(self._buffer) < total:
                return
            whole = bytes(self._buffer[:total])
            del self._buffer[:total]
            yield Message(line, headers, whole[end + 4 :], whole)


async def speak_http(line: Line, tap: Tap) -> None:
    """Carry an HTTP connection past the tap."""
    waiting: deque[Call] = deque()
    await both(_requests(line, tap, waiting), _answers(line, tap, waiting))


async def _requests(line: Line, tap: Tap, waiting: deque[Call]) -> None:
    messages = Messages()
    while data := await line.process.read():
        for message in messages.feed(data):
            call = Call(line.session, message.line, message.headers, message.body, message.whole)
            if not await tap.passes(Stage.REQUEST, call):
                return
            waiting.append(call)
            await line.server.write(call.request)


async def _answers(line: Line, tap: Tap, waiting: deque[Call]) -> None:
    messages = Messages()
    while data := await line.server.read():
        for message in messages.feed(data):
            call = waiting.popleft()
            call.answer, call.status = message.whole, int(message.line.split()[1])
            if not await tap.passes(Stage.ANSWER, call):
                return
            await line.process.write(call.answer)
            if not await tap.passes(Stage.DELIVERED, call):
                return
