"""`covey down`: stop a system from another terminal, and clean up behind one whose supervisor is gone."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

from covey.errors import Unavailable
from covey.local.origin import copied
from covey.local.processes import read_records
from covey.local.state import killed_supervisor_of, open_state, records_of, supervisor_of

_STOP_SECONDS = 60.0


async def bring_down(folder: Path) -> str:
    """Stop the system of that state folder in order, or end what a killed supervisor has left; say what was found.

    Raises Unavailable when it takes longer than a minute.
    """
    supervisor = supervisor_of(folder)
    if supervisor is None:
        return await _clean_up(folder)
    os.kill(supervisor, signal.SIGTERM)
    try:
        async with asyncio.timeout(_STOP_SECONDS):
            while supervisor_of(folder) == supervisor:  # noqa: ASYNC110 - another process, it sets no event
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise Unavailable(f"the system is still stopping after {_STOP_SECONDS:.0f} s (pid {supervisor})") from None
    return "stopped"


async def _clean_up(folder: Path) -> str:
    copy = copied(folder)
    killed = killed_supervisor_of(folder)
    left = [record.name for record in read_records(records_of(folder)) if record.running()]
    await (await open_state(folder)).close()
    ended = f"ended what was left of it: {', '.join(left)}" if left else "nothing was left of it"
    if copy is not None:
        return f"{copy}\nthe system was not up"
    if killed is not None:
        return f"the system was not up any more, its supervisor (pid {killed}) was killed; {ended}"
    return f"the system was not up; {ended}" if left else "the system was not up"
