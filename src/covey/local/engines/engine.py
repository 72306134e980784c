"""An engine is a server that covey brings along as a wheel; this starts any of them and keeps hold of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from covey.errors import Unavailable
from covey.local.processes import Launch, Process
from covey.local.state import StateFolder, log_of

_READY_SECONDS = 20.0
_POLL_SECONDS = 0.01
_PAUSES_SECONDS = (0.1, 0.2, 0.4, 0.8)
"""Between attempts: the port went to somebody else meanwhile, or children of a killed server are still leaving."""
STOP_SECONDS = 10.0


class Engine(Protocol):
    """One server: its files, its command, and how to see that it is up. `url` holds its password."""

    url: str

    def prepare(self) -> Launch:
        """Make the files that it needs, those of an earlier run kept, and return how to run it. Blocks."""
        ...

    async def obstacle(self) -> str | None:
        """Connect as a client would and return None, or why it does not accept our work (yet)."""
        ...


class EngineFailed(Unavailable):
    """An engine does not start. The message ends with the last lines of its log."""


class RunningEngine:
    """An engine that has answered."""

    def __init__(self, url: str, process: Process) -> None:
        self.url = url
        self.process = process

    @property
    def pid(self) -> int:
        """Return the pid of the server."""
        return self.process.pid

    async def stop(self) -> None:
        """Stop it in order, its data safe; after a while by force."""
        await self.process.end(STOP_SECONDS)


async def start(state: StateFolder, name: str, make: Callable[[int], Engine]) -> RunningEngine:
    """Start an engine on the port that the folder remembers for it and return when it answers.

    Raises EngineFailed when it ends by itself, again and again, or does not answer in time.
    """
    for pause in (*_PAUSES_SECONDS, None):
        engine = make(state.port(name))
        process = state.spawn(await asyncio.to_thread(engine.prepare))
        try:
            obstacle = await _overcome(engine, process)
        except BaseException:
            await process.end(0)
            raise
        if obstacle is None:
            return RunningEngine(engine.url, process)
        if process.status is None or pause is None:
            break
        await asyncio.sleep(pause)
    await process.end(0)
    raise EngineFailed(f"{name} does not start: {obstacle}. Its log ends:\n{_tail(state, name)}")


async def _overcome(engine: Engine, process: Process) -> str | None:
    """Wait until nothing is in the way, the server has ended by itself, or time is up; return what then still is."""
    deadline = asyncio.get_running_loop().time() + _READY_SECONDS
    while (obstacle := await engine.obstacle()) is not None:
        if process.status is not None:
            return f"it ended with status {process.status}"
        if asyncio.get_running_loop().time() > deadline:
            return obstacle
        await asyncio.sleep(_POLL_SECONDS)
    return None


def _tail(state: StateFolder, name: str) -> str:
    lines = log_of(state.path, name).read_text(errors="replace").splitlines()
    return "\n".join(f"  {line}" for line in lines[-8:])
