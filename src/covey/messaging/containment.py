"""Code of the application, contained: its message fails when it hangs, is cancelled or asks to end the process.

Uncontained, a handler that hangs would keep its batch until PostgreSQL cuts its connection, an answer whose recording
hangs a place that all calls need, and a cancellation or `SystemExit` of a library would end a worker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from datetime import timedelta
from typing import TypeVar

from covey.messaging.failure import TooSlow, leaked

T = TypeVar("T")


async def contained(work: Awaitable[T], span: timedelta, what: str) -> T:
    """Return what the code gives. Raises TooSlow, which tells `what` took longer than `span`, and what the code raises;
    a cancellation or an exit of its own as RuntimeError.
    """
    seconds = span.total_seconds()
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            return await work
    except TimeoutError:
        if limit.expired():
            raise TooSlow(f"{what} took longer than {seconds:g} s") from None
        raise
    except asyncio.CancelledError as error:
        raise leaked(error) from error
    except SystemExit as error:
        raise RuntimeError(f"it asked to end the process: {error}") from error
