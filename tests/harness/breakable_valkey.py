"""A Valkey server of one test alone: to kill, freeze and start again, and to lose what it had written."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from signal import SIGCONT, SIGSTOP

from covey.local.engines.engine import RunningEngine, start
from covey.local.engines.valkey import ValkeyServer
from covey.local.state import StateFolder, open_state


class BreakableValkey:
    """A Valkey server that keeps its append-only file, synced as its maker said."""

    def __init__(self, state: StateFolder, appendfsync: str) -> None:
        self._state = state
        self._appendfsync = appendfsync
        self._engine: RunningEngine | None = None

    @property
    def url(self) -> str:
        """Its address, which stays the same."""
        return self._running.url

    @property
    def folder(self) -> Path:
        """Return where its data is."""
        return self._state.path / "streams"

    @property
    def log(self) -> Path:
        """Return the file to which it appends."""
        (file,) = (self.folder / "appendonlydir").glob("*.incr.aof")
        return file

    async def start(self) -> None:
        """Start it, again on the same data and port."""
        self._engine = await start(
            self._state,
            "streams",
            lambda port: ValkeyServer(self.folder, port, self._state.secret("streams"), self._appendfsync, "streams"),
        )

    async def kill(self) -> None:
        """End it with SIGKILL and wait until it is gone."""
        self._running.process.kill()
        await self._running.process.wait()

    async def restart(self) -> None:
        """Kill it and start it again."""
        await self.kill()
        await self.start()

    async def stop(self) -> None:
        """End it for good."""
        self.thaw()
        await self._running.stop()

    def freeze(self) -> None:
        """Stop its execution: it answers nothing, and its connections stay open."""
        self._running.process.signal(SIGSTOP)
        deadline = time.monotonic() + 5
        while not _stopped(self._running.pid):  # until then it may answer, on another CPU
            assert time.monotonic() < deadline, "it has not stopped in time"

    def thaw(self) -> None:
        """Let it go on."""
        self._running.process.signal(SIGCONT)

    def size(self) -> int:
        """Return how many bytes it has written."""
        return self.log.stat().st_size

    def cut(self, size: int) -> None:
        """Lose all that it has written behind so many bytes, as power that fails takes what was not on the disk."""
        with self.log.open("r+b") as file:
            file.truncate(size)

    @property
    def _running(self) -> RunningEngine:
        assert self._engine is not None
        return self._engine


@asynccontextmanager
async def breakable_valkey(folder: Path, appendfsync: str = "always") -> AsyncIterator[BreakableValkey]:
    """Have one that is up, under a folder of the test."""
    state = await open_state(folder)
    try:
        server = BreakableValkey(state, appendfsync)
        await server.start()
        yield server
        await server.stop()
    finally:
        await state.close()


def _stopped(pid: int) -> bool:
    """Tell whether every thread of a process has stopped, where /proc says so."""
    states = [stat.read_text().rpartition(")")[2].split()[0] for stat in Path(f"/proc/{pid}/task").glob("*/stat")]
    return all(state == "T" for state in states)
