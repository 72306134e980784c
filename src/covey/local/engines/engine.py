"""Start an engine, a server that covey brings along as a wheel, and keep hold of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from covey.errors import Unavailable
from covey.local.processes import Process
from covey.local.program import Program, until_up
from covey.local.state import StateFolder, tail_of

_READY_SECONDS = 20.0
_PAUSES_SECONDS = (0.1, 0.2, 0.4, 0.8)
"""Between attempts: the port went to somebody else meanwhile, or children of a killed server are still leaving."""
STOP_SECONDS = 10.0


class EngineFailed(Unavailable):
    """An engine does not start. The message ends with the last lines of its log."""


class RunningEngine:
    """An engine that has answered."""

    def __init__(self, program: Program, process: Process) -> None:
        self.program = program
        self.process = process

    @property
    def url(self) -> str:
        """Return its address, with the password."""
        return self.program.url

    @property
    def pid(self) -> int:
        """Return the pid of the server."""
        return self.process.pid

    async def stop(self) -> None:
        """Stop it in order, its data safe; after a while by force."""
        await self.process.end(STOP_SECONDS)


async def start(state: StateFolder, name: str, make: Callable[[int], Program]) -> RunningEngine:
    """Start an engine on the port that the folder remembers for it and return when it answers.

    Raises EngineFailed when it ends by itself, again and again, or does not answer in time.
    """
    for pause in (*_PAUSES_SECONDS, None):
        program = make(state.port(name))
        process = state.spawn(await asyncio.to_thread(program.prepare))
        try:
            async with asyncio.timeout(_READY_SECONDS):
                if await until_up(program, process):
                    return RunningEngine(program, process)
        except TimeoutError:
            await process.end(0)
            raise EngineFailed(f"{name} does not answer: {await program.obstacle()}{_log(state, name)}") from None
        except BaseException:
            await process.end(0)
            raise
        if pause is not None:
            await asyncio.sleep(pause)
    raise EngineFailed(f"{name} ends as soon as it has started, with status {process.status}{_log(state, name)}")


def _log(state: StateFolder, name: str) -> str:
    return f"; its log ends:\n{tail_of(state.path, name)}"
