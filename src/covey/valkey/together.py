"""Questions to one script that are asked in one tick of the event loop: they leave as one call of it.

What the server spends on a call of a script before the script begins is more than a short script takes. So the script
is written for many who ask: its KEYS are those of the first who asks, then those of the second, and so on; its
arguments are the same for all. It answers with a list that has one part for each key.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from typing import Any, Protocol

import hiredis

from covey.errors import ValkeyRefused
from covey.valkey.script import Script

Part = str | bytes | int | float
"""A part of a command."""

MOST_KEYS = 128
"""With so many keys a call is full, and who comes then begins another: while it runs the server does nothing else."""


class Answer(Protocol):
    """What takes the answer to a command when it comes: a future, or what hands it on."""

    def done(self) -> bool:
        """Tell whether nobody waits any more."""
        ...

    def set_result(self, result: Any, /) -> None:
        """Take what was answered."""
        ...

    def set_exception(self, exception: Exception, /) -> None:
        """Take why there is no answer."""
        ...


class Together:
    """One call of a script, and who waits for which part of its answer. Whatever goes wrong goes wrong for all."""

    __slots__ = ("_again", "_arguments", "_by_text", "_script", "answers", "keys")

    def __init__(self, script: Script, arguments: Sequence[Part], again: Callable[[Together], None]) -> None:
        hiredis.pack_command(("", *arguments))  # type: ignore[arg-type]  # raises now and not for all who ask later
        self.keys: list[bytes] = []
        self.answers: list[Answer] = []
        self._script = script
        self._arguments = arguments
        self._again = again
        self._by_text = False

    def add(self, keys: Sequence[bytes], answer: Answer) -> None:
        """Take one more who asks, about as many keys as the others."""
        self.keys += keys
        self.answers.append(answer)

    def packed(self) -> bytes:
        """Return the bytes of the call."""
        how = ("EVAL", self._script.text) if self._by_text else ("EVALSHA", self._script.sha)
        command = (*how, len(self.keys), *self.keys, *self._arguments)
        packed: bytes = hiredis.pack_command(command)  # type: ignore[arg-type]  # its stub takes one part only
        return packed

    def done(self) -> bool:
        """Return False: the parts of others are handed out, whoever was cancelled."""
        return False

    def set_result(self, reply: Any) -> None:
        """Hand out the parts. An answer with more or fewer of them is nobody's: who would know whose?"""
        if not isinstance(reply, list) or len(reply) != len(self.keys):
            self.set_exception(ValkeyRefused(f"a script has not answered {len(self.keys)} keys with as many parts"))
            return
        each = len(self.keys) // len(self.answers)
        for number, answer in enumerate(self.answers):
            if not answer.done():
                answer.set_result(reply[number * each : (number + 1) * each])

    def set_exception(self, exception: Exception) -> None:
        """Say it to all; but where the server does not know the script, send it."""
        if isinstance(exception, ValkeyRefused) and exception.code == "NOSCRIPT" and not self._by_text:
            self._by_text = True
            self._again(self)
            return
        for answer in self.answers:
            if not answer.done():
                answer.set_exception(copy(exception))  # each is raised with a traceback of its own
