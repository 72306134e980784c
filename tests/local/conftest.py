"""Engines for the tests of this folder: started once, an empty database for each test that asks."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from covey.database.administration import ensure_database
from covey.ids import new_id
from covey.local.engines.embedded import Engines, start_all


@pytest.fixture(scope="session")
def local_engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    """Three engines, started by the code under test."""
    engines = asyncio.run(start_all(tmp_path_factory.mktemp("engines")))
    yield engines
    asyncio.run(engines.stop())


@pytest.fixture
def make_database(local_engines: Engines) -> Callable[[], str]:
    """A function that makes an empty database with a role of its own and returns its URL."""

    def make() -> str:
        return asyncio.run(ensure_database(local_engines.postgres_url, f"test_{new_id().hex}", "secret"))

    return make


STAND_IN = """
import asyncio, json, os, signal, sys

async def main():
    async def answer(reader, writer):
        path = (await reader.readline()).split()[1].decode()
        body = json.dumps(dict(os.environ, VERSION=VERSION) if path == "/environment" else {}).encode()
        writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(body) + body)
        await writer.drain()
        writer.close()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    server = await asyncio.start_server(answer, os.environ["HOST"], int(os.environ["PORT"]))
    print("serving", flush=True)
    await stop.wait()
    print("drained", flush=True)

VERSION = "1"
asyncio.run(main())
"""
"""What stands in for a service: it answers every request, and tells its environment to who asks."""

SYSTEM_FILE = """
[system]
name = "{name}"
[services.alpha]
env = {{ PEER = "{{processes.helper.url}}", WIRE = "tcp://{{processes.helper.wire}}" }}
[services.beta]
env = {{ ALPHA = "{{services.alpha.grpc}}" }}
[processes.helper]
command = "python -m helper"
ports = ["wire"]
"""


@pytest.fixture
def system_root(write_files: Callable[[dict[str, str]], Path]) -> Path:
    """A small system with a name of its own: two services, one of which needs another process."""
    migration = """
from alembic import op
revision, down_revision, branch_labels, depends_on = "0001", None, None, None
def upgrade() -> None:
    op.execute("CREATE TABLE thing (x int)")
"""
    return write_files(
        {
            "covey.toml": SYSTEM_FILE.format(name=f"test-{new_id().hex[-12:]}"),
            "services/alpha/alpha_service/__main__.py": STAND_IN,
            "services/alpha/migrations/0001_thing.py": migration,
            "services/beta/beta_service/__main__.py": STAND_IN,
            "helper.py": STAND_IN,
        }
    )


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A process that is none of ours."""
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def given(local_engines: Engines) -> Mapping[str, str]:
    """An environment that names engines, so that a system starts none of its own."""
    return {
        **os.environ,
        "COVEY_POSTGRES_ADMIN_URL": local_engines.postgres_url,
        "NATS_URL": local_engines.nats_url,
        "REDIS_URL": local_engines.valkey_url,
    }


@pytest.fixture
def write_files(tmp_path: Path) -> Callable[[dict[str, str]], Path]:
    """A function that writes files by name and returns their folder."""

    def write(files: dict[str, str]) -> Path:
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return tmp_path

    return write
