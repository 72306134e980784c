"""A NATS server for the tests of this folder to damage."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from signal import SIGCONT, SIGSTOP

import pytest

from covey.local.engines.engine import RunningEngine, start
from covey.local.engines.nats import NatsServer
from covey.local.state import StateFolder, open_state


class BreakableNats:
    """A NATS server of this test alone, which acknowledges only what is on the disk."""

    def __init__(self, state: StateFolder, engine: RunningEngine) -> None:
        self._state = state
        self._engine = engine

    @property
    def url(self) -> str:
        """Its address, which stays the same."""
        return self._engine.url

    async def kill(self) -> None:
        """End it with SIGKILL and wait until it is gone."""
        self._engine.process.kill()
        await self._engine.process.wait()

    async def start(self) -> None:
        """Start it again on the same store and port."""
        self._engine = await _started(self._state)

    def freeze(self) -> None:
        """Stop its execution: it answers nothing, and its connections stay open."""
        self._engine.process.signal(SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._engine.process.signal(SIGCONT)

    async def stop(self) -> None:
        """End it for good."""
        self.thaw()
        await self._engine.stop()


async def _started(state: StateFolder) -> RunningEngine:
    return await start(
        state, "nats", lambda port: NatsServer(state.path / "nats", port, state.secret("nats"), "always")
    )


@pytest.fixture
async def breakable_nats(tmp_path: Path) -> AsyncIterator[BreakableNats]:
    """A NATS server of this test alone, to kill, freeze and start again."""
    state = await open_state(tmp_path / "engines")
    server = BreakableNats(state, await _started(state))
    yield server
    await server.stop()
    await state.close()
