"""What the terminal of `covey up` says of what services have only logged: that a message or a job was given up."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from covey.local.logs import writer
from covey.local.visible import visible

_POLL_SECONDS = 1.0
_GIVEN_UP = ("dead_letter", "job_dead")
_MARKS = [f'"{event}"'.encode() for event in _GIVEN_UP]

Said = dict[str, object]
"""What a service has logged in one line."""


async def tell_of_dead_letters(folder: Path, say: Callable[[str], None], covey: str) -> None:
    """Say for ever which service has given something up since this began, at most once a second for each.

    `covey`: what one types for it.
    """
    tails: dict[Path, _Tail] = {path: _Tail(path, at_end=True) for path in _logs(folder)}
    try:
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            for path in _logs(folder) - set(tails):
                tails[path] = _Tail(path, at_end=False)
            for told in _told((line for tail in tails.values() for line in tail.lines()), covey):
                say(told)
    finally:
        for tail in tails.values():
            tail.close()


def _logs(folder: Path) -> set[Path]:
    return set((folder / "logs").glob("*.log"))


def _told(lines: Iterable[tuple[str, Said]], covey: str) -> Iterator[str]:
    given_up: dict[tuple[str, str], list[Said]] = {}
    for service, said in lines:
        queue = f" --queue {said.get('queue')}" if said["event"] == "job_dead" else ""
        given_up.setdefault((service, queue), []).append(said)
    for (service, queue), several in given_up.items():
        last = several[-1]
        which = f"a job of the queue {last.get('queue')}" if queue else visible(str(last.get("message_type")))
        more = f" and {len(several) - 1} more" if len(several) > 1 else ""
        error = visible(str(last.get("error")))
        yield f"{service} has given up {which}{more}: {error}\n  {covey} dead list {service}{queue}"


class _Tail:
    """The lines of one log that tell of something given up, each with who wrote it."""

    def __init__(self, path: Path, *, at_end: bool) -> None:
        self._path = path
        self._file = path.open("rb")
        self._half = b""
        if at_end:
            self._file.seek(0, os.SEEK_END)

    def lines(self) -> Iterator[tuple[str, Said]]:
        """Yield those that were written since."""
        yield from self._read(self._file)
        if self._was_put_aside():
            self.close()
            self._file, self._half = self._path.open("rb"), b""
            yield from self._read(self._file)

    def close(self) -> None:
        """Read no more."""
        self._file.close()

    def _read(self, file: BinaryIO) -> Iterator[tuple[str, Said]]:
        whole, _, half = (self._half + file.read()).rpartition(b"\n")
        self._half = half
        if any(mark in whole for mark in _MARKS):  # or nothing is looked at: logs are long
            for line in whole.split(b"\n"):
                if (said := _given_up(line)) is not None:
                    yield writer(self._path, line.decode(errors="replace")), said

    def _was_put_aside(self) -> bool:
        try:
            return not os.path.samestat(self._path.stat(), os.fstat(self._file.fileno()))
        except FileNotFoundError:
            return False


def _given_up(line: bytes) -> Said | None:
    if not any(mark in line for mark in _MARKS):
        return None
    try:
        said = json.loads(line)
    except ValueError:
        return None
    return said if isinstance(said, dict) and said.get("event") in _GIVEN_UP else None
