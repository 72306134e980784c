"""What the demo and the tour write: plain lines, in colours on a terminal, and at the bottom what goes on just now."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
import time
from typing import TextIO

_PLAIN_PAUSE_SECONDS = 1.0

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
        self._moving = self._stream.isatty() and os.environ.get("TERM") != "dumb"
        self._coloured = self._moving and "NO_COLOR" not in os.environ
        self._dirty = 0
        self._progress = ""
        self._progress_at = -_PLAIN_PAUSE_SECONDS

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
        """Write a head, which may be styled and ends at this column, and beside it a text, folded."""
        first, *rest = self._folded(text, at, indent)
        self.say(f"{head}{first}")
        for line in rest:
            self.say(f"{'':<{at}}{line}")

    def meanwhile(self, text: str, prompt: str = "") -> None:
        """Show what goes on, and below what a key would do, until something else is written.

        Nothing at all when this is no terminal.
        """
        if self._moving:
            lines = [self.styled(self._cut(f"  … {text}"), "dim")]
            lines += [self.styled(self._cut(f"  {prompt}"), "bold")] if prompt else []
            self._stream.write(self._cleared() + "\n".join(lines))
            self._stream.flush()
            self._dirty = len(lines)

    def progress(self, text: str) -> None:
        """Show how far it has come: as `meanwhile`; elsewhere as a line, when it has changed, one a second."""
        now = time.monotonic()
        if self._moving:
            self.meanwhile(text)
        elif text != self._progress and now - self._progress_at >= _PLAIN_PAUSE_SECONDS:
            self._progress, self._progress_at = text, now
            self.say(f"  … {text}")

    def still(self) -> None:
        """Wipe out what moves: nothing goes on any more."""
        self._stream.write(self._cleared())
        self._stream.flush()

    def quote(self, text: str) -> None:
        """Show what another command would print."""
        for line in text.splitlines():
            for part in self._folded(line, 4, 2):
                self.say(self.styled(f"    {part}", "dim"))

    def styled(self, text: str, style: str) -> str:
        """Return the text in a style, if this terminal shows any."""
        return f"\x1b[{_CODES[style]}m{text}\x1b[0m" if self._coloured else text

    def _folded(self, text: str, at: int, indent: int) -> list[str]:
        if len(text) <= self.columns - at:
            return [text]
        width = max(self.columns - at, 20 + indent)
        return textwrap.wrap(
            text, width, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False
        )

    def _cut(self, text: str) -> str:
        """Return what of a text fits on one line, in whole words."""
        if len(text) <= self.columns:
            return text
        return f"{text[: self.columns - 1].rpartition(' ')[0]} …"[: self.columns]

    def _cleared(self) -> str:
        clear = ("", "\r\x1b[K", "\r\x1b[A\x1b[J")[self._dirty]
        self._dirty = 0
        return clear
