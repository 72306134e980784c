"""The keys that somebody presses, one at a time, while the terminal shows something else."""

from __future__ import annotations

import asyncio
import os
import sys
import termios
import tty
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Quit(Exception):
    """Whoever sits there has seen enough."""


class Skipped(Exception):
    """Whoever sits there wants to see the next act."""


class Keys(Protocol):
    """Somebody at the keyboard, or nobody."""

    @property
    def attended(self) -> bool:
        """Tell whether there is anybody to wait for."""
        ...

    def take(self) -> str | None:
        """Return the next key that was pressed, or None."""
        ...


class Nobody:
    """No keyboard: nothing is waited for."""

    attended = False

    def take(self) -> str | None:
        """Return that no key was pressed."""
        return None


class Keyboard:
    """The keys of a terminal. One that has gone away counts as `q`."""

    attended = True

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._pressed: deque[str] = deque()

    def take(self) -> str | None:
        """Return the next key that was pressed, or None."""
        return self._pressed.popleft() if self._pressed else None

    def read(self) -> None:
        """Keep what was pressed; called when there is something."""
        try:
            pressed = os.read(self._descriptor, 1_024).decode(errors="replace")
        except OSError:
            pressed = ""
        if not pressed:
            asyncio.get_running_loop().remove_reader(self._descriptor)  # it would be called for ever
        self._pressed.extend(pressed or "q")


@contextmanager
def keyboard() -> Iterator[Keyboard]:
    """Hear each key of standard input as it is pressed, unseen; Ctrl-C stays a signal. As before at the end."""
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    keys = Keyboard(descriptor)
    tty.setcbreak(descriptor)
    asyncio.get_running_loop().add_reader(descriptor, keys.read)
    try:
        yield keys
    finally:
        asyncio.get_running_loop().remove_reader(descriptor)
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
