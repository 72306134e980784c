"""What needs a PostgreSQL administrator: a database and a role for each service, which no other role can enter."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit, urlunsplit

import asyncpg

from covey.database.errors import DRIVER_ERRORS
from covey.errors import DatabaseUnavailable

_CONNECT_SECONDS = 5.0
_PROVISIONING = 0x636F7665  # one administrator at a time makes roles: "cove"


async def data_folder(admin_url: str) -> Path:
    """Return the data folder of the server that answers there. Raises DatabaseUnavailable when none does (yet)."""
    async with connected(admin_url) as connection:
        return Path(await connection.fetchval("SELECT current_setting('data_directory')"))


async def ensure_database(admin_url: str, name: str, password: str) -> str:
    """Return the URL of the database and the role `name`, both made if missing, with that password.

    Only the role itself (and an administrator) may connect to its database.
    """
    url = _url_of(admin_url, name, password)
    if await _opens(url):
        return url
    async with connected(admin_url) as admin:
        await admin.execute("SELECT pg_advisory_lock($1)", _PROVISIONING)
        await _ensure_role(admin, name)
        if not await admin.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", name):
            await admin.execute(f"CREATE DATABASE {_quoted(name)} OWNER {_quoted(name)}")
        await admin.execute(f"REVOKE ALL ON DATABASE {_quoted(name)} FROM PUBLIC")
        # Last, so that a role that can log in is proof that all before it was done.
        await admin.execute(f"ALTER ROLE {_quoted(name)} LOGIN PASSWORD {_literal(password)}")
    return url


async def copy_database(admin: asyncpg.Connection, template_url: str, name: str) -> str:
    """Return the URL of a new database `name`, a copy of that of `template_url` and for its role: a few 10 ms.

    Nobody may be connected to the template meanwhile. Its files are copied, which takes half as long as to log each of
    their pages, and two checkpoints instead: this is for servers that have little to write down.
    """
    parts = urlsplit(template_url)
    template, role = unquote(parts.path[1:]), unquote(parts.username or "")
    source = f"TEMPLATE {_quoted(template)} STRATEGY FILE_COPY"
    await admin.execute(f"CREATE DATABASE {_quoted(name)} OWNER {_quoted(role)} {source}")
    await admin.execute(f"REVOKE ALL ON DATABASE {_quoted(name)} FROM PUBLIC")
    return urlunsplit(parts._replace(path=f"/{quote(name, safe='')}"))


async def drop_database(admin: asyncpg.Connection, url: str) -> None:
    """Drop the database of `url`, if there is one, and end the connections to it. Its role stays."""
    await admin.execute(f"DROP DATABASE IF EXISTS {_quoted(unquote(urlsplit(url).path[1:]))} WITH (FORCE)")


async def _ensure_role(admin: asyncpg.Connection, name: str) -> None:
    if not await admin.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", name):
        await admin.execute(f"CREATE ROLE {_quoted(name)}")
    if not await admin.fetchval("SELECT rolsuper FROM pg_roles WHERE rolname = current_user"):
        # An administrator who is no superuser, as managed servers have it, may give away a database
        # only to a role of which it is a member.
        await admin.execute(f"GRANT {_quoted(name)} TO CURRENT_USER")


async def _opens(url: str) -> bool:
    try:
        async with connected(url):
            return True
    except DatabaseUnavailable:
        return False


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    """Have a connection to the database of `url`, such as an administrator's. Raises DatabaseUnavailable."""
    try:
        connection = await asyncpg.connect(url, timeout=_CONNECT_SECONDS)
    except (OSError, *DRIVER_ERRORS) as error:
        raise DatabaseUnavailable(f"PostgreSQL at {_without_password(url)} does not open: {error}") from error
    try:
        yield connection
    except (OSError, *DRIVER_ERRORS) as error:
        raise DatabaseUnavailable(f"PostgreSQL at {_without_password(url)}: {error}") from error
    finally:
        await connection.close(timeout=_CONNECT_SECONDS)


def _url_of(admin_url: str, name: str, password: str) -> str:
    parts = urlsplit(admin_url)
    host = parts.netloc.rpartition("@")[2]
    netloc = f"{quote(name, safe='')}:{quote(password, safe='')}@{host}"
    return urlunsplit((parts.scheme, netloc, f"/{quote(name, safe='')}", parts.query, ""))


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port or 5432}{parts.path}"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
