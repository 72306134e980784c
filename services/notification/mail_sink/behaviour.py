"""How the mail sink misbehaves, and who tells it to: the mailbox that is written to, or the administrator.

    refuse@…     there is no such mailbox (550)
    busy@…       not now (451)
    drop@…       the mail is kept, and the connection cut before it is answered
    silent@…     the mail is kept, and never answered
    slow@…       the mail is answered late, but within what a client waits

`busy-3@…` does so for the first three mails only, and `busy-3+ada@…` is the same for somebody else. Any other mailbox
takes its mail. The administrator can also take the whole server down: every connection is cut as soon as it is made, or
when the next mail is to go over it.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum


class Mode(StrEnum):
    """What happens to a mail; `DOWN`: to a connection."""

    ACCEPT = "accept"
    REFUSE = "refuse"
    BUSY = "busy"
    DROP = "drop"
    SILENT = "silent"
    SLOW = "slow"
    DOWN = "down"


_MAILBOX = re.compile(r"(refuse|busy|drop|silent|slow)(?:-([0-9]{1,3}))?(?:\+[^@]*)?@.*")


@dataclass(slots=True)
class Order:
    """What the administrator has ordered: a mode for the next `calls` calls (None: until further notice)."""

    mode: Mode
    calls: int | None = None


@dataclass(slots=True)
class Behaviour:
    """Decides how each mail and each connection goes. Forgets on restart, which the book does not."""

    order: Order | None = None
    mails: Counter[str] = field(default_factory=Counter)

    def connects(self) -> bool:
        """Tell whether a connection may be used for a mail, and count it if not."""
        if self.order is None or self.order.mode is not Mode.DOWN:
            return True
        self._count(self.order)
        return False

    def next(self, mailbox: str) -> Mode:
        """Count a mail and return its mode. The administrator's order comes before the mailbox."""
        self.mails[mailbox] += 1
        if self.order is not None and self.order.mode is not Mode.DOWN:
            return self._count(self.order)
        script = _MAILBOX.fullmatch(mailbox.lower())
        if script is None or (script[2] and self.mails[mailbox] > int(script[2])):
            return Mode.ACCEPT
        return Mode(script[1])

    def _count(self, order: Order) -> Mode:
        if order.calls is not None:
            order.calls -= 1
            if order.calls <= 0:
                self.order = None
        return order.mode
