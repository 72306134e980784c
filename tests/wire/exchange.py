"""What is seen on the wire: a process asks an engine or somebody outside for something, and is answered.

A tap is told of each exchange three times, and decides each time whether it goes on:

    REQUEST    it has arrived from the process; nothing of it has been passed on
    ANSWER     the other side has done it and answered; the process does not know yet
    DELIVERED  the answer has been handed to the process

A message that comes unasked (a broker's delivery) is an exchange without a request.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol


class Stage(Enum):
    """How far an exchange is."""

    REQUEST = "request"
    ANSWER = "answer"
    DELIVERED = "delivered"


@dataclass(slots=True, eq=False)
class Session:
    """One connection of the process. `role` is what the process calls it; `memory` is for who watches it."""

    number: int
    role: str = ""
    memory: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Statement:
    """A statement sent to PostgreSQL, as often as it is executed in one go.

    `begins` and `commits`: BEGIN or COMMIT is sent along, or is all that is sent. `rows`, `tags` (its own) and `error`
    (an SQLSTATE) are known with the answer. Values are as on the wire: asyncpg's binary.
    """

    session: Session
    sql: str
    arguments: list[list[bytes | None]]
    begins: bool = False
    commits: bool = False
    request: bytes = b""
    rows: list[list[bytes | None]] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    error: str = ""


@dataclass(slots=True, eq=False)
class Publication:
    """A message published to NATS with the wish for a confirmation, and what the server answered.

    `next` is the publication that has arrived right behind it, if one has.
    """

    session: Session
    subject: str
    headers: dict[str, str]
    request: bytes = b""
    answer: bytes = b""
    next: Publication | None = None


@dataclass(slots=True, eq=False)
class Arrival:
    """A stored message that NATS delivers."""

    session: Session
    subject: str
    headers: dict[str, str]
    answer: bytes = b""


@dataclass(slots=True, eq=False)
class Call:
    """An HTTP request and its answer; `status` is 0 while there is none."""

    session: Session
    line: str
    headers: dict[str, str]
    body: bytes
    request: bytes = b""
    answer: bytes = b""
    status: int = 0


@dataclass(slots=True, eq=False)
class Mailing:
    """A command to a mail server, or a mail, whose `line` is the dot at its end; `code` is 0 without an answer."""

    session: Session
    line: str
    request: bytes = b""
    answer: bytes = b""
    code: int = 0


Exchange = Statement | Publication | Arrival | Call | Mailing


class Tap(Protocol):
    """Watches what passes, and decides. Called for one exchange of a connection at a time."""

    async def passes(self, stage: Stage, exchange: Exchange) -> bool:
        """Return whether the exchange goes on; False keeps it from the other side for good. May take its time."""
        ...


class Open:
    """Lets everything pass."""

    async def passes(self, stage: Stage, exchange: Exchange) -> bool:
        """See Tap."""
        return True
