"""A call to the outside, from the commit of its intent until what came of it is recorded."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from covey.message import Message
from covey.messaging.delivery import Delivery
from covey.messaging.router import External

GRACE = timedelta(seconds=5)
"""So long, beyond the time of the call, a key is held for who is to settle it."""


@dataclass(frozen=True, slots=True)
class Call:
    """An effect outside that is to be called now that its intent is committed."""

    delivery: Delivery
    message: Message
    intent: Any
    token: UUID
    registration: External[Any]

    @property
    def lease(self) -> timedelta:
        """Return for how long its key is held, from the intent on."""
        return self.registration.timeout + GRACE
