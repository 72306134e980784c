"""`covey down`: stop a system from another terminal, and clean up behind one whose supervisor is gone."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

from covey.errors import Unavailable
from covey.local.state import open_state, supervisor_of

_STOP_SECONDS = 60.0


async def bring_down(folder: Path) -> bool:
    """Stop the system of that state folder in order; False when it was not up, and what was left over is ended.

    Raises Unavailable when it takes longer than a minute.
    """
    supervisor = supervisor_of(folder)
    if supervisor is None:
        await (await open_state(folder)).close()
        return False
    os.kill(supervisor, signal.SIGTERM)
    try:
        async with asyncio.timeout(_STOP_SECONDS):
            while supervisor_of(folder) == supervisor:  # noqa: ASYNC110 - another process, it sets no event
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise Unavailable(f"the system is still stopping after {_STOP_SECONDS:.0f} s (pid {supervisor})") from None
    return True
