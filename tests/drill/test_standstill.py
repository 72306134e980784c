"""A process stands still with its children, and goes on with them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import psutil
import pytest

from covey.testing.drill.standstill import stop, wake
from covey.testing.eventually import eventually


@pytest.fixture
def parent() -> Iterator[subprocess.Popen[bytes]]:
    """A process with two children, of which none is left after the test."""
    process = subprocess.Popen(["sh", "-c", "sleep 60 & sleep 61 & echo; wait"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    children = psutil.Process(process.pid).children()
    yield process
    process.stdout.close()
    for one in (process, *children):
        one.kill()
    process.wait()


async def test_children_stand_still_too_and_all_go_on(parent: subprocess.Popen[bytes]) -> None:
    family = psutil.Process(parent.pid)
    everybody = {family, *family.children()}

    stopped = stop(parent.pid)

    assert set(stopped) == everybody
    assert len(everybody) == 3
    await eventually(lambda: all(one.status() == psutil.STATUS_STOPPED for one in everybody))
    wake(stopped)
    await eventually(lambda: all(one.status() == psutil.STATUS_SLEEPING for one in everybody))


async def test_children_of_a_dead_parent_go_on(parent: subprocess.Popen[bytes]) -> None:
    children = psutil.Process(parent.pid).children()
    stopped = stop(parent.pid)
    parent.kill()
    parent.wait()

    wake(stopped)

    await eventually(lambda: all(one.status() == psutil.STATUS_SLEEPING for one in children))


def test_nobody_stands_still_where_there_is_nobody() -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()

    assert stop(gone.pid) == []
