"""What order needs of others."""

from __future__ import annotations

from typing import Protocol

from order_service.domain import UserId


class Customers(Protocol):
    """Who knows the customers."""

    async def name_of(self, user_id: UserId) -> str | None:
        """Return what to call a customer, None when there is no such account (any more). Raises Unavailable."""
        ...
