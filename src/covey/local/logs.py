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
from covey.local.system import ONE_PROCESS
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

    Of services that share a process each has the lines that name it; what names none is the process's own. Lines carry
    the name of who wrote them when there are several. Raises NotFound for a name that never wrote anything.
    """
    paths = sorted((folder / "logs").glob("*.log"), key=lambda path: path.stat().st_mtime)
    files = {path: path.open(errors="replace") for path in paths if not names or path.stem in (*names, ONE_PROCESS)}
    last = {path.stem: deque[str](maxlen=last_lines) for path in paths if not names or path.stem in names}
    for path, file in files.items():
        for line in file:
            name = _writer(path, line)
            if not names or name in names:
                last.setdefault(name, deque(maxlen=last_lines)).append(line.rstrip("\n"))
    if missing := [name for name in names if name not in last]:
        known = sorted({path.stem for path in paths} | {name for path in files for name in _writers(path)})
        raise NotFound(f"{missing[0]} has written nothing; there are: {', '.join(known) or 'no logs yet'}")
    width = max(map(len, last)) if len(last) > 1 else 0

    def show_line(name: str, line: str) -> None:
        for shown in view(line).split("\n"):
            show(f"{name.ljust(width)} | {shown}" if width else shown)

    for name in sorted(last):
        for line in last[name]:
            show_line(name, line)
    while follow:
        for path, file in files.items():
            for line in _new_lines(file):
                if not names or _writer(path, line) in names:
                    show_line(_writer(path, line), line)
            files[path] = _current(path, file)
        time.sleep(_POLL_SECONDS)


def _writers(path: Path) -> set[str]:
    with path.open(errors="replace") as file:
        return {_writer(path, line) for line in file}


def _writer(path: Path, line: str) -> str:
    """Return who wrote a line of that log: the process, or in the log of all services the one that the line names."""
    if path.stem != ONE_PROCESS:
        return path.stem
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        return path.stem
    service = said.get("service") if isinstance(said, dict) else None
    return service if isinstance(service, str) else path.stem


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
