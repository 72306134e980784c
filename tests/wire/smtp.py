"""SMTP as a client speaks it that waits for each answer (RFC 5321): commands, and the mail that follows DATA."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator

from tests.wire.exchange import Mailing, Stage, Tap
from tests.wire.proxy import Line, both

DOT = "."
_GO_AHEAD = 354
_COMMAND = re.compile(rb"[^\n]*\n")
_MAIL = re.compile(rb"(?:.*?\r\n)?\.\r\n", re.DOTALL)
_ANSWER = re.compile(rb"(?:[0-9]{3}-[^\n]*\n)*([0-9]{3})(?: [^\n]*)?\n")


class Cutter:
    """Cuts a stream of bytes into what a pattern matches."""

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> None:
        """Take what has arrived."""
        self._buffer += data

    def next(self, pattern: re.Pattern[bytes]) -> re.Match[bytes] | None:
        """Return the next piece if it is complete."""
        found = pattern.match(self._buffer)
        self._buffer = self._buffer[found.end() :] if found else self._buffer
        return found


class Talk:
    """One conversation. `mail_follows`: the server has told the client to go ahead with the mail."""

    def __init__(self) -> None:
        self.mail_follows = False
        self.waiting: deque[Mailing] = deque()
        self._said = Cutter()

    def commands(self, data: bytes) -> Iterator[tuple[str, bytes]]:
        """Yield the commands, or the mail, that are now complete: the line of each, and the whole.

        Raises ValueError for STARTTLS, for what follows cannot be read.
        """
        self._said.feed(data)
        while found := self._said.next(_MAIL if self.mail_follows else _COMMAND):
            line = DOT if self.mail_follows else found[0].decode().strip()
            self.mail_follows = False
            if line.upper() == "STARTTLS":
                raise ValueError("a conversation that is to be encrypted")
            yield line, found[0]


async def speak_smtp(line: Line, tap: Tap) -> None:
    """Carry an SMTP connection past the tap. The greeting, which nobody has asked for, just passes."""
    talk = Talk()
    await both(_requests(line, tap, talk), _answers(line, tap, talk))


async def _requests(line: Line, tap: Tap, talk: Talk) -> None:
    while data := await line.process.read():
        for command, whole in talk.commands(data):
            mailing = Mailing(line.session, command, whole)
            if not await tap.passes(Stage.REQUEST, mailing):
                return
            talk.waiting.append(mailing)
            await line.server.write(mailing.request)


async def _answers(line: Line, tap: Tap, talk: Talk) -> None:
    said = Cutter()
    while data := await line.server.read():
        said.feed(data)
        while found := said.next(_ANSWER):
            if not talk.waiting:
                await line.process.write(found[0])
                continue
            mailing = talk.waiting.popleft()
            mailing.answer, mailing.code = found[0], int(found[1])
            if not await tap.passes(Stage.ANSWER, mailing):
                return
            talk.mail_follows = mailing.code == _GO_AHEAD
            await line.process.write(mailing.answer)
            if not await tap.passes(Stage.DELIVERED, mailing):
                return
