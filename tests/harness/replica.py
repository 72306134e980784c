"""One process of a service, behind proxies: every byte between it and PostgreSQL, NATS and who is outside is seen."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit, urlunsplit

from covey.local.program import unanswered
from tests.harness.processes import Child, Nursery
from tests.wire.exchange import Tap
from tests.wire.http import speak_http
from tests.wire.nats import speak_nats
from tests.wire.postgres import speak_postgres
from tests.wire.proxy import Proxy
from tests.wire.smtp import speak_smtp

_SPEAKERS = {
    "DATABASE_URL": speak_postgres,
    "NATS_URL": speak_nats,
    "PROVIDER_URL": speak_http,
    "CARRIER_URL": speak_http,
    "SMTP_URL": speak_smtp,
}
READY_SECONDS = 30.0


class Replica:
    """A replica of a service. `wires` are its proxies, by the variable that tells the process of them."""

    def __init__(
        self, service: str, nursery: Nursery, told: Mapping[str, str], wires: Mapping[str, Proxy], log: Path
    ) -> None:
        self.service = service
        self.wires = wires
        self.child: Child | None = None
        self.ready_at = 0.0
        self._nursery = nursery
        self._told = told
        self.log = log

    @classmethod
    async def open(cls, service: str, nursery: Nursery, told: Mapping[str, str], log: Path) -> Self:
        """Put a proxy in front of each engine that the process is told of. Starts nothing yet."""
        wires, told = {}, dict(told)
        for name in _SPEAKERS.keys() & told.keys():
            parts = urlsplit(told[name])
            assert parts.hostname and parts.port
            wires[name] = await Proxy.open(parts.hostname, parts.port, _SPEAKERS[name])
            address = parts.netloc.rpartition(":")[0] + f":{wires[name].port}"
            told[name] = urlunsplit(parts._replace(netloc=address))
        return cls(service, nursery, told, wires, log)

    @property
    def port(self) -> int:
        """Return where it serves HTTP."""
        return int(self._told["PORT"])

    @property
    def url(self) -> str:
        """Return its address."""
        return f"http://127.0.0.1:{self.port}"

    def tap(self, tap: Tap) -> None:
        """Have all its wires watched."""
        for wire in self.wires.values():
            wire.tap = tap

    async def start(self, *, cold: bool = False) -> None:
        """Start the process and return when it is ready. Raises RuntimeError with its log when it ends instead."""
        for wire in self.wires.values():
            wire.mend()
        self.child = await self._nursery.start(f"{self.service}_service", self._told, self.log, cold=cold)
        until = time.monotonic() + READY_SECONDS
        while problem := await unanswered(self.port, "/ready"):
            if self.child.status.done() or time.monotonic() > until:
                log = self.log.read_text(errors="replace")[-2_000:]
                raise RuntimeError(f"{self.service} does not become ready: {problem}; its log ends:\n{log}")
            await asyncio.sleep(0.01)
        self.ready_at = time.monotonic()

    def kill(self) -> None:
        """Kill the process with SIGKILL, and cut its wires in the same moment."""
        assert self.child is not None
        self.child.kill()
        for wire in self.wires.values():
            wire.cut()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process."""
        assert self.child is not None
        self.child.signal(number)

    async def died(self) -> int:
        """Wait until the process is gone; return how it ended, negative for a signal."""
        assert self.child is not None
        return await self.child.status

    async def close(self) -> None:
        """End the process in order, and the proxies."""
        if self.child is not None:
            await self.child.end()
        for wire in self.wires.values():
            await wire.close()
