"""What `covey up` says of messages and jobs that services have given up, read from their logs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from covey.local.notices import tell_of_dead_letters
from covey.local.system import ONE_PROCESS
from covey.testing.eventually import eventually


def line(event: str, **said: object) -> str:
    """Return what a service logs."""
    return json.dumps({"event": event, **said}, separators=(",", ":")) + "\n"


def dead(type_: str, error: str = "Invalid: no") -> str:
    """Return what a service logs of a dead letter."""
    return line("dead_letter", message_type=type_, error=error)


class Logs:
    """The logs of a system, and what was said of them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "logs"
        self._folder.mkdir()
        self.said: list[str] = []

    def write(self, name: str, text: str) -> None:
        with self.path(name).open("a") as log:
            log.write(text)

    def path(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    @asynccontextmanager
    async def followed(self) -> AsyncIterator[None]:
        telling = asyncio.create_task(tell_of_dead_letters(self._folder.parent, self.said.append, "covey"))
        await asyncio.sleep(0)
        try:
            yield
        finally:
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)


@pytest.fixture
def logs(tmp_path: Path) -> Logs:
    return Logs(tmp_path)


async def test_several_of_one_service_are_one_notice_and_what_was_there_before_is_none(logs: Logs) -> None:
    logs.write("order", dead("old.v1"))
    async with logs.followed():
        logs.write("order", dead("a.v1") + line("request", path="/") + dead("b.v1", "Unreadable: no JSON"))
        logs.write("payment", line("job_dead", queue="receipts", error="KeyError: 'x'"))
        logs.write("order", "no line of ours, dead_letter or not\n")
        await eventually(lambda: len(logs.said) == 2)

    assert sorted(logs.said) == [
        "order has given up b.v1 and 1 more: Unreadable: no JSON\n  covey dead list order",
        "payment has given up a job of the queue receipts: KeyError: 'x'\n  covey dead list payment --queue receipts",
    ]


async def test_half_a_line_waits_for_its_other_half_and_a_log_put_aside_for_the_new_one(logs: Logs) -> None:
    whole = dead("c.v1")
    logs.write("order", whole[:20])
    async with logs.followed():
        logs.write("order", dead("a.v1")[:20])
        logs.write("order", dead("a.v1")[20:])
        await eventually(lambda: logs.said)
        logs.write("order", dead("b.v1"))
        logs.path("order").rename(logs.path("order").with_suffix(".old"))
        logs.write("order", whole)
        await eventually(lambda: len(logs.said) >= 2)

    assert ["a.v1" in logs.said[0], "c.v1 and 1 more" in logs.said[1], len(logs.said)] == [True, True, 2]


async def test_services_that_share_a_process_are_told_apart(logs: Logs) -> None:
    logs.write(ONE_PROCESS, "")
    async with logs.followed():
        logs.write(ONE_PROCESS, line("dead_letter", service="order", message_type="a.v1", error="no"))
        await eventually(lambda: logs.said)

    assert logs.said == ["order has given up a.v1: no\n  covey dead list order"]


async def test_what_others_have_said_does_not_command_the_terminal(logs: Logs) -> None:
    async with logs.followed():
        logs.write("order", dead("a.v1", "\x1b]0;owned\x07"))
        await eventually(lambda: logs.said)

    assert "\x1b" not in logs.said[0]
    assert "owned" in logs.said[0]
