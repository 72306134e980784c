"""Processes of services as the harness has them: started from a nursery, killed, known to be dead."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).parents[2]


class Child:
    """A process that was started. `status` is how it ended: negative for a signal."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.status: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, unless it has ended."""
        if not self.status.done():
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it with SIGKILL, now."""
        self.signal(signal.SIGKILL)

    async def end(self, grace_seconds: float = 15.0) -> int:
        """Ask it to end, kill it when it takes too long, and return how it ended."""
        self.signal(signal.SIGTERM)
        try:
            return await asyncio.wait_for(asyncio.shield(self.status), grace_seconds)
        except TimeoutError:
            self.kill()
            return await self.status


class Nursery:
    """Starts processes of services; see `tests.harness.nursery`, which is the other side of this."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._numbers = count(1)
        self._starting: dict[int, asyncio.Future[Child]] = {}
        self._children: dict[int, Child] = {}
        self._listening = asyncio.create_task(self._listen(), name="nursery")

    @classmethod
    async def open(cls, *modules: str) -> Self:
        """Have these modules imported; it costs a second once. Close it, or its children live on."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "tests.harness.nursery", *modules),
            cwd=ROOT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        assert process.stdout is not None
        if b"ready" not in await process.stdout.readline():
            raise RuntimeError(f"one of these cannot be imported: {', '.join(modules)}")
        return cls(process)

    async def start(self, package: str, environment: Mapping[str, str], log: Path, *, cold: bool = False) -> Child:
        """Do what `python -m package` does; `cold` has it import everything itself, as any start in production does."""
        number = next(self._numbers)
        self._starting[number] = asyncio.get_running_loop().create_future()
        basics = {name: os.environ[name] for name in ("PATH", "HOME", "PYTHONPATH") if name in os.environ}
        told = {**basics, **environment}
        order = {"start": number, "package": package, "environment": told, "log": str(log), "cold": cold}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        return await self._starting[number]

    async def close(self) -> None:
        """Kill what still runs: nobody waits for its end any more."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()
        self._listening.cancel()
        with suppress(asyncio.CancelledError):
            await self._listening
        for child in self._children.values():
            child.status.set_result(-signal.SIGKILL)
        self._children.clear()

    async def _listen(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            self._hear(json.loads(line))

    def _hear(self, said: dict[str, Any]) -> None:
        if "started" in said:
            child = self._children[said["pid"]] = Child(said["pid"])
            self._starting.pop(said["started"]).set_result(child)
        elif "ended" in said:
            self._children.pop(said["ended"]).status.set_result(said["status"])
