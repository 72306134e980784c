"""A wrong variable stops a service before it opens anything, with a line that names it and shows no secret."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta

import pytest

from covey.errors import ConfigurationError
from covey.settings import ServiceSettings, load

GOOD = {
    "DATABASE_URL": "postgresql://shop:for-tests@localhost:5432/shop",
    "NATS_URL": "nats://localhost:4222,localhost:4223",
    "VALKEY_URL": "valkey://localhost:6379",
    "LOG_LEVEL": "debug",
    "DRAIN_TIMEOUT": "2.5",
    "COVEY_SYSTEM": "my-shop_2",
}
LOAD = """
from covey.errors import ConfigurationError
from covey.settings import ServiceSettings, load
try:
    print(load(ServiceSettings, "shop").drain_timeout)
except ConfigurationError as error:
    print(error)
"""


def said_about(**variables: str) -> str:
    """Load settings in a process whose environment has these; return what it prints."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path), **GOOD, **variables}
    return subprocess.run(
        [sys.executable, "-c", LOAD], env=environment, cwd="/", check=True, capture_output=True, text=True
    ).stdout


def test_right_ones_make_a_service() -> None:
    assert said_about() == "0:00:02.500000\n"


@pytest.mark.parametrize(
    ("name", "value", "hint"),
    [
        ("DATABASE_URL", "", "postgresql://"),
        ("DATABASE_URL", "mysql://shop:hunter2@localhost/shop", "postgresql://"),
        ("NATS_URL", "http://localhost", "nats://"),
        ("NATS_URL", "", "nats://"),
        ("BROKER_URL", "kafka://localhost", "valkey://"),
        ("BROKER_URL", "", "nats://"),
        ("VALKEY_URL", "foo", "valkey://"),
        ("LOG_LEVEL", "loud", "WARNING"),
        ("DRAIN_TIMEOUT", "-3", "greater"),
        ("COVEY_SYSTEM", "a b.c", "letters"),
        ("PORT", "99999", "65535"),
    ],
)
def test_a_wrong_one_is_named_with_what_it_should_be(name: str, value: str, hint: str) -> None:
    said = said_about(**{name: value})

    (line,) = [line for line in said.splitlines() if line.startswith("  ")]
    assert line.startswith(f"  {name}: ")
    assert hint in line
    assert "hunter2" not in said


def test_an_environment_that_is_given_is_read_in_place_of_the_process_s(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**GOOD, "PORT": "1", "POOL_SIZE": "3"}.items():
        monkeypatch.setenv(name, value)

    given = {"DATABASE_URL": "postgresql://b@c/d", "NATS_URL": "nats://e", "REDIS_URL": "redis://f", "port": "2"}
    found = load(ServiceSettings, "shop", given)

    assert (found.database_url, found.nats_url, found.valkey_url) == tuple(given.values())[:3]
    assert (found.port, found.pool_size, found.log_level) == (2, 10, "INFO")
    assert load(ServiceSettings, "shop").port == 1


def test_a_variable_that_a_given_environment_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", GOOD["DATABASE_URL"])

    with pytest.raises(ConfigurationError, match="working shop service:\n  DATABASE_URL: Field required\n`"):
        load(ServiceSettings, "shop", {"NATS_URL": "nats://e"})


@pytest.mark.parametrize("url", ["valkey://:a,b@c:6379/1", "redis://c", "nats://c,nats://d"])
def test_a_service_with_a_broker_url_needs_no_nats_url(url: str) -> None:
    found = load(ServiceSettings, "shop", {"DATABASE_URL": GOOD["DATABASE_URL"], "BROKER_URL": url})

    assert (found.broker, found.nats_url) == (url, "")


def test_a_broker_url_counts_before_a_nats_url() -> None:
    assert load(ServiceSettings, "shop", {**GOOD, "BROKER_URL": "valkey://c"}).broker == "valkey://c"
    assert load(ServiceSettings, "shop", GOOD).broker == GOOD["NATS_URL"]


def test_settings_of_a_service_s_own_are_read_from_a_given_environment_by_the_same_rules() -> None:
    class Own(ServiceSettings):
        tags: list[str]
        patience: timedelta

    found = load(Own, "shop", {**GOOD, "TAGS": '["a", "b"]', "PATIENCE": "PT2S"})

    assert (found.tags, found.patience) == (["a", "b"], timedelta(seconds=2))


def test_a_service_that_the_system_knows_by_another_name_does_not_start() -> None:
    told = r"covey\.toml has \[services\.shop\], and the code there is Service\('store'\): give both one name"

    with pytest.raises(ConfigurationError, match=told):
        load(ServiceSettings, "store", {**GOOD, "COVEY_SERVICE": "shop"})

    assert load(ServiceSettings, "shop", {**GOOD, "COVEY_SERVICE": "shop"}).covey_service == "shop"
