"""What an application is served with, whatever it speaks: telemetry that can be read, and that it is ready."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import pytest

from covey.settings import STATE
from covey.telemetry.health import Readiness
from covey.telemetry.telemetry import Telemetry

os.environ.pop(STATE, None)  # who runs these tests may have a system of that name, which is none of theirs


@pytest.fixture
def written() -> list[bytes]:
    """What the telemetry of this test has written, after a flush."""
    return []


@pytest.fixture
def telemetry(written: list[bytes]) -> Telemetry:
    return Telemetry.in_memory("test", written.append)


@pytest.fixture
def readiness() -> Readiness:
    readiness = Readiness()
    readiness.started()
    return readiness


@pytest.fixture
def log(telemetry: Telemetry, written: list[bytes]) -> Callable[[], list[dict[str, Any]]]:
    """A function that gives the log lines so far."""

    def log() -> list[dict[str, Any]]:
        telemetry.flush()
        return [json.loads(line) for line in b"".join(written).splitlines()]

    return log
