"""The carrier's own book: what was booked and what was cancelled. It is the truth about the parcels.

One line of JSON for each decision, on disk (fsync) before anybody is told of it, so that the book survives what the
process does not. A line that was being written when the process died was told to nobody, and is cut off.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import orjson

from sandbox_carrier.requests import Operation, Request


@dataclass(frozen=True, slots=True)
class Entry:
    """One decision. `pieces` is how many were booked or cancelled by it; a declined request is about none."""

    at: str
    operation: Operation
    kind: str
    reference: str
    order: str
    pieces: int
    tracking: str
    key: str
    fingerprint: str
    status: int
    answer: dict[str, object]


Decision = Callable[[list[Entry], str], Entry]
"""Given the earlier entries of a reference and the next tracking number: the entry to be written."""


class Book:
    """All decisions in their order. One writer: decisions are taken one after the other."""

    def __init__(self, file: FileIO, entries: list[Entry]) -> None:
        self._file = file
        self._entries: list[Entry] = []
        self._by_key: dict[str, Entry] = {}
        self._by_reference: dict[str, list[Entry]] = {}
        for entry in entries:
            self._remember(entry)

    @classmethod
    def open(cls, path: Path) -> Book:
        """Read the book at `path`, or begin one."""
        file = FileIO(path, "a+")
        file.seek(0)
        whole, _, torn = file.readall().rpartition(b"\n")
        if torn:
            file.truncate(len(whole) + 1 if whole else 0)
        return cls(file, [_entry(line) for line in whole.splitlines()])

    def close(self) -> None:
        """Close the file; everything in it is on disk already."""
        self._file.close()

    def entries(self, order: str | None = None) -> list[Entry]:
        """Return the decisions about one order, or all."""
        return [entry for entry in self._entries if order in (None, entry.order)]

    def answered(self, key: str) -> Entry | None:
        """Return the decision that was taken under this key."""
        return self._by_key.get(key)

    def tracked(self, tracking: str) -> Entry | None:
        """Return what counts of the parcel of this number: its cancellation, else its booking; None: there is none."""
        booked = next((entry for entry in self._entries if tracking and entry.tracking == tracking), None)
        if booked is None:
            return None
        about = self._by_reference[booked.reference]
        return next((entry for entry in about if entry.operation == Operation.CANCEL), booked)

    def decide(self, request: Request, decision: Decision) -> Entry:
        """Take a decision in view of all earlier ones about the reference, and write it down for good."""
        entry = decision(self._by_reference.get(request.reference, []), f"SC{len(self._entries) + 1:09d}")
        self._file.write(orjson.dumps(entry) + b"\n")
        os.fsync(self._file.fileno())
        self._remember(entry)
        return entry

    def _remember(self, entry: Entry) -> None:
        self._entries.append(entry)
        self._by_key[entry.key] = entry
        self._by_reference.setdefault(entry.reference, []).append(entry)


def _entry(line: bytes) -> Entry:
    fields = orjson.loads(line)
    return Entry(**fields | {"operation": Operation(fields["operation"])})
