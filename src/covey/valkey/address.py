"""Where a Valkey server is, and as whom to enter it, from a URL."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from covey.errors import ConfigurationError

_PORT = 6379
_FORM = "valkey://[user]:password@host:port/number, valkeys:// for TLS, or unix://[user]:password@/path?db=number"


@dataclass(frozen=True, slots=True)
class Address:
    """A server's address. `path` is that of a socket, and then there is no host."""

    host: str
    port: int
    path: str
    tls: ssl.SSLContext | None
    username: str
    password: str
    database: int

    def __str__(self) -> str:
        """Return where it is, without the password."""
        return self.path or f"{self.host}:{self.port}"


def address_of(url: str) -> Address:
    """Read a URL. Raises ConfigurationError, which does not quote it, since it may hold a password."""
    try:
        parts = urlsplit(url)
        port = parts.port or _PORT
        socket = parts.path if parts.scheme == "unix" else ""
        number = dict(pair.split("=", 1) for pair in parts.query.split("&") if "=" in pair).get("db", "0")
        database = int(number if socket else parts.path.strip("/") or number)
    except ValueError:
        raise ConfigurationError(f"the address of Valkey (VALKEY_URL) must read like {_FORM}") from None
    if parts.scheme not in ("valkey", "valkeys", "redis", "rediss", "unix") or not (parts.hostname or socket):
        raise ConfigurationError(f"the address of Valkey (VALKEY_URL) must read like {_FORM}")
    return Address(
        host=parts.hostname or "",
        port=port,
        path=socket,
        tls=ssl.create_default_context() if parts.scheme in ("valkeys", "rediss") else None,
        username=unquote(parts.username or "") or "default",
        password=unquote(parts.password or ""),
        database=database,
    )
