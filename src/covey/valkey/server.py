"""Which life of which server a connection leads to, and what that server has promised when it confirms."""

from __future__ import annotations

import re
from dataclasses import dataclass

from covey.errors import ConfigurationError, ValkeyRefused, ValkeyUnavailable
from covey.valkey.connection import Connection

_LIFE = re.compile(rb"^run_id:([0-9a-f]+)", re.MULTILINE)
_BEFORE = re.compile(rb"^master_replid2:0*[1-9a-f]", re.MULTILINE)

ALWAYS = "always"
"""What is confirmed is on the disk."""

PROMOTED = "promoted"
"""It was a replica of another, which may have confirmed what never arrived here."""


@dataclass(frozen=True, slots=True, eq=False)
class Server:
    """Who answers on a connection. `life` is another after every start, and after a failover.

    `life` is empty, and `sync` `unknown`, where those who run Valkey for others do not tell. `sync` is how the server
    writes its append-only file, `never` without one; or that it was `promoted`.
    """

    connection: Connection
    life: bytes
    sync: str


async def life_of(connection: Connection) -> bytes:
    """Return what tells this life of the server from every other; empty where it is not told."""
    found = _LIFE.search(await connection.call("INFO", "server"))
    return found[1] if found else b""


async def server_of(connection: Connection) -> Server:
    """Ask who answers on a connection. Raises ValkeyUnavailable."""
    info = await connection.call("INFO")
    found = _LIFE.search(info)
    life = found[1] if found else b""
    if b"\nrole:slave" in info:
        raise ValkeyUnavailable("this Valkey is a replica; once promoted it is asked anew what it promises")
    if _BEFORE.search(info):
        return Server(connection, life, PROMOTED)
    try:
        told = await connection.call("CONFIG", "GET", "append*")
    except (ConfigurationError, ValkeyRefused):
        return Server(connection, life, "unknown")
    return Server(connection, life, told[b"appendfsync"].decode() if told[b"appendonly"] == b"yes" else "never")
