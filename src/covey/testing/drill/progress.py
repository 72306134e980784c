"""What a drill says while it runs, and whether somebody wants it to end."""

from __future__ import annotations

import asyncio
import shutil
from typing import TextIO

from covey.testing.drill.record import Record
from covey.testing.drill.schedule import Schedule
from covey.testing.drill.svg import clock

_LINE_SECONDS = 10.0


class Progress:
    """Writes to a stream: on a terminal one line that moves, elsewhere a line every ten seconds."""

    def __init__(self, stream: TextIO) -> None:
        self.interrupted = asyncio.Event()
        self._stream = stream
        self._moving = stream.isatty()
        self._dirty = False
        self._next = 0.0

    def interrupt(self) -> bool:
        """Ask for the end; tell whether that had been asked for before."""
        before = self.interrupted.is_set()
        self.interrupted.set()
        return before

    def say(self, text: str) -> None:
        """Write a line."""
        self._write(f"{self._cleared()}{text}\n")

    def show(self, record: Record, schedule: Schedule) -> None:
        """Show how far the drill has come."""
        line = status(record, schedule)
        if self._moving:
            self._write(self._cleared() + line[: shutil.get_terminal_size().columns - 1])
            self._dirty = True
        elif record.now() >= self._next:
            self._next = record.now() + _LINE_SECONDS
            self._write(f"{line}\n")

    def _cleared(self) -> str:
        clear = "\r\x1b[K" if self._dirty else ""
        self._dirty = False
        return clear

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError:
            return  # nobody watches any more; the drill goes on, and its exit status says the rest


def status(record: Record, schedule: Schedule) -> str:
    """Return in one line how far a drill has come."""
    over = record.now() - schedule.seconds
    when = f"{clock(record.now())} of {clock(schedule.seconds)}" if over < 0 else f"settling {clock(over)}"
    return (
        f"{when}  {len(record.accepts)} accepted, {record.completed} completed"
        f"  {len(record.strikes)} of {len(schedule.faults)} faults, {record.kills} kills"
    )
