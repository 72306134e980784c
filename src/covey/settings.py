"""Settings of a service, read once at start from the environment.

A wrong value stops the service before it opens anything, with one line a mistake that names the variable. A span of
time is a number of seconds (`2.5`), or written as ISO 8601 has it (`PT2.5S`).
"""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, TypeVar
from urllib.parse import unquote, urlsplit

from pydantic import AliasChoices, Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from covey.errors import ConfigurationError

_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_SYSTEM = re.compile(r"[A-Za-z0-9_-]+")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"[\x20-\x7e]*")


class ServiceSettings(BaseSettings):
    """What every service needs to know. Subclass it to add a service's own settings."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True, populate_by_name=True)

    database_url: str = Field(description="postgresql://role:password@host:port/database of this service alone")
    nats_url: Annotated[str, NoDecode] = Field(description="nats://host:port, several separated by commas")
    valkey_url: str | None = Field(
        default=None,
        validation_alias=AliasChoices("VALKEY_URL", "REDIS_URL"),
        description="valkey://host:port; REDIS_URL is read when VALKEY_URL is not set",
    )
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    system: str = Field(default="covey", validation_alias=AliasChoices("COVEY_SYSTEM", "system"))
    replica: str = Field(default="1", validation_alias=AliasChoices("COVEY_REPLICA", "replica"))
    log_level: str = "INFO"
    otel_exporter_otlp_endpoint: str | None = None
    otel_exporter_otlp_headers: Annotated[dict[str, str], NoDecode] = Field(
        default={}, repr=False, description="sent to the collector: name=value,name=value, as in W3C Baggage"
    )

    pool_size: int = Field(default=10, ge=1, description="connections for requests and handlers, each process")
    pool_wait: timedelta = Field(
        default=timedelta(seconds=2), gt=timedelta(0), description="how long work waits for a connection"
    )
    statement_timeout: timedelta = Field(
        default=timedelta(seconds=10), gt=timedelta(0), description="no statement runs longer"
    )
    drain_timeout: timedelta = Field(
        default=timedelta(seconds=10), ge=timedelta(0), description="work may finish so long after SIGTERM"
    )
    unready_for: timedelta = Field(
        default=timedelta(0),
        ge=timedelta(0),
        description="keep serving for so long after SIGTERM, until load balancers have seen it",
    )

    @field_validator("*", mode="before")
    @classmethod
    def _seconds(cls, value: object, info: ValidationInfo) -> object:
        """Read a bare number as seconds where a span is meant; pydantic takes it for a malformed duration."""
        is_span = cls.model_fields[str(info.field_name)].annotation is timedelta
        return float(value) if is_span and isinstance(value, str) and _NUMBER.fullmatch(value) else value

    @field_validator("database_url")
    @classmethod
    def _database(cls, value: str) -> str:
        return _url(value, ("postgresql", "postgres"), "postgresql://role@host:5432/database")

    @field_validator("nats_url")
    @classmethod
    def _nats(cls, value: str) -> str:
        for one in value.split(","):
            _url(one if "://" in one else f"nats://{one}", ("nats", "tls", "ws", "wss"), "nats://host:4222")
        return value

    @field_validator("valkey_url")
    @classmethod
    def _valkey(cls, value: str | None) -> str | None:
        schemes = ("valkey", "valkeys", "redis", "rediss", "unix")
        return value if value is None else _url(value, schemes, "valkey://host:6379")

    @field_validator("system")
    @classmethod
    def _one_word(cls, value: str) -> str:
        if not _SYSTEM.fullmatch(value):
            raise ValueError("it names streams: letters, digits, hyphens and underscores only")
        return value

    @field_validator("log_level")
    @classmethod
    def _level(cls, value: str) -> str:
        if value.upper() not in _LEVELS:
            raise ValueError(f"it must be one of {', '.join(_LEVELS)}")
        return value

    @field_validator("otel_exporter_otlp_headers", mode="before")
    @classmethod
    def _headers(cls, value: object) -> object:
        """Read the list as the OpenTelemetry specification has it: percent-encoded, spaces around the parts ignored."""
        return dict(map(_header, filter(str.strip, value.split(",")))) if isinstance(value, str) else value


S = TypeVar("S", bound=ServiceSettings)


def load(settings: type[S], service: str) -> S:
    """Read `settings` from the environment; raise ConfigurationError naming each variable that is wrong.

    What the environment lacks is taken from the file that `covey up --without <service>` writes for a service that
    is started by hand, in a debugger say, anywhere inside the project.
    """
    try:
        return settings(_env_file=_left_by_covey_up(service))
    except ValidationError as error:
        lines = [
            f"  {'.'.join(map(str, e['loc'])).upper()}: {e['msg'].removeprefix('Value error, ')}"
            for e in error.errors()
        ]
        raise ConfigurationError(
            f"the environment does not make a working {service} service:\n"
            + "\n".join(lines)
            + f"\n`covey up` sets these, and `covey up --without {service}` sets them for one that you start yourself"
        ) from None


def _url(value: str, schemes: tuple[str, ...], example: str) -> str:
    """Return an address as it is; raise ValueError, which shows nothing of it, when it cannot be one."""
    try:
        parts = urlsplit(value)
        possible = parts.scheme in schemes and bool(parts.netloc or parts.path.strip("/") or parts.query)
    except ValueError:
        possible = False
    if not possible:
        raise ValueError(f"it must read like {example}")
    return value


def _header(member: str) -> tuple[str, str]:
    name, separator, value = (unquote(part).strip() for part in member.partition("="))
    if not separator or not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
        raise ValueError("it must read like name=value,name=value; other characters are percent-encoded ASCII")
    return name.lower(), value


def _left_by_covey_up(service: str) -> Path | None:
    here = Path.cwd()
    files = (folder / ".covey" / "env" / f"{service}.env" for folder in (here, *here.parents))
    return next((file for file in files if file.is_file()), None)
