"""`covey logs`: what the processes of a system wrote, and what they write."""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

from covey.errors import NotFound
from covey.telemetry.rendering import pretty_line

_POLL_SECONDS = 0.1


View = Callable[[str], str]
"""Makes of a line, without its end, what is shown of it; that may be several lines."""


def as_it_is(line: str) -> str:
    """Show a line as it was written."""
    return line


def for_people(line: str, *, colours: bool) -> str:
    """Show a line as a service writes it to a terminal, a stack below it; what is no line of a service as it is."""
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        return line
    if not isinstance(said, dict) or "event" not in said:
        return line
    return pretty_line(said, colours).decode().rstrip("\n")


def show_logs(
    folder: Path, names: Sequence[str], last_lines: int, follow: bool, show: Callable[[str], None], view: View
) -> None:
    """Show the last lines of these processes, of all if none is named; with `follow`, then go on for ever.

    Lines carry the name of their process when there are several. Raises NotFound for a name that never ran.
    """
    known = {path.stem: path for path in sorted((folder / "logs").glob("*.log"))}
    if missing := [name for name in names if name not in known]:
        raise NotFound(f"{missing[0]} has written nothing; there are: {', '.join(known) or 'no logs yet'}")
    chosen = {name: path for name, path in known.items() if not names or name in names}
    files: dict[str, TextIO] = {name: path.open(errors="replace") for name, path in chosen.items()}
    prefixes = {name: f"{name.ljust(max(map(len, files)))} | " if len(files) > 1 else "" for name in files}

    def show_line(name: str, line: str) -> None:
        for shown in view(line).split("\n"):
            show(prefixes[name] + shown)

    for name, file in files.items():
        for line in deque(file, last_lines):
            show_line(name, line.rstrip("\n"))
    while follow:
        for name, path in chosen.items():
            for line in _new_lines(files[name]):
                show_line(name, line)
            files[name] = _current(path, files[name])
        time.sleep(_POLL_SECONDS)


def _new_lines(file: TextIO) -> Iterator[str]:
    """Yield the whole lines written since; half a line waits for its other half."""
    while True:
        position = file.tell()
        line = file.readline()
        if not line.endswith("\n"):
            file.seek(position)
            return
        yield line.rstrip("\n")


def _current(path: Path, file: TextIO) -> TextIO:
    """Return the file that now has this name: a log that grew large was put aside when its process started again."""
    if path.exists() and not os.path.samestat(path.stat(), os.fstat(file.fileno())):
        file.close()
        return path.open(errors="replace")
    return file
