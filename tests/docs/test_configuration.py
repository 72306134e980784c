"""The page of settings says what the code says."""

from __future__ import annotations

import re
from dataclasses import MISSING, fields
from datetime import timedelta
from typing import Any

import pytest
from pydantic import AliasChoices, BaseModel
from pydantic_core import PydanticUndefined

from covey.database.pool import PoolOptions
from covey.errors import ConfigurationError
from covey.grpc.options import GrpcOptions, KeepAlive
from covey.http.edge import HttpOptions
from covey.local.system import DemoEntry, DrillEntry, NatsEntry, ProcessEntry, ServiceEntry, StreamsEntry, System
from covey.messaging.options import MessagingOptions
from covey.messaging.queue_options import QueueOptions
from covey.settings import ServiceSettings, load
from tests.docs.pages import ROOT


def documented(section: str) -> dict[str, str]:
    """Return the settings of a section of the page, with their defaults as they are written there."""
    text = (ROOT / "docs/configuration.md").read_text()
    body = text.split(f"\n## {section}\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`[^|]+`) \| ([^|]+) \|", body, re.MULTILINE)
    return {name.replace("`", ""): default.replace("`", "") for name, default in rows}


def written(default: Any) -> str:
    """Return a default as the page writes it."""
    match default:
        case _ if default is PydanticUndefined or default is MISSING:
            return "required"
        case None | []:
            return "none"
        case {} | "":
            return "empty"
        case timedelta():
            return f"{default.total_seconds():g} s"
        case frozenset():
            return ", ".join(sorted(default))
        case KeepAlive():
            return "KeepAlive()" if default == KeepAlive() else str(default)
        case _:
            return str(default)


def variables() -> dict[str, str]:
    """Return the environment variables of a service, with their defaults."""
    found = {}
    for name, field in ServiceSettings.model_fields.items():
        alias = field.validation_alias
        names = [str(n) for n in alias.choices if str(n).isupper()] if isinstance(alias, AliasChoices) else [name]
        found[", ".join(n.upper() for n in names)] = written(field.default)
    return found


def keys(prefix: str, entry: type[BaseModel]) -> dict[str, str]:
    """Return the keys of a table of the system file, with their defaults."""
    return {f"{prefix}.{name}": written(field.default) for name, field in entry.model_fields.items()}


def test_every_variable_of_a_service_is_on_the_page() -> None:
    assert documented("A service") == variables()


def test_every_key_of_the_system_file_is_on_the_page() -> None:
    tables = {
        "system": System,
        "services": ServiceEntry,
        "processes": ProcessEntry,
        "engines": NatsEntry,
        "demo": DemoEntry,
        "drill": DrillEntry,
    }
    assert set(System.model_fields) == {*tables, "root"}

    assert documented("`covey.toml`") == {
        "system.name": "required",
        "system.broker": "nats",
        **keys("services.<name>", ServiceEntry),
        **keys("processes.<name>", ProcessEntry),
        **keys("engines.nats", NatsEntry),
        **keys("engines.streams", StreamsEntry),
        **keys("demo", DemoEntry),
        **keys("drill", DrillEntry),
    }


@pytest.mark.parametrize(
    ("section", "options"),
    [
        ("Messaging", MessagingOptions),
        ("Queues", QueueOptions),
        ("HTTP", HttpOptions),
        ("gRPC", GrpcOptions),
        ("Database", PoolOptions),
    ],
)
def test_every_option_is_on_the_page(section: str, options: Any) -> None:
    assert documented(section) == {field.name: written(field.default) for field in fields(options)}


class _Settings(ServiceSettings):
    provider_timeout: timedelta = timedelta(0)


@pytest.mark.parametrize(("text", "seconds"), [("3", 3), ("2.5", 2.5), ("PT2.5S", 2.5), ("PT1M", 60)])
def test_a_span_is_written_as_the_page_says(text: str, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://localhost/order")
    monkeypatch.setenv("NATS_URL", "nats://localhost")
    for name in ("POOL_WAIT", "PROVIDER_TIMEOUT"):
        monkeypatch.setenv(name, text)

    settings = load(_Settings, "order")

    assert settings.pool_wait == settings.provider_timeout == timedelta(seconds=seconds)


def test_a_span_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRAIN_TIMEOUT", "soon")

    with pytest.raises(ConfigurationError, match="DRAIN_TIMEOUT"):
        load(ServiceSettings, "order")
