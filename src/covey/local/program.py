"""A program is something that can be run and asked whether it is up: an engine, a service, any other process."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from covey.errors import ConfigurationError
from covey.local.processes import Launch, Process

_POLL_SECONDS = 0.02
_ANSWER_SECONDS = 2.0


class Program(Protocol):
    """What to run, where it is reached, and how to see that it is up."""

    @property
    def url(self) -> str:
        """Return its address; for an engine with the password."""
        ...

    def prepare(self) -> Launch:
        """Make the files that it needs, those of an earlier run kept, and return how to run it. Blocks."""
        ...

    async def obstacle(self) -> str | None:
        """Use it as a client would and return None, or why it does not accept our work (yet)."""
        ...


async def until_up(program: Program, process: Process) -> bool:
    """Wait until nothing is in the way, or the process has ended; tell which."""
    while await program.obstacle() is not None:
        if process.status is not None:
            return False
        await asyncio.sleep(_POLL_SECONDS)
    return True


@dataclass(frozen=True)
class HttpService:
    """A covey service: up when `GET /ready` answers 200."""

    launch: Launch
    port: int

    @property
    def url(self) -> str:
        """Return its HTTP address."""
        return f"http://127.0.0.1:{self.port}"

    def prepare(self) -> Launch:
        """Return how to run it; there is nothing to prepare."""
        return self.launch

    async def obstacle(self) -> str | None:
        """Ask whether it is ready."""
        return await unanswered(self.port, "/ready")


@dataclass(frozen=True)
class HostedServices:
    """Covey services in one process, with the port of each: up when `GET /ready` of every one answers 200."""

    launch: Launch
    ports: Mapping[str, int]

    @property
    def url(self) -> str:
        """Return the HTTP address of the first."""
        return f"http://127.0.0.1:{next(iter(self.ports.values()))}"

    def prepare(self) -> Launch:
        """Return how to run them; there is nothing to prepare."""
        return self.launch

    async def obstacle(self) -> str | None:
        """Ask each whether it is ready; return why the first that is not is not."""
        answers = await asyncio.gather(*(unanswered(port, "/ready") for port in self.ports.values()))
        return next((f"{name}: {why}" for name, why in zip(self.ports, answers, strict=True) if why), None)


@dataclass(frozen=True)
class OtherProcess:
    """A process that is no covey service: up when it accepts connections on its port."""

    launch: Launch
    port: int

    @property
    def url(self) -> str:
        """Return its address, as HTTP, which most of them speak."""
        return f"http://127.0.0.1:{self.port}"

    def prepare(self) -> Launch:
        """Return how to run it, its command found on the path: `python` is the one that runs us."""
        return replace(self.launch, command=_found(self.launch.command))

    async def obstacle(self) -> str | None:
        """Try to connect."""
        return await unanswered(self.port, None)


def _found(command: Sequence[str]) -> list[str]:
    program, *arguments = command
    path = sys.executable if program in ("python", "python3") else shutil.which(program)
    if path is None:
        raise ConfigurationError(f"there is no command {program!r} on the PATH")
    return [path, *arguments]


async def unanswered(port: int, path: str | None) -> str | None:
    """Return why a port does not accept connections or, if a path is given, does not answer it with 200."""
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                return None if path is None else await _unhappy_answer(reader, writer, path)
            finally:
                writer.close()
    except (OSError, TimeoutError) as error:
        return str(error) or type(error).__name__


async def _unhappy_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str) -> str | None:
    writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
    head, _, body = (await reader.read(65_536)).partition(b"\r\n\r\n")
    status_line = head.partition(b"\r\n")[0].decode(errors="replace")
    return None if " 200 " in f"{status_line} " else f"{status_line} {body[:500].decode(errors='replace')}".strip()
