"""Settings of a service, read once at start from the environment of its process, or from one that is given.

A wrong value stops the service before it opens anything, with one line a mistake that names the variable. A span of
time is a number of seconds (`2.5`), or written as ISO 8601 has it (`PT2.5S`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import timedelta
from pathlib import Path
from typing import Annotated, TypeVar
from urllib.parse import unquote, urlsplit

from pydantic import AliasChoices, Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from covey.errors import ConfigurationError

_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_SYSTEM = re.compile(r"[A-Za-z0-9_-]+")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"[\x20-\x7e]*")

_NATS = ("nats", "tls", "ws", "wss")
VALKEY_SCHEMES = ("valkey", "valkeys", "redis", "rediss", "unix")

_PLAIN = re.compile(r"[A-Za-z0-9_./:@%+,;?&=~-]*")
_ASSIGNMENT = re.compile(r"^([A-Za-z_][A-Za-z0-9_]*)=(?:'((?:[^'\\]|\\.)*)'|([^\n]*))$", re.MULTILINE | re.DOTALL)

STATE = "COVEY_STATE"
"""The environment variable that names the state folder of a system, where that is not `.covey`."""

_given: ContextVar[Mapping[str, str] | None] = ContextVar("covey_environment", default=None)
"""What is read in place of the environment of the process, while `load` has been given one."""


class ServiceSettings(BaseSettings):
    """What every service needs to know. Subclass it to add a service's own settings."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True, populate_by_name=True)

    database_url: str = Field(description="postgresql://role:password@host:port/database of this service alone")
    broker_url: str | None = Field(
        default=None, description="the broker, where it is not the NATS of NATS_URL: valkey://host:port, or nats://…"
    )
    nats_url: Annotated[str, NoDecode] = Field(
        default="", validate_default=True, description="nats://host:port, several separated by commas"
    )
    valkey_url: str | None = Field(
        default=None,
        validation_alias=AliasChoices("VALKEY_URL", "REDIS_URL"),
        description="valkey://host:port; REDIS_URL is read when VALKEY_URL is not set",
    )
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    grpc_port: int = Field(default=50051, ge=0, le=65535, description="the port for gRPC, for a service that serves it")
    system: str = Field(default="covey", validation_alias=AliasChoices("COVEY_SYSTEM", "system"))
    replica: str = Field(default="1", validation_alias=AliasChoices("COVEY_REPLICA", "replica"))
    covey_service: str | None = Field(default=None, description="what covey.toml calls this service, if it has one")
    development_key: str | None = Field(
        default=None, min_length=16, repr=False, description="verifies development tokens; without it none is valid"
    )
    tls_certificate: Path | None = Field(default=None, description="PEM: who this service is to others, over gRPC")
    tls_key: Path | None = Field(default=None, description="PEM: the key of that certificate, without a passphrase")
    tls_authorities: Path | None = Field(default=None, description="PEM: who signs the certificates of other services")
    tls_by_others: bool = Field(default=False, description="a mesh, say, encrypts what leaves this machine")
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
    idle_in_transaction_timeout: timedelta = Field(
        default=timedelta(seconds=10), gt=timedelta(0), description="a transaction that does nothing so long is ended"
    )
    connect_timeout: timedelta = Field(
        default=timedelta(seconds=5), gt=timedelta(0), description="for opening a connection to the database"
    )
    drain_timeout: timedelta = Field(
        default=timedelta(seconds=10),
        ge=timedelta(0),
        description="all work together may finish so long after SIGTERM, and after UNREADY_FOR",
    )
    unready_for: timedelta = Field(
        default=timedelta(0),
        ge=timedelta(0),
        description="keep serving for so long after SIGTERM, until load balancers have seen it",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Have the environment that `load` was given read in place of the process's; who overrides it asks it first."""
        given = _given.get()
        if given is not None and isinstance(env_settings, EnvSettingsSource):
            sensitive = env_settings.case_sensitive
            env_settings.env_vars = {name if sensitive else name.lower(): value for name, value in given.items()}
        return init_settings, env_settings, dotenv_settings, file_secret_settings

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

    @property
    def broker(self) -> str:
        """Return the address of the broker: BROKER_URL if it is set, else NATS_URL."""
        return self.broker_url or self.nats_url

    @field_validator("nats_url")
    @classmethod
    def _nats(cls, value: str, info: ValidationInfo) -> str:
        if not value:
            if info.data.get("broker_url", "malformed") is None:
                raise ValueError("it must read like nats://host:4222; only a service with a BROKER_URL needs none")
            return value
        for one in value.split(","):
            _url(one if "://" in one else f"nats://{one}", _NATS, "nats://host:4222")
        return value

    @field_validator("broker_url")
    @classmethod
    def _broker(cls, value: str | None) -> str | None:
        if value is not None:
            for one in [value] if value.partition("://")[0] in VALKEY_SCHEMES else value.split(","):
                _url(one, (*_NATS, *VALKEY_SCHEMES), "valkey://host:6379 or nats://host:4222")
        return value

    @field_validator("valkey_url")
    @classmethod
    def _valkey(cls, value: str | None) -> str | None:
        return value if value is None else _url(value, VALKEY_SCHEMES, "valkey://host:6379")

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


def load(settings: type[S], service: str, environment: Mapping[str, str] | None = None) -> S:
    """Read `settings` from an environment; raise ConfigurationError naming each variable that is wrong.

    When none is given it is that of the process. What that lacks is taken from the file that `covey up` writes for a
    service that is started by hand, in a debugger say, anywhere inside the project: `state_in` tells where.
    """
    token = _given.set(_environment_of_the_process(service) if environment is None else environment)
    try:
        loaded = settings()
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
    finally:
        _given.reset(token)
    if loaded.covey_service not in (None, service):
        raise ConfigurationError(
            f"covey.toml has [services.{loaded.covey_service}], and the code there is Service({service!r}): give both"
            " one name, after which its streams and its database are called"
        )
    return loaded


def state_in(root: Path, environment: Mapping[str, str]) -> Path:
    """Return where the system of the folder `root` has its state: in COVEY_STATE, seen from there, or in `.covey`."""
    return root / (environment.get(STATE) or ".covey")


def environment_text(environment: Mapping[str, str]) -> str:
    """Return an environment as lines `NAME=value`.

    A value that a reader of such files might take for more than its characters stands in single quotes.
    """
    return "".join(f"{name}={_written(value)}\n" for name, value in environment.items())


def environment_in(text: str) -> dict[str, str]:
    """Return what `environment_text` has written, to the character: a `$` in a value is a `$`."""
    return {
        name: plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted, flags=re.DOTALL)
        for name, quoted, plain in (found.groups() for found in _ASSIGNMENT.finditer(text))
    }


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


def _environment_of_the_process(service: str) -> dict[str, str]:
    here = Path.cwd()
    files = (state_in(folder, os.environ) / "env" / f"{service}.env" for folder in (here, *here.parents))
    file = next((file for file in files if file.is_file()), None)
    return {**(environment_in(file.read_text()) if file else {}), **os.environ}


def _written(value: str) -> str:
    if _PLAIN.fullmatch(value):
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
