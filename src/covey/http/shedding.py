"""How important a route is when not everything can be done: see `covey.resilience.load_shedding`.

    @api.post("/orders")
    @priority(Priority.CRITICAL)     # goes on when browsing is refused
    async def create_order(...): ...

Every route sheds load; one that says nothing is of normal importance. A refusal is 503 with `Retry-After`, before the
caller is identified and before anything is validated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from covey.resilience.load_shedding import Priority

F = TypeVar("F", bound=Callable[..., Any])

_PRIORITY = "covey_priority"


def priority(level: Priority | None) -> Callable[[F], F]:
    """Say how important a route is. None: it is always let in, and counts for nothing, as what the platform asks."""

    def declared(endpoint: F) -> F:
        setattr(endpoint, _PRIORITY, level)
        return endpoint

    return declared


def priority_of(endpoint: Callable[..., Any]) -> Priority | None:
    """Return what a route's function was declared with."""
    found: Priority | None = getattr(endpoint, _PRIORITY, Priority.NORMAL)
    return found
