"""What notification needs of a mail server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from notification_service.domain import Letter


@dataclass(frozen=True, slots=True)
class Accepted:
    """The mail server has taken the mail, and answers for it from now on."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """The mail server has definitely not taken the mail, and will not. `reason` holds nothing personal."""

    reason: str


class Mailer(Protocol):
    """Hands mail to a mail server.

    Raises DependencyUnavailable when it is not known whether the mail was taken. It is then to be handed over again,
    and may arrive twice: mail has no idempotency key. Both have the same Message-ID.
    """

    async def send(self, letter: Letter) -> Accepted | Rejected:
        """Hand one mail over."""
        ...
