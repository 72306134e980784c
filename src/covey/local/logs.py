"""`covey logs`: what the processes of a system wrote, and what they write."""

from __future__ import annotations

import json
import os
import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from covey.errors import NotFound
from covey.local.system import ONE_PROCESS
from covey.telemetry.rendering import pretty_line

_POLL_SECONDS = 0.1
# In UTC, as services and PostgreSQL write it; NATS and Valkey write the time of the place.
_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d(?:\.\d+)?)(?:Z|\+00:00| UTC)")


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


def writer(path: Path, line: str) -> str:
    """Return who wrote a line of that log: the process, or in the log of all services the one that the line names."""
    if path.stem != ONE_PROCESS:
        return path.stem
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        return path.stem
    service = said.get("service") if isinstance(said, dict) else None
    return service if isinstance(service, str) else path.stem


def show_logs(
    folder: Path, names: Sequence[str], last_lines: int, follow: bool, show: Callable[[str], None], view: View
) -> None:
    """Show the last lines of these processes, or of all, as they came; with `follow`, then go on for ever.

    Of services that share a process each has the lines that name it; what names none is the process's own. Lines carry
    the name of who wrote them when there are several. Raises NotFound for a name that never wrote anything.
    """
    paths = sorted((folder / "logs").glob("*.log"), key=lambda path: (path.stat().st_mtime, path.stem))
    files: dict[Path, TextIO] = {
        path: path.open(errors="replace") for path in paths if not names or path.stem in (*names, ONE_PROCESS)
    }
    try:
        last = {path.stem: deque[str](maxlen=last_lines) for path in files if not names or path.stem in names}
        for name, line in _lines(files, names, whole=follow):
            last.setdefault(name, deque(maxlen=last_lines)).append(line)
        if missing := [name for name in names if name not in last]:
            known = ", ".join(sorted(_writers(paths))) or "no logs yet"
            raise NotFound(f"{missing[0]} has written nothing; there are: {known}")
        width = max(map(len, last)) if len(last) > 1 else 0
        for name, line in _in_order(last):
            _show(name, line, width, show, view)
        while follow:
            for name, line in _lines(files, names):
                _show(name, line, width, show, view)
            files |= {path: _current(path, file) for path, file in files.items()}
            time.sleep(_POLL_SECONDS)
    finally:
        for file in files.values():
            file.close()


def _in_order(lines: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
    """Return the lines of all by their times, with who wrote each; one without a time stays behind the one before."""
    timed: list[tuple[str, str, str]] = []
    for name in sorted(lines):
        time_of_line = ""
        for line in lines[name]:
            found = _TIME.search(line)
            time_of_line = "T".join(found.groups()) if found else time_of_line
            timed.append((time_of_line, name, line))
    return [(name, line) for _, name, line in sorted(timed, key=lambda one: one[0])]


def _show(name: str, line: str, width: int, show: Callable[[str], None], view: View) -> None:
    for shown in view(line).split("\n"):
        show(f"{name.ljust(width)} | {shown}" if width else shown)


def _lines(files: Mapping[Path, TextIO], names: Sequence[str], *, whole: bool = True) -> Iterator[tuple[str, str]]:
    """Yield the lines that were written since, each with who wrote it; those of others are passed over."""
    for path, file in files.items():
        for line in _new_lines(file, whole):
            name = writer(path, line)
            if not names or name in names:
                yield name, line


def _writers(paths: Sequence[Path]) -> set[str]:
    """Return who has a log, or lines in the log of all services."""
    of_all = [path for path in paths if path.stem == ONE_PROCESS]
    lines = [(path, line) for path in of_all for line in path.read_text(errors="replace").splitlines()]
    return {path.stem for path in paths} | {writer(path, line) for path, line in lines}


def _new_lines(file: TextIO, whole: bool) -> Iterator[str]:
    """Yield the lines written since; if they are to be whole, half a line waits for its other half."""
    while True:
        position = file.tell()
        line = file.readline()
        if not line or (whole and not line.endswith("\n")):
            file.seek(position)
            return
        yield line.rstrip("\n")


def _current(path: Path, file: TextIO) -> TextIO:
    """Return the file that now has this name: a log that grew large was put aside when its process started again."""
    if path.exists() and not os.path.samestat(path.stat(), os.fstat(file.fileno())):
        file.close()
        return path.open(errors="replace")
    return file
