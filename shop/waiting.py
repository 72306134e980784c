"""Waiting for something to become true, for a limited time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from covey.errors import DeadlineExceeded

T = TypeVar("T")

_POLL_SECONDS = 0.03


async def until(ask: Callable[[], Awaitable[T]], within_seconds: float, otherwise: str) -> T:
    """Ask until the answer is true, and return it. Raises DeadlineExceeded, saying `otherwise`, after so long."""
    try:
        async with asyncio.timeout(within_seconds):
            while True:
                if answer := await ask():
                    return answer
                await asyncio.sleep(_POLL_SECONDS)
    except TimeoutError:
        raise DeadlineExceeded(f"{otherwise} within {within_seconds:g} s") from None
