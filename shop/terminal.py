"""What the demo writes: plain lines, in colours on a terminal, with one line at the bottom that says what goes on."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from typing import TextIO

_CODES = {
    "bold": "1",
    "dim": "2",
    "red": "31",
    "green": "32",
    "yellow": "33",
    "blue": "34",
    "magenta": "35",
    "cyan": "36",
}


class Terminal:
    """Writes to a stream; without colours and without the moving line when that is no terminal, or NO_COLOR is set."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._moving = self._stream.isatty()
        self._coloured = self._moving and "NO_COLOR" not in os.environ
        self._dirty = False

    @property
    def columns(self) -> int:
        """Return how wide a line may be."""
        return shutil.get_terminal_size().columns - 1 if self._moving else sys.maxsize

    def say(self, text: str = "") -> None:
        """Write a line."""
        self._stream.write(f"{self._cleared()}{text}\n")
        self._stream.flush()

    def heading(self, text: str) -> None:
        """Begin a part."""
        self.say(f"\n{self.styled(text, 'bold')}")

    def result(self, text: str, *, good: bool, indent: int = 0) -> None:
        """Say that something is as it should be, or not; what does not fit goes on so far to the right."""
        self.beside(f"  {self.styled('✓', 'green') if good else self.styled('✗', 'red')} ", text, 4, indent)

    def beside(self, head: str, text: str, at: int, indent: int = 0) -> None:
        """Write a head, which may be styled and ends at this column, and a text beside it, in lines as many as needed."""
        first, *rest = self._folded(text, at, indent)
        self.say(f"{head}{first}")
        for line in rest:
            self.say(f"{'':<{at}}{line}")

    def meanwhile(self, text: str) -> None:
        """Show what goes on, until something else is written. Nothing at all when this is no terminal."""
        if self._moving:
            width = shutil.get_terminal_size().columns
            self._stream.write(self._cleared() + self.styled(f"  … {text}"[: width - 1], "dim"))
            self._stream.flush()
            self._dirty = True

    def styled(self, text: str, style: str) -> str:
        """Return the text in a style, if this terminal shows any."""
        return f"\x1b[{_CODES[style]}m{text}\x1b[0m" if self._coloured else text

    def _folded(self, text: str, at: int, indent: int) -> list[str]:
        if len(text) <= self.columns - at:
            return [text]
        return textwrap.wrap(text, max(self.columns - at, 20 + indent), subsequent_indent=" " * indent)

    def _cleared(self) -> str:
        clear = "\r\x1b[K" if self._dirty else ""
        self._dirty = False
        return clear
