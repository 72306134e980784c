"""A process's Valkey: one connection that is opened anew when it is lost."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from covey.errors import ConfigurationError, CoveyError, ValkeyUnavailable
from covey.valkey.address import Address, address_of
from covey.valkey.connection import Connection
from covey.valkey.script import Script
from covey.valkey.together import Part

_PAUSE_CAP_SECONDS = 2.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ValkeyOptions:
    """How a process uses its Valkey. `answer` bounds connecting, and how long the server may be silent when asked."""

    name: str = "covey"
    answer: timedelta = timedelta(seconds=1)


class Valkey:
    """Shared by all tasks of one event loop. While the server is away calls fail at once: nobody waits for a cache."""

    def __init__(self, address: Address, options: ValkeyOptions) -> None:
        self._address = address
        self._options = options
        self._connection: Connection | None = None
        self._problem = "not connected yet"
        self._refusal: ConfigurationError | None = None
        self._tried = asyncio.Event()
        self._unbroken = True

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, options: ValkeyOptions | None = None) -> AsyncIterator[Valkey]:
        """Have it as long as the block runs. A server that is away does not keep the block from beginning.

        Raises ConfigurationError when the URL cannot be read, or the server lets nobody in with its password.
        """
        valkey = cls(address_of(url), options or ValkeyOptions())
        keeping = asyncio.create_task(valkey._keep(), name="connection to Valkey")
        try:
            await valkey._tried.wait()
            if valkey._refusal is not None:
                raise valkey._refusal
            yield valkey
        finally:
            keeping.cancel()
            with suppress(asyncio.CancelledError):
                await keeping

    @property
    def is_connected(self) -> bool:
        """Tell whether a call would be sent."""
        return self._connection is not None

    @property
    def is_unbroken(self) -> bool:
        """Tell whether it has been connected all the time since it was opened."""
        return self._unbroken

    @property
    def connection(self) -> Connection:
        """Return the present connection, for who must know that it is still the same. Raises ValkeyUnavailable."""
        if self._connection is None:
            raise ValkeyUnavailable(f"Valkey at {self._address} is away: {self._problem}")
        return self._connection

    def call(self, *command: Part) -> Awaitable[Any]:
        """Send a command and return what to await for its answer. See `Connection.call`."""
        return self.connection.call(*command)

    async def run(self, script: Script, keys: Sequence[str], *arguments: Part) -> Any:
        """Run a script with these keys and arguments. See `Connection.run`."""
        return await self.connection.run(script, keys, *arguments)

    def ask(self, script: Script, keys: Sequence[str], *arguments: Part) -> Awaitable[list[Any]]:
        """Ask a script together with all who ask it in this tick. See `Connection.ask`."""
        return self.connection.ask(script, keys, *arguments)

    @asynccontextmanager
    async def connected(self, answer: timedelta) -> AsyncIterator[Connection]:
        """Have a connection of one's own, for commands that block; `answer` is longer than they do."""
        seconds = self._options.answer.total_seconds()
        connection = await Connection.open(self._address, self._options.name, seconds)
        connection.answer_within(answer.total_seconds())
        try:
            yield connection
        finally:
            connection.close()

    async def _keep(self) -> None:
        failures = 0
        while True:
            try:
                seconds = self._options.answer.total_seconds()
                self._connection = connection = await Connection.open(self._address, self._options.name, seconds)
                failures = 0
                self._tried.set()
                try:
                    await connection.lost.wait()
                finally:
                    self._connection, self._unbroken = None, False
                    connection.close()
                self._problem = connection.problem
            except CoveyError as error:
                self._problem = str(error)
                self._refusal = error if isinstance(error, ConfigurationError) else None
            failures += 1
            self._unbroken = False
            _log.log(logging.WARNING if failures == 1 else logging.DEBUG, "Valkey is away: %s", self._problem)
            self._tried.set()
            await asyncio.sleep(min(_PAUSE_CAP_SECONDS, 0.05 * 2 ** min(failures - 1, 6)) * random.uniform(0.5, 1.0))
