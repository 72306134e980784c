"""Hints: what is said at most once, to whoever happens to listen, and may get lost without anybody noticing.

Valkey's pub/sub stores nothing: who is away, slow or just connecting does not hear it, and who says it does not learn
that. So it is for what only saves somebody a look, such as "this page has changed": who acts on a hint looks at the
truth, and looks by itself now and then. What must arrive is a message, or a job of a queue: docs/patterns/queues.md.

    await hints.say_at_most_once("prices", str(product_id))

    async with hints.hear_at_most_once("prices") as heard:
        async for hint in heard:
            if hint is MISSED: ...       # at the start and after every gap: look at everything

Source: https://valkey.io/topics/pubsub/#delivery-semantics.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from enum import Enum
from typing import Any, Final

from covey.errors import CoveyError, ValkeyUnavailable
from covey.valkey.client import Valkey
from covey.valkey.connection import Connection

MOST_WAITING = 1_000
"""So many hints wait for a slow listener; then they are forgotten, and it is told that it has missed some."""

_ALIVE_SECONDS = 1.0
_PAUSE_SECONDS = 0.2


class _Missed(Enum):
    MISSED = "missed"


MISSED: Final = _Missed.MISSED
"""What comes in place of hints that may have been said and were not heard."""

Hint = str | _Missed


class Hints:
    """Says and hears hints of one system in a Valkey that a process shares."""

    def __init__(self, valkey: Valkey, system: str) -> None:
        self._valkey = valkey
        self._system = system

    async def say_at_most_once(self, channel: str, text: str) -> int:
        """Say something; return how many connections were told, which is not how many have heard it.

        Never fails: while Valkey is away nobody is told, and that is all.
        """
        try:
            return int(await self._valkey.call("PUBLISH", self._name(channel), text.encode(errors="replace")))
        except CoveyError:
            return 0

    @asynccontextmanager
    async def hear_at_most_once(self, channel: str) -> AsyncIterator[Heard]:
        """Listen inside the block, on a connection of its own that is opened anew when it is lost."""
        heard = Heard()
        listening = asyncio.create_task(self._listen(self._name(channel), heard), name=f"listening to {channel}")
        try:
            yield heard
        finally:
            listening.cancel()
            await asyncio.wait([listening])

    async def _listen(self, channel: str, heard: Heard) -> None:
        while True:
            try:
                async with self._valkey.connected(timedelta(seconds=2 * _ALIVE_SECONDS)) as connection:
                    connection.subscribe(channel, heard.push)
                    await _stay(connection)
            except CoveyError:
                await asyncio.sleep(_PAUSE_SECONDS)  # what was missed is told once it listens again

    def _name(self, channel: str) -> str:
        return f"{self._system}:hints:{channel}"


class Heard:
    """What is heard, as it comes. One task at a time may wait for it; it never ends."""

    def __init__(self) -> None:
        self._hints: deque[Hint] = deque()
        self._more = asyncio.Event()

    def __aiter__(self) -> Heard:
        return self

    async def __anext__(self) -> Hint:
        """Return the next hint, or MISSED. Cancelling it loses nothing."""
        while not self._hints:
            self._more.clear()
            await self._more.wait()
        return self._hints.popleft()

    def push(self, push: list[Any]) -> None:
        """Take what the server has pushed: that listening has begun, or a hint."""
        if push[0] == b"message" and len(self._hints) < MOST_WAITING:
            self._hints.append(push[2].decode(errors="replace"))
        elif push[0] in (b"message", b"subscribe"):
            self._hints.clear()
            self._hints.append(MISSED)
        self._more.set()


async def _stay(connection: Connection) -> None:
    """Ask now and then whether the server is there; raise ValkeyUnavailable when it is not."""
    while True:
        await connection.call("PING")
        await asyncio.sleep(_ALIVE_SECONDS)
        if connection.lost.is_set():
            raise ValkeyUnavailable(connection.problem)
