"""A process of the bench on a core of its own, told what to do by the one that measures: a line of JSON each way."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import uvloop

LIMIT_BYTES = 256 * 2**20

Deed = Callable[..., Awaitable[Any]]
Role = Callable[[dict[str, Any]], AbstractAsyncContextManager[Mapping[str, Deed]]]


class Party:
    """The process, as seen by who started it."""

    def __init__(self, process: asyncio.subprocess.Process, lines: asyncio.StreamReader, sink: asyncio.StreamWriter):
        self.process = process
        self._lines = lines
        self._sink = sink

    async def ask(self, deed: str, **how: Any) -> Any:
        """Have it do something, and return what it answers. Raises RuntimeError when it cannot."""
        self._sink.write(json.dumps([deed, how]).encode() + b"\n")
        line = await self._lines.readline()
        if not line:
            raise RuntimeError(f"the process ended while it was asked to {deed}; its log says why")
        outcome, answer = json.loads(line)
        if outcome != "done":
            raise RuntimeError(f"{deed}: {answer}")
        return answer

    async def kill(self) -> None:
        """Kill it with SIGKILL and wait until it is gone."""
        self.process.kill()
        await self.process.wait()
        self._sink.close()

    async def end(self) -> None:
        """Let it end gracefully."""
        self._sink.close()
        try:
            await asyncio.wait_for(self.process.wait(), 15)
        except TimeoutError:
            await self.kill()


async def start(module: str, role: str, log: Path, core: int | None = None, **settings: Any) -> Party:
    """Start `role` of `bench/<module>.py` on a core (None: any), and return when it is ready.

    What it prints goes to the file `log`, to which it is added.
    """
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-m", f"bench.{module}", role, str(theirs.fileno()), str(core), json.dumps(settings)]
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *command, pass_fds=(theirs.fileno(),), stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output
        )
    theirs.close()
    reader, writer = await asyncio.open_connection(sock=ours, limit=LIMIT_BYTES)
    party = Party(process, reader, writer)
    await party.ask("ready")
    return party


@asynccontextmanager
async def running(module: str, role: str, log: Path, core: int | None = None, **settings: Any) -> AsyncIterator[Party]:
    """Have a party for as long as the block runs."""
    party = await start(module, role, log, core, **settings)
    try:
        yield party
    finally:
        await party.end()


def play(roles: Mapping[str, Role]) -> None:
    """Be the party that the command line names, until who started it lets go."""
    role, descriptor, core, settings = sys.argv[1:5]
    if core != "None" and hasattr(os, "sched_setaffinity") and (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(0, {int(core)})
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    uvloop.run(_serve(roles[role], int(descriptor), json.loads(settings)))


async def _serve(role: Role, descriptor: int, settings: dict[str, Any]) -> None:
    reader, writer = await asyncio.open_connection(sock=socket.socket(fileno=descriptor), limit=LIMIT_BYTES)
    async with role(settings) as deeds:
        while line := await reader.readline():
            deed, how = json.loads(line)
            writer.write(json.dumps(await _answer(deeds, deed, how)).encode() + b"\n")


async def _answer(deeds: Mapping[str, Deed], deed: str, how: dict[str, Any]) -> tuple[str, Any]:
    if deed == "ready":
        return "done", os.getpid()
    try:
        return "done", await deeds[deed](**how)
    except Exception as error:  # becomes the answer
        return "failed", f"{type(error).__name__}: {error}"
