"""The provider's own book: what was authorized, captured, voided and refunded. It is the truth about the money.

One line of JSON for each decision, on disk (fsync) before anybody is told of it, so that the book survives what
the process does not. A line that was being written when the process died is cut off at the next start: nobody was
told of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import orjson

from sandbox_provider.requests import Operation, Request


@dataclass(frozen=True, slots=True)
class Entry:
    """One decision. `done` is the amount in minor units that moved by it; a declined request has moved nothing."""

    at: str
    operation: Operation
    reference: str
    done: int
    currency: str
    token: str
    key: str
    fingerprint: str
    status: int
    answer: dict[str, object]


class Book:
    """All decisions in their order. They are taken one after the other, each once the one before is on disk."""

    def __init__(self, file: FileIO, entries: list[Entry]) -> None:
        self._file = file
        self._entries = entries
        self._by_key = {entry.key: entry for entry in entries}
        self._by_reference: dict[str, list[Entry]] = {}
        for entry in entries:
            self._by_reference.setdefault(entry.reference, []).append(entry)

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

    def entries(self, reference: str | None = None) -> list[Entry]:
        """Return the decisions about one reference, or all."""
        return list(self._entries if reference is None else self._by_reference.get(reference, ()))

    def answered(self, key: str) -> Entry | None:
        """Return the decision that was taken under this key."""
        return self._by_key.get(key)

    def token_of(self, reference: str) -> str:
        """Return the means of payment that a reference was first used with; empty when it is unknown."""
        return next((e.token for e in self.entries(reference) if e.token), "")

    def decide(self, request: Request, decision: Callable[[list[Entry], Request], Entry]) -> Entry:
        """Take a decision in view of all earlier ones about the reference, and write it down for good."""
        entry = decision(self.entries(request.reference), request)
        self._file.write(orjson.dumps(entry) + b"\n")
        os.fsync(self._file.fileno())
        self._entries.append(entry)
        self._by_key[entry.key] = entry
        self._by_reference.setdefault(entry.reference, []).append(entry)
        return entry


def _entry(line: bytes) -> Entry:
    fields = orjson.loads(line)
    return Entry(**fields | {"operation": Operation(fields["operation"])})
