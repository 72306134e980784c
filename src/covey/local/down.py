"""`covey down`: stop a system from another terminal, and clean up behind one whose supervisor is gone."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

from covey.errors import Unavailable
from covey.local.origin import copied
from covey.local.processes import read_records
from covey.local.registry import Noted, running_systems
from covey.local.state import is_held, killed_supervisor_of, open_state, records_of, supervisor_of

_STOP_SECONDS = 60.0


async def bring_down(folder: Path) -> str:
    """Stop the system of that state folder in order, or end what a killed supervisor has left; say what was found.

    Returns when nothing that it started runs. Raises Unavailable when it takes longer than a minute.
    """
    supervisor = supervisor_of(folder)
    if supervisor is None:
        return await _clean_up(folder)
    os.kill(supervisor, signal.SIGTERM)
    await _until(lambda: supervisor_of(folder) != supervisor and not _cleans_up(folder), supervisor)
    return "stopped"


async def bring_all_down() -> list[str]:
    """Do so with every system of this user on this machine, all at once; return a line for each.

    Raises Unavailable, after the others are down, with the lines of those that were not to be stopped.
    """
    systems = running_systems()
    told = await asyncio.gather(*map(_bring_down, systems), return_exceptions=True)
    running_systems()  # which forgets those that are down now
    lines = [f"{one.system} ({one.state}): {what}" for one, what in zip(systems, told, strict=True)]
    if any(isinstance(what, BaseException) for what in told):
        raise Unavailable("\n".join(lines))
    return lines


async def _bring_down(noted: Noted) -> str:
    if not noted.alone:
        return await bring_down(noted.state)
    os.kill(noted.supervisor, signal.SIGTERM)
    await _until(lambda: not noted.alone, noted.supervisor)
    return "its state folder was gone; stopped"


async def _until(done: Callable[[], bool], supervisor: int) -> None:
    try:
        async with asyncio.timeout(_STOP_SECONDS):
            while not done():  # noqa: ASYNC110 - another process, it sets no event
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise Unavailable(
            f"the system is still stopping after {_STOP_SECONDS:.0f} s (pid {supervisor}): `covey down` waits on;"
            f" after `kill -9 {supervisor}` it ends what is left, in no order"
        ) from None


def _cleans_up(folder: Path) -> bool:
    return is_held(folder) and supervisor_of(folder) is None


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
