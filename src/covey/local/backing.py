"""The backing services of a system: PostgreSQL, NATS and Valkey, each given by an address or else embedded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from covey.local.engines.embedded import NAMES, EngineOptions, start_engines
from covey.local.engines.engine import RunningEngine
from covey.local.state import StateFolder

GIVEN_BY = {
    "postgres": ("COVEY_POSTGRES_ADMIN_URL",),
    "nats": ("NATS_URL",),
    "valkey": ("VALKEY_URL", "REDIS_URL"),
}
"""Environment variables that name an engine of yours; the first that is set replaces the embedded one."""


@dataclass(frozen=True, kw_only=True)
class Addresses:
    """Where the engines are. `postgres_admin_url` is for a role that may create roles and databases."""

    postgres_admin_url: str
    nats_url: str
    valkey_url: str


@dataclass(frozen=True)
class Backing:
    """The engines of a system: their addresses, and those that we run ourselves."""

    addresses: Addresses
    embedded: Mapping[str, RunningEngine]


async def start_backing(folder: StateFolder, options: EngineOptions, environment: Mapping[str, str]) -> Backing:
    """Start the engines that the environment does not name, in parallel. Raises EngineFailed."""
    given = {name: url for name in NAMES if (url := _given(name, environment))}
    embedded = await start_engines(folder, [name for name in NAMES if name not in given], options)
    urls = given | {name: engine.url for name, engine in embedded.items()}
    addresses = Addresses(postgres_admin_url=urls["postgres"], nats_url=urls["nats"], valkey_url=urls["valkey"])
    return Backing(addresses, embedded)


def _given(name: str, environment: Mapping[str, str]) -> str | None:
    return next((environment[variable] for variable in GIVEN_BY[name] if environment.get(variable)), None)
