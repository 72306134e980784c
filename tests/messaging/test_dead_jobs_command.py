"""`covey dead … --queue`, as it is called: in a process of its own, on the Valkey of a service."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from covey.errors import ConfigurationError
from covey.local.dead_jobs import dead_jobs_of
from covey.local.engines.embedded import Engines
from covey.local.environment import write_environment
from covey.testing.eventually import eventually
from tests.messaging.queues import OpenPlace, Place, fail, running

Covey = Callable[..., Awaitable[tuple[int, str]]]


@pytest.fixture
def covey(covey_engines: Engines, system_name: str) -> Covey:
    """A function that calls `covey dead … --queue things`, and returns the exit status and all that was printed."""

    async def call(*words: str, queue: str = "things") -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "covey.cli", "dead", *words, "--queue", queue),
            env=os.environ | {"VALKEY_URL": covey_engines.valkey_url, "COVEY_SYSTEM": system_name},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        out, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out.decode()

    return call


async def died(place: Place, *ids: str) -> None:
    """Have jobs of these ids die, one after the other."""
    place.doings.then = fail
    async with running(place):
        for n, id_ in enumerate(ids):
            await place.add(n, id=id_)
            await eventually(lambda: _is_dead(place, id_))  # noqa: B023 - awaited


async def _is_dead(place: Place, id_: str) -> bool:
    return id_ in {dead.id for dead in await place.ask(place.queue.dead)}


async def test_a_job_is_listed_shown_and_replayed(open_place: OpenPlace, covey: Covey) -> None:
    place, other = await open_place(), await open_place()
    await died(place, "one", "two")

    status, listed = await covey("list", "shop", "--json")
    assert status == 0
    assert [(one["id"], one["error"], one["job"]) for one in json.loads(listed)] == [
        ("two", "ValueError: no luck", {"n": 1}),
        ("one", "ValueError: no luck", {"n": 0}),
    ]
    _, shown = await covey("show", "shop", "one")
    assert '"n": 0' in shown
    assert "covey dead replay|discard shop one --queue things" in shown

    assert (await covey("replay", "shop", "one"))[0] == 0
    async with running(other):
        await eventually(lambda: other.doings.done == [0])
    status, again = await covey("replay", "shop", "one")
    assert (status, "has no dead job 'one'" in again) == (1, True)


async def test_an_id_is_shown_as_a_shell_reads_it(open_place: OpenPlace, covey: Covey) -> None:
    place = await open_place()
    await died(place, "it's; $(reboot)")

    _, shown = await covey("show", "shop", "it's; $(reboot)")

    words = shlex.split(shown.partition("next: ")[2])
    assert words == ["covey", "dead", "replay|discard", "shop", "it's; $(reboot)", "--queue", "things"]


async def test_all_of_an_error_are_replayed_and_the_rest_discarded(open_place: OpenPlace, covey: Covey) -> None:
    place, other = await open_place(), await open_place()
    await died(place, "one", "two")

    assert "replayed 0;" in (await covey("replay", "shop", "--all", "--reason", "another error"))[1]
    assert (await covey("discard", "shop", "two"))[0] == 0
    assert "replayed 1;" in (await covey("replay", "shop", "--all", "--reason", "no luck", "--rate", "1000"))[1]

    async with running(other):
        await eventually(other.is_empty)
    assert other.doings.done == [0]
    assert "has no dead job" in (await covey("list", "shop"))[1]


async def test_a_queue_that_is_not_there_is_named_with_those_that_are(place: Place, covey: Covey) -> None:
    await place.add(1)

    status, said = await covey("list", "shop", queue="thigns")

    assert status == 2
    assert "has no queue 'thigns'" in said
    assert "it has: things" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [(["list", "shop", "--type", "a.b.v1"], "--type"), (["discard", "shop", "one", "--reason", "x"], "forgotten")],
)
async def test_what_a_queue_does_not_have_is_a_mistake(covey: Covey, words: list[str], said: str) -> None:
    status, printed = await covey(*words)

    assert (status, said in printed) == (2, True)


async def test_in_a_project_the_queue_is_found_where_the_system_is_up(
    place: Place, covey_engines: Engines, system_name: str, tmp_path: Path
) -> None:
    await died(place, "one")
    told = {"VALKEY_URL": covey_engines.valkey_url, "COVEY_SYSTEM": system_name}

    with pytest.raises(ConfigurationError, match="the Valkey of 'shop' is not known"):
        async with dead_jobs_of("shop", "things", tmp_path, {}):
            pytest.fail("nobody has told where it is")
    write_environment(tmp_path, "shop", told)
    async with dead_jobs_of("shop", "things", tmp_path, {}) as jobs:
        assert [job.id for job in await jobs.page(10, None)] == ["one"]
