"""A wrong variable stops a service before it opens anything, with a line that names it and shows no secret."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

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
