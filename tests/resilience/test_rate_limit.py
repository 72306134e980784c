"""Rate limits: exact, over tasks, processes and outages."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from covey.errors import DefinitionError, ValkeyUnavailable
from covey.local.engines.embedded import Engines
from covey.resilience.rate_limit import LocalLimiter, RateLimit, RateLimiter, Verdict
from covey.testing.cable import Cable
from covey.testing.clock import FakeClock
from covey.testing.eventually import eventually
from covey.valkey.client import Valkey

HOURLY = ("default", RateLimit.parse("5/hour"))


@pytest.fixture
async def valkey(covey_engines: Engines) -> AsyncIterator[Valkey]:
    async with Valkey.open(covey_engines.valkey_url) as opened:
        yield opened


@pytest.fixture
def limiter(valkey: Valkey, system_name: str) -> RateLimiter:
    return RateLimiter(valkey, system_name)


async def test_so_many_are_admitted_and_then_none(limiter: RateLimiter) -> None:
    verdicts = [await limiter.take("anna", [HOURLY]) for _ in range(7)]

    assert [verdict.admitted for verdict in verdicts] == [True] * 5 + [False] * 2
    assert [verdict.uses[0].left for verdict in verdicts] == [4, 3, 2, 1, 0, 0, 0]
    assert timedelta(minutes=11) < verdicts[-1].retry_after <= timedelta(minutes=12)
    assert timedelta(minutes=59) < verdicts[-1].uses[0].full_after <= timedelta(hours=1)


async def test_each_subject_has_its_own_count(limiter: RateLimiter) -> None:
    for _ in range(5):
        await limiter.take("anna", [HOURLY])

    assert not (await limiter.take("anna", [HOURLY])).admitted
    assert (await limiter.take("ben", [HOURLY])).admitted


async def test_what_one_limit_refuses_is_taken_from_no_other(limiter: RateLimiter) -> None:
    daily = ("daily", RateLimit.parse("100/day"))
    for _ in range(5):
        await limiter.take("anna", [HOURLY, daily])

    refused = await limiter.take("anna", [HOURLY, daily])
    after = await limiter.take("anna", [daily])

    assert not refused.admitted
    assert refused.uses[1].retry_after == timedelta()
    assert after.uses[0].left == 94


async def test_units_come_back_one_by_one(limiter: RateLimiter) -> None:
    limit = ("quick", RateLimit.parse("100/minute"))
    await limiter.take("anna", [limit], cost=100)
    refused = await limiter.take("anna", [limit])

    await eventually(lambda: _admitted(limiter, limit))

    assert timedelta() < refused.retry_after <= timedelta(milliseconds=600)
    assert not (await limiter.take("anna", [limit], cost=9)).admitted


async def _admitted(limiter: RateLimiter, limit: tuple[str, RateLimit]) -> bool:
    return (await limiter.take("anna", [limit])).admitted


async def test_a_count_that_is_full_again_is_forgotten(valkey: Valkey, limiter: RateLimiter, system_name: str) -> None:
    await limiter.take("anna", [("quick", RateLimit.parse("100/second"))])

    await eventually(lambda: _empty(valkey, system_name))


async def _empty(valkey: Valkey, system: str) -> bool:
    _, keys = await valkey.call("SCAN", 0, "MATCH", f"{system}:*", "COUNT", 100_000)
    return not keys


async def test_a_clock_that_was_set_back_closes_nobody_out_for_longer_than_the_limit_says(
    valkey: Valkey, limiter: RateLimiter, system_name: str
) -> None:
    await limiter.take("anna", [HOURLY])
    (key,) = (await valkey.call("SCAN", 0, "MATCH", f"{system_name}:*", "COUNT", 100_000))[1]
    await valkey.call("INCRBY", key, 86_400_000_000)

    verdict = await limiter.take("anna", [HOURLY])

    assert not verdict.admitted
    assert verdict.retry_after <= timedelta(minutes=12)


@pytest.mark.parametrize("together", [50, 200])
async def test_however_many_ask_at_once_no_more_are_admitted(limiter: RateLimiter, together: int) -> None:
    limit = ("many", RateLimit.parse("30/hour"))

    verdicts = await asyncio.gather(*(limiter.take("anna", [limit]) for _ in range(together)))

    assert sum(verdict.admitted for verdict in verdicts) == 30


async def test_of_those_who_ask_at_once_each_takes_from_all_limits_or_from_none(limiter: RateLimiter) -> None:
    daily = ("daily", RateLimit.parse("100/day"))
    asked = [("anna", 2), ("ben", 2), ("anna", 4), ("anna", 2), ("ben", 3), ("anna", 2), ("ben", 2), ("ben", 2)]

    found = await asyncio.gather(*(limiter.take(who, [HOURLY, daily], cost) for who, cost in asked))

    for subject in ("anna", "ben"):
        taken = sum(
            cost for (who, cost), verdict in zip(asked, found, strict=True) if who == subject and verdict.admitted
        )
        left = [use.left for use in (await limiter.take(subject, [HOURLY, daily], 6)).uses]
        assert taken in (4, 5)
        assert left == [5 - taken, 100 - taken]


PROCESS = """
import asyncio, sys
from covey.resilience.rate_limit import RateLimit, RateLimiter
from covey.valkey.client import Valkey

async def main():
    async with Valkey.open(sys.argv[1]) as valkey:
        limiter, limit = RateLimiter(valkey, sys.argv[2]), ("many", RateLimit.parse("1000/day"))
        verdicts = await asyncio.gather(*(limiter.take("anna", [limit]) for _ in range(400)))
        print(sum(verdict.admitted for verdict in verdicts))

asyncio.run(main())
"""


async def test_eight_processes_together_admit_no_more_than_one_would(covey_engines: Engines, system_name: str) -> None:
    command = [sys.executable, "-c", PROCESS, covey_engines.valkey_url, system_name]
    processes = [await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE) for _ in range(8)]

    outputs = [(await process.communicate())[0] for process in processes]

    assert sum(map(int, outputs)) == 1000


class TestWhileValkeyIsAway:
    async def test_each_process_counts_for_itself(self, covey_engines: Engines, system_name: str) -> None:
        async with Cable.to(covey_engines.valkey_url) as cable, Valkey.open(cable.url) as valkey:
            limiter = RateLimiter(valkey, system_name)
            cable.cut()

            verdicts = [await limiter.take("anna", [HOURLY]) for _ in range(7)]

        assert [verdict.admitted for verdict in verdicts] == [True] * 5 + [False] * 2

    async def test_who_waited_together_when_it_died_is_counted_here(
        self, covey_engines: Engines, system_name: str
    ) -> None:
        async with Cable.to(covey_engines.valkey_url) as cable, Valkey.open(cable.url) as valkey:
            limiter = RateLimiter(valkey, system_name)
            cable.freeze()
            asked = [asyncio.ensure_future(limiter.take("anna", [HOURLY])) for _ in range(7)]
            await asyncio.sleep(0)
            cable.cut()

            verdicts = await asyncio.gather(*asked)

        assert sum(verdict.admitted for verdict in verdicts) == 5

    async def test_a_limit_may_be_declared_open_or_closed(self, covey_engines: Engines, system_name: str) -> None:
        async with Cable.to(covey_engines.valkey_url) as cable, Valkey.open(cable.url) as valkey:
            cable.cut()

            assert (await RateLimiter(valkey, system_name, "admit").take("anna", [HOURLY])).admitted
            with pytest.raises(ValkeyUnavailable):
                await RateLimiter(valkey, system_name, "refuse").take("anna", [HOURLY])

    async def test_without_one_it_is_local(self, system_name: str) -> None:
        limiter = RateLimiter(None, system_name)

        assert [(await limiter.take("anna", [HOURLY])).admitted for _ in range(6)] == [True] * 5 + [False]

    async def test_without_one_too_it_is_closed_or_open_where_that_is_declared(self, system_name: str) -> None:
        """A setting that is missing must not open what is to be closed."""
        with pytest.raises(ValkeyUnavailable, match="VALKEY_URL"):
            await RateLimiter(None, system_name, "refuse").take("anna", [HOURLY])
        open_ = RateLimiter(None, system_name, "admit")
        assert all([(await open_.take("anna", [HOURLY])).admitted for _ in range(6)])


class TestLocally:
    async def test_it_says_the_same_as_the_server(self, limiter: RateLimiter) -> None:
        local = LocalLimiter(FakeClock())
        limits = [HOURLY, ("daily", RateLimit.parse("7/day"))]

        for cost in (1, 2, 1, 3, 1, 1):
            ours, theirs = local.take("anna", limits, cost), await limiter.take("anna", limits, cost)
            assert _shape(ours) == _shape(theirs)

    @given(st.lists(st.tuples(st.floats(0, 400), st.integers(1, 3)), max_size=60))
    def test_no_moment_admits_more_than_has_come_back(self, steps: list[tuple[float, int]]) -> None:
        clock = FakeClock()
        limiter = LocalLimiter(clock)
        elapsed, taken = 0.0, 0

        for pause, cost in steps:
            asyncio.run(clock.advance(timedelta(seconds=pause)))
            elapsed += pause
            taken += cost if limiter.take("anna", [HOURLY], cost).admitted else 0
            assert taken <= 5 + elapsed / 720 + 1e-3

    async def test_it_remembers_only_so_many_subjects(self) -> None:
        limiter = LocalLimiter(FakeClock())

        for number in range(10_100):
            limiter.take(f"subject {number}", [HOURLY], 5)

        assert limiter.take("subject 0", [HOURLY], 5).admitted
        assert not limiter.take("subject 10099", [HOURLY], 1).admitted


def _shape(verdict: Verdict) -> tuple[bool, list[tuple[int, bool]]]:
    return verdict.admitted, [(use.left, use.retry_after > timedelta()) for use in verdict.uses]


@pytest.mark.parametrize(
    ("text", "most", "seconds"),
    [("100/hour", 100, 3_600), ("1/second", 1, 1), ("5/30 seconds", 5, 30), ("7/day", 7, 86_400)],
)
def test_a_limit_reads_as_it_is_said(text: str, most: int, seconds: int) -> None:
    assert RateLimit.parse(text) == RateLimit(most, timedelta(seconds=seconds))


@pytest.mark.parametrize("text", ["", "100", "0/hour", "-1/hour", "1/fortnight", "1/0 seconds", "2000000/second"])
def test_what_is_no_limit_is_a_mistake(text: str) -> None:
    with pytest.raises(DefinitionError):
        RateLimit.parse(text)
