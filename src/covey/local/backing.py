"""The backing services of a system: PostgreSQL, a broker and Valkey, each given by an address or else embedded."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from covey.local.engines.embedded import STREAMS, EngineOptions, start_engines
from covey.local.engines.engine import RunningEngine
from covey.local.state import StateFolder

GIVEN_BY = {
    "postgres": ("COVEY_POSTGRES_ADMIN_URL",),
    "nats": ("NATS_URL",),
    "valkey": ("VALKEY_URL", "REDIS_URL"),
    STREAMS: ("BROKER_URL",),
}
"""Environment variables that name an engine of yours; the first that is set replaces the embedded one."""


@dataclass(frozen=True, kw_only=True)
class Addresses:
    """Where the engines are. `postgres_admin_url` is for a role that may create roles and databases.

    A system has one broker: `nats_url` is empty where that is Valkey, at `streams_url`, and the other way round.
    """

    postgres_admin_url: str
    valkey_url: str
    nats_url: str = ""
    streams_url: str = ""


@dataclass(frozen=True)
class Backing:
    """The engines of a system: their addresses, and those that we run ourselves."""

    addresses: Addresses
    embedded: Mapping[str, RunningEngine]


async def start_backing(
    folder: StateFolder, names: Collection[str], options: EngineOptions, environment: Mapping[str, str]
) -> Backing:
    """Start those of the engines `names` that the environment does not name, in parallel. Raises EngineFailed."""
    given = {name: url for name in names if (url := _given(name, environment))}
    embedded = await start_engines(folder, [name for name in names if name not in given], options)
    urls = given | {name: engine.url for name, engine in embedded.items()}
    addresses = Addresses(
        postgres_admin_url=urls["postgres"],
        valkey_url=urls["valkey"],
        nats_url=urls.get("nats", ""),
        streams_url=urls.get(STREAMS, ""),
    )
    return Backing(addresses, embedded)


def _given(name: str, environment: Mapping[str, str]) -> str | None:
    return next((environment[variable] for variable in GIVEN_BY[name] if environment.get(variable)), None)
