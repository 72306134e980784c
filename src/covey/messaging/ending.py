"""The end of tasks that run until they are cancelled.

One cancellation may be lost: `asyncio.wait_for` of Python 3.11 forgets it when what it waits for is done in the same
moment (https://github.com/python/cpython/issues/86296), and the clients of databases and brokers wait so. A task that
tries again for ever then goes on, and who waits for its end waits for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

AGAIN_SECONDS = 3.0
"""So long a cancelled task may take to close what it has open, connections to frozen servers too."""


async def end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks, as often as that takes, until all have ended; how they have ended is nobody's business."""
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        ended, pending = await asyncio.wait(pending, timeout=AGAIN_SECONDS)
        for task in ended:
            _ = task.cancelled() or task.exception()  # or the loop complains that nobody has asked
