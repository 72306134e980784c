"""PostgreSQL's frontend/backend protocol 3.0, as far as asyncpg speaks it: statements and their answers.

Source: PostgreSQL 18 documentation, chapter 54. No TLS: the request for it is declined, as the embedded server does.
Authentication passes through unseen. Preparing a statement changes nothing and passes at once; what executes it, up
to Sync, is held until the tap has seen all of it, and so is the answer up to ReadyForQuery.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterator

from tests.wire.exchange import Session, Stage, Statement, Tap
from tests.wire.proxy import Line, Socket, both

_SSL_REQUEST, _GSS_REQUEST, _CANCEL_REQUEST = 80877103, 80877104, 80877102


class Frames:
    """Cuts a stream of bytes into messages: a type and a payload each, and the bytes of both."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
        """Yield the messages that are now complete."""
        self._buffer += data
        while len(self._buffer) >= 5:
            end = 1 + int.from_bytes(self._buffer[1:5], "big")
            if len(self._buffer) < end:
                return
            whole = bytes(self._buffer[:end])
            del self._buffer[:end]
            yield whole[:1], whole[5:], whole


class Requests:
    """Puts the messages of a frontend together: bytes to pass at once, or a statement to be executed."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._frames = Frames()
        self._texts: dict[bytes, str] = {}
        self._held = bytearray()
        self._statement: Statement | None = None

    def feed(self, data: bytes) -> Iterator[bytes | Statement]:
        """Yield what is now complete, in order."""
        for kind, payload, whole in self._frames.feed(data):
            yield from self._take(kind, payload, whole)

    def _take(self, kind: bytes, payload: bytes, whole: bytes) -> Iterator[bytes | Statement]:
        match kind:
            case b"Q":
                text = payload[:-1].decode()
                sql = text.removeprefix("BEGIN;") or text
                yield Statement(self._session, sql, [], text.startswith("BEGIN"), text.startswith("COMMIT"), whole)
            case b"P":
                name, text, _ = payload.split(b"\0", 2)
                self._texts[name] = text.decode()
                yield from self._pass(whole)
            case b"B":
                name, arguments = bound(payload)
                text = self._texts.get(name, "")
                statement = self._statement = self._statement or Statement(self._session, "", [])
                statement.begins |= text == "BEGIN"
                statement.commits |= text == "COMMIT"
                if text not in ("BEGIN", "COMMIT"):
                    statement.sql = text
                    statement.arguments.append(arguments)
                self._held += whole
            case b"S" if self._statement is not None:
                statement, self._statement = self._statement, None
                statement.request = bytes(self._held) + whole
                self._held.clear()
                yield statement
            case _:
                yield from self._pass(whole)

    def _pass(self, whole: bytes) -> Iterator[bytes]:
        if self._statement is None:
            yield whole
        else:
            self._held += whole


def bound(payload: bytes) -> tuple[bytes, list[bytes | None]]:
    """Return the statement's name and the arguments of a Bind message."""
    _, name, rest = payload.split(b"\0", 2)
    (formats,) = struct.unpack_from("!h", rest)
    at = 2 + 2 * formats
    (number,) = struct.unpack_from("!h", rest, at)
    return name, _values(rest, at + 2, number)


def row(payload: bytes) -> list[bytes | None]:
    """Return the values of a DataRow message."""
    (number,) = struct.unpack_from("!h", payload)
    return _values(payload, 2, number)


def texts(value: bytes | None) -> list[str]:
    """Return the members of a one-dimensional array of texts in binary form; NULL members are left out."""
    if value is None or int.from_bytes(value[:4], "big") == 0:
        return []
    number = int.from_bytes(value[12:16], "big")
    return [member.decode() for member in _values(value, 20, number) if member is not None]


def numbers(value: bytes | None) -> list[int]:
    """Return the members of a one-dimensional array of bigints in binary form; NULL members are left out."""
    if value is None or int.from_bytes(value[:4], "big") == 0:
        return []
    members = _values(value, 20, int.from_bytes(value[12:16], "big"))
    return [int.from_bytes(member, "big", signed=True) for member in members if member is not None]


def length(value: bytes | None) -> int:
    """Return how many members a one-dimensional array in binary form has."""
    return 0 if value is None or int.from_bytes(value[:4], "big") == 0 else int.from_bytes(value[12:16], "big")


def _values(data: bytes, at: int, number: int) -> list[bytes | None]:
    values: list[bytes | None] = []
    for _ in range(number):
        (size,) = struct.unpack_from("!i", data, at)
        at += 4
        values.append(None if size < 0 else data[at : at + size])
        at += max(size, 0)
    return values


async def speak_postgres(line: Line, tap: Tap) -> None:
    """Carry a connection to PostgreSQL past the tap; `session.role` is its application name."""
    if not await _greeting(line):
        return
    waiting: deque[Statement] = deque()
    await both(_requests(line, tap, waiting), _answers(line, tap, waiting))


async def _greeting(line: Line) -> bool:
    """Pass the first message on; True when it starts a session."""
    while True:
        head = await line.process.reader.readexactly(8)
        size, code = struct.unpack("!ii", head)
        rest = await line.process.reader.readexactly(size - 8)
        if code in (_SSL_REQUEST, _GSS_REQUEST):
            await line.process.write(b"N")
            continue
        await line.server.write(head + rest)
        if code == _CANCEL_REQUEST:
            await line.server.read()
            return False
        settings = rest.split(b"\0")
        named = dict(zip(settings[::2], settings[1::2], strict=False))
        line.session.role = named.get(b"application_name", b"").decode()
        return True


async def _requests(line: Line, tap: Tap, waiting: deque[Statement]) -> None:
    requests = Requests(line.session)
    while data := await line.process.read():
        for one in requests.feed(data):
            if isinstance(one, bytes):
                await line.server.write(one)
                continue
            if not await tap.passes(Stage.REQUEST, one):
                return
            waiting.append(one)
            await line.server.write(one.request)


async def _answers(line: Line, tap: Tap, waiting: deque[Statement]) -> None:
    frames, held = Frames(), bytearray()
    while data := await line.server.read():
        for kind, payload, whole in frames.feed(data):
            if not waiting or kind in b"AN":  # notifications and notices come unasked
                await line.process.write(whole)
                continue
            statement = waiting[0]
            held += whole
            match kind:
                case b"D":
                    statement.rows.append(row(payload))
                case b"C":
                    tag = payload[:-1].decode()
                    if tag not in ("BEGIN", "COMMIT") or statement.sql.startswith(tag):
                        statement.tags.append(tag)
                case b"E":
                    statement.error = _sqlstate(payload)
                case b"Z":
                    if not await _deliver(line.process, tap, statement, bytes(held)):
                        return
                    held.clear()
                    waiting.popleft()


async def _deliver(process: Socket, tap: Tap, statement: Statement, answer: bytes) -> bool:
    if not await tap.passes(Stage.ANSWER, statement):
        return False
    await process.write(answer)
    return await tap.passes(Stage.DELIVERED, statement)


def _sqlstate(payload: bytes) -> str:
    fields = {part[:1]: part[1:].decode(errors="replace") for part in payload.split(b"\0") if part}
    return fields.get(b"C", "unknown")
