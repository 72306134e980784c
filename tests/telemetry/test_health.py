from __future__ import annotations

import asyncio
import time
from datetime import timedelta

from covey.telemetry.health import Readiness
from covey.testing.clock import FakeClock


async def fine() -> None:
    """Pass."""


async def test_a_service_is_ready_when_every_check_passes() -> None:
    readiness = Readiness()
    readiness.add("database", fine)
    readiness.add("broker", fine)
    readiness.started()

    report = await readiness.report()

    assert report.ready
    assert report.checks == {"database": "ok", "broker": "ok"}


async def test_it_is_not_ready_before_it_has_started_and_while_it_drains() -> None:
    readiness = Readiness()
    assert not (await readiness.report()).ready

    readiness.started()
    assert (await readiness.report()).ready

    readiness.drain()
    assert (await readiness.report()).checks == {"service": "draining"}


async def test_draining_shows_at_once_although_the_last_report_is_kept() -> None:
    readiness = Readiness(keep=timedelta(hours=1))
    readiness.started()
    assert (await readiness.report()).ready

    readiness.drain()

    assert not (await readiness.report()).ready


async def test_a_check_that_raises_says_why_without_secrets() -> None:
    async def away() -> None:
        raise ConnectionError("postgresql://order:hunter2@db/order refused")

    readiness = Readiness()
    readiness.add("database", away)
    readiness.add("broker", fine)
    readiness.started()

    report = await readiness.report()

    assert not report.ready
    assert report.checks["broker"] == "ok"
    assert report.checks["database"].startswith("ConnectionError")
    assert "hunter2" not in report.checks["database"]


async def test_a_check_that_hangs_is_given_up_and_the_others_do_not_wait_for_it() -> None:
    async def hangs() -> None:
        await asyncio.Event().wait()

    readiness = Readiness()
    for name in ("a", "b", "c"):
        readiness.add(name, hangs, timeout=timedelta(seconds=0.1))
    readiness.started()
    begun = time.monotonic()

    report = await readiness.report()

    assert time.monotonic() - begun < 0.29
    assert report.checks == dict.fromkeys("abc", "no answer within 0.1 s")


async def test_however_many_ask_the_checks_run_once_and_their_outcome_is_kept_shortly() -> None:
    asked = 0

    async def counts() -> None:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0)

    clock = FakeClock()
    readiness = Readiness(clock, keep=timedelta(seconds=0.5))
    readiness.add("database", counts)
    readiness.started()

    await asyncio.gather(*[readiness.report() for _ in range(50)])
    await readiness.report()
    assert asked == 1

    await clock.advance(timedelta(seconds=0.6))
    await readiness.report()
    assert asked == 2


async def test_one_who_stops_waiting_does_not_spoil_it_for_the_others() -> None:
    release = asyncio.Event()

    async def slow() -> None:
        await release.wait()

    readiness = Readiness()
    readiness.add("database", slow, timeout=timedelta(seconds=5))
    readiness.started()
    impatient = asyncio.create_task(readiness.report())
    patient = asyncio.create_task(readiness.report())
    await asyncio.sleep(0)

    impatient.cancel()
    release.set()

    assert (await patient).ready
