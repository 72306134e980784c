"""The book of all mails that were taken: the mailboxes of everybody, so to say.

One line of JSON for each mail, on disk (fsync) before the client is told that it was taken, so that the book survives
what the process does not. A line that was being written when the process died is cut off at the next start: nobody
was told of it. A mail that comes twice is in it twice, for no mail server can know better.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import orjson


@dataclass(frozen=True, slots=True)
class Mail:
    """A mail as it arrived. `order` is its X-Order-ID, empty when it has none."""

    at: str
    sender: str
    to: list[str]
    message_id: str
    order: str
    subject: str
    text: str


class Book:
    """All mails in the order of their arrival. One writer: they are written one after the other."""

    def __init__(self, file: FileIO, mails: list[Mail]) -> None:
        self._file = file
        self._mails = mails

    @classmethod
    def open(cls, path: Path) -> Book:
        """Read the book at `path`, or begin one."""
        file = FileIO(path, "a+")
        file.seek(0)
        whole, _, torn = file.readall().rpartition(b"\n")
        if torn:
            file.truncate(len(whole) + 1 if whole else 0)
        return cls(file, [Mail(**orjson.loads(line)) for line in whole.splitlines()])

    def close(self) -> None:
        """Close the file; everything in it is on disk already."""
        self._file.close()

    def mails(self, order: str | None = None, to: str | None = None) -> list[Mail]:
        """Return the mails about an order, to a mailbox, or all."""
        return [mail for mail in self._mails if order in (None, mail.order) and (to is None or to in mail.to)]

    def keep(self, mail: Mail) -> None:
        """Write a mail down for good."""
        self._file.write(orjson.dumps(mail) + b"\n")
        os.fsync(self._file.fileno())
        self._mails.append(mail)
