"""NATS's client protocol: publications with their confirmations, and deliveries of JetStream.

Source: https://docs.nats.io/reference/reference-protocols/nats-protocol. What is neither (questions to JetStream,
pings, flow control) passes unseen. A bundle of covey is one publication, and one delivery, with the headers of the
first message in it and the types of all.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from tests.wire.exchange import Arrival, Publication, Stage, Tap
from tests.wire.proxy import Line, both

_WITH_PAYLOAD = (b"PUB", b"HPUB", b"MSG", b"HMSG")


@dataclass(frozen=True, slots=True)
class Frame:
    """One message of the protocol. `words` are those of its first line; `headers` is empty without any."""

    words: list[bytes]
    headers: dict[str, str]
    payload: bytes
    whole: bytes

    @property
    def verb(self) -> bytes:
        """Return its first word, in capitals."""
        return self.words[0].upper() if self.words else b""

    @property
    def subject(self) -> str:
        """Return the subject of a message."""
        return self.words[1].decode()

    @property
    def told(self) -> dict[str, str]:
        """Return the headers of a message, or of the first of a bundle: the types of all are in its `ce-type`."""
        if not self.subject.endswith(".$bundle"):
            return self.headers
        parts = [headers for headers, _ in json.loads(self.payload)]
        types = " + ".join(dict.fromkeys(headers["ce-type"] for headers in parts))
        first = {name: value for name, value in parts[0].items() if name != "Nats-Msg-Id"}
        return self.headers | first | {"ce-type": types}

    @property
    def reply(self) -> str:
        """Return the subject to which an answer is to go, or nothing."""
        fixed = {b"PUB": 3, b"HPUB": 4, b"MSG": 4, b"HMSG": 5}[self.verb]
        at = 2 if self.verb in (b"PUB", b"HPUB") else 3
        return self.words[at].decode() if len(self.words) > fixed else ""


class Frames:
    """Cuts a stream of bytes into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield the frames that are now complete."""
        self._buffer += data
        while (end := self._buffer.find(b"\r\n")) >= 0:
            words = bytes(self._buffer[:end]).split()
            size = 0
            if words and words[0].upper() in _WITH_PAYLOAD:
                size = int(words[-1]) + 2
            if len(self._buffer) < end + 2 + size:
                return
            whole = bytes(self._buffer[: end + 2 + size])
            del self._buffer[: end + 2 + size]
            yield _frame(words, whole, end + 2)


def _frame(words: list[bytes], whole: bytes, at: int) -> Frame:
    if not words or words[0].upper() not in (b"HPUB", b"HMSG"):
        return Frame(words, {}, whole[at:-2], whole)
    head = whole[at : at + int(words[-2])]
    lines = head.decode().split("\r\n")[1:]
    headers = dict(line.split(":", 1) for line in lines if ":" in line)
    return Frame(words, {name: value.strip() for name, value in headers.items()}, whole[at + len(head) : -2], whole)


def with_payload(frame: Frame, payload: bytes) -> bytes:
    """Return the bytes of a publication of something else."""
    head = frame.whole[frame.whole.index(b"\r\n") + 2 : -len(frame.payload) - 2]
    words = [*frame.words[:-1], str(len(head) + len(payload)).encode()]
    return b" ".join(words) + b"\r\n" + head + payload + b"\r\n"


def with_headers(frame: Frame, headers: dict[str, str]) -> bytes:
    """Return the bytes of a publication with other headers."""
    head = b"NATS/1.0\r\n" + b"".join(f"{name}: {value}\r\n".encode() for name, value in headers.items()) + b"\r\n"
    words = [*frame.words[:-2], str(len(head)).encode(), str(len(head) + len(frame.payload)).encode()]
    return b" ".join(words) + b"\r\n" + head + frame.payload + b"\r\n"


async def speak_nats(line: Line, tap: Tap) -> None:
    """Carry a connection to NATS past the tap."""
    waiting: dict[str, Publication] = {}
    await both(_requests(line, tap, waiting), _answers(line, tap, waiting))


async def _requests(line: Line, tap: Tap, waiting: dict[str, Publication]) -> None:
    frames = Frames()
    while data := await line.process.read():
        arrived = [(frame, _published(line, frame)) for frame in frames.feed(data)]
        for (_, publication), (_, behind) in pairwise(arrived):
            if publication is not None:
                publication.next = behind
        for frame, publication in arrived:
            if publication is None:
                await line.server.write(frame.whole)
                continue
            if not await tap.passes(Stage.REQUEST, publication):
                return
            if frame.reply:
                waiting[frame.reply] = publication
            await line.server.write(publication.request)


def _published(line: Line, frame: Frame) -> Publication | None:
    if frame.verb != b"HPUB" or "ce-id" not in (told := frame.told):
        return None
    return Publication(line.session, frame.subject, told, frame.whole)


async def _answers(line: Line, tap: Tap, waiting: dict[str, Publication]) -> None:
    frames = Frames()
    while data := await line.server.read():
        for frame in frames.feed(data):
            exchange = _answered(line, frame, waiting)
            if exchange is None:
                await line.process.write(frame.whole)
                continue
            exchange.answer = frame.whole
            if not await tap.passes(Stage.ANSWER, exchange):
                return
            await line.process.write(exchange.answer)
            if not await tap.passes(Stage.DELIVERED, exchange):
                return


def _answered(line: Line, frame: Frame, waiting: dict[str, Publication]) -> Publication | Arrival | None:
    if frame.verb not in (b"MSG", b"HMSG"):
        return None
    if frame.verb == b"HMSG" and frame.reply.startswith("$JS.ACK."):
        return Arrival(line.session, frame.subject, frame.told)
    return waiting.pop(frame.subject, None)
