"""Time as a Protocol, so that tests own it.

Two clocks, never mixed: `now` is an instant that may be compared with other machines and may jump;
`monotonic` measures spans in this process and never goes back. What is scheduled across processes
(timeouts, holds) uses neither: PostgreSQL's clock decides.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from functools import partial
from typing import Protocol


class Clock(Protocol):
    """Where time comes from."""

    def now(self) -> datetime:
        """Return the present instant, aware, in UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds since some fixed point; only differences mean anything."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait for that many seconds of this clock."""
        ...


class SystemClock:
    """The machine's clocks."""

    monotonic = staticmethod(time.monotonic)  # both are asked for each call of another service
    now = staticmethod(partial(datetime.now, UTC))

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
