"""The policy of a call: what is tried again and what is not, in which order, and within which time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from covey.clock import SystemClock
from covey.context import new_context, use
from covey.errors import (
    Conflict,
    DeadlineExceeded,
    Defect,
    DependencyTooSlow,
    DependencyUnavailable,
    NotFound,
    Unavailable,
)
from covey.resilience.bulkhead import BulkheadFull, BulkheadOptions
from covey.resilience.circuit_breaker import BreakerOptions, CircuitOpen
from covey.resilience.policy import NeverHeard, NotOffered, Policy, PolicyOptions, TriedAlready
from covey.resilience.retry import RetryOptions
from covey.testing.clock import FakeClock

OPTIONS = PolicyOptions(
    deadline=timedelta(seconds=10),
    timeout=timedelta(seconds=2),
    retry=RetryOptions(attempts=3),
    breaker=BreakerOptions(minimum=5),
    bulkhead=BulkheadOptions(most=2, waiting=2),
)
DOWN = DependencyUnavailable("down")


class Target:
    """Answers with what it was told to, one after the other; the last again and again."""

    def __init__(self, *answers: object) -> None:
        self.answers = list(answers)
        self.asked: list[float] = []

    async def __call__(self, seconds: float) -> object:
        self.asked.append(seconds)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, BaseException):
            raise answer
        return answer


@pytest.fixture
def policy(fake_clock: FakeClock) -> Policy:
    return Policy("payment", OPTIONS, fake_clock, lambda: 0.0)


async def test_an_answer_is_returned_and_the_target_knows_its_time(policy: Policy) -> None:
    target = Target("yes")

    assert await policy.call(target, repeatable=True) == "yes"
    assert target.asked == [2.0]


async def test_a_target_that_is_back_soon_is_asked_again(policy: Policy) -> None:
    target = Target(DOWN, DOWN, "yes")

    assert await policy.call(target, repeatable=True) == "yes"


async def test_so_many_attempts_and_no_more(policy: Policy) -> None:
    target = Target(DOWN)

    with pytest.raises(DependencyUnavailable):
        await policy.call(target, repeatable=True)
    assert len(target.asked) == 3


async def test_what_may_have_had_its_effect_is_not_repeated(policy: Policy) -> None:
    target = Target(DOWN)

    with pytest.raises(DependencyUnavailable):
        await policy.call(target, repeatable=False)
    assert len(target.asked) == 1


@pytest.mark.parametrize("error", [Defect("ours"), RuntimeError("ours"), asyncio.CancelledError()])
async def test_what_is_not_the_targets_fault_is_raised_at_once_and_counts_for_nothing(
    policy: Policy, error: BaseException
) -> None:
    target = Target(error)

    for _ in range(20):
        with pytest.raises(type(error)):
            await policy.call(target, repeatable=True)

    assert len(target.asked) == 20
    assert policy.breaker.state == "closed"
    assert policy.bulkhead.under_way == 0


@pytest.mark.parametrize(
    "refusal", [NotFound("no"), Conflict("no"), NotOffered("no"), TriedAlready("others do not answer")]
)
class TestARefusal:
    """Whoever refuses a request, or says that others do not answer, is there."""

    async def test_as_a_probe_closes_the_breaker(
        self, policy: Policy, fake_clock: FakeClock, refusal: Exception
    ) -> None:
        await failing(policy, DOWN, times=5)
        assert policy.breaker.state == "open"
        await fake_clock.advance(OPTIONS.breaker.rest)

        await failing(policy, refusal, times=OPTIONS.breaker.probes)

        assert policy.breaker.state == "closed"

    async def test_counts_among_those_of_which_a_share_must_fail(self, policy: Policy, refusal: Exception) -> None:
        await failing(policy, refusal, times=95)
        await failing(policy, DOWN, times=5)

        assert policy.breaker.state == "closed"


async def test_how_an_attempt_ended_is_counted_also_when_it_was_refused(policy: Policy) -> None:
    await failing(policy, NotFound("no"), times=2)
    await failing(policy, TriedAlready("others"), times=1)

    assert {how: count for how, count in policy.outcomes.items() if count} == {"rejected": 2, "tried_already": 1}


async def test_what_a_connection_never_heard_is_no_failure_of_the_target(policy: Policy) -> None:
    await failing(policy, NeverHeard("closed before"), times=20)

    assert policy.breaker.state == "closed"
    assert policy.outcomes["failed"] == 20


async def test_what_is_refused_here_pays_for_no_retry(policy: Policy) -> None:
    with pytest.raises(DependencyUnavailable):
        await policy.call(Target(DOWN), repeatable=True)
    await failing(policy, DOWN, times=2)
    assert policy.breaker.state == "open"
    left = policy.budget.left

    for _ in range(100):
        with pytest.raises(CircuitOpen):
            await policy.call(Target("yes"), repeatable=True)

    assert policy.budget.left == left < OPTIONS.retry.reserve


async def failing(policy: Policy, error: Exception, *, times: int) -> None:
    for _ in range(times):
        with pytest.raises(type(error)):
            await policy.call(Target(error), repeatable=False)


async def test_the_budget_bounds_what_retries_add(policy: Policy) -> None:
    options = replace(
        OPTIONS, retry=RetryOptions(attempts=3, share=0.1, reserve=5), breaker=BreakerOptions(minimum=10**6)
    )
    policy = Policy("payment", options, FakeClock(), lambda: 0.0)
    target = Target(DOWN)

    for _ in range(1_000):
        with pytest.raises(DependencyUnavailable):
            await policy.call(target, repeatable=True)

    assert 1_100 <= len(target.asked) <= 1_105


async def test_an_open_breaker_asks_nobody_and_is_not_tried_again(policy: Policy) -> None:
    target = Target(DOWN)
    for _ in range(5):
        with pytest.raises(Unavailable):
            await policy.call(target, repeatable=True)
    asked = len(target.asked)

    with pytest.raises(CircuitOpen):
        await policy.call(target, repeatable=True)

    assert len(target.asked) == asked == 5


async def test_a_full_bulkhead_refuses_at_once_and_says_nothing_of_the_target(policy: Policy) -> None:
    gate = asyncio.Event()

    async def slow(seconds: float) -> str:
        await gate.wait()
        return "yes"

    calls = [asyncio.create_task(policy.call(slow, repeatable=True)) for _ in range(4)]
    await asyncio.sleep(0)

    for _ in range(20):
        with pytest.raises(BulkheadFull):
            await policy.call(slow, repeatable=True)
    gate.set()

    assert await asyncio.gather(*calls) == ["yes"] * 4
    assert policy.breaker.state == "closed"
    assert policy.bulkhead.under_way == 0


async def test_no_retry_begins_that_could_not_end_in_time(fake_clock: FakeClock) -> None:
    policy = Policy("payment", OPTIONS, fake_clock, lambda: 1.0)
    target = Target(DependencyUnavailable("busy", timedelta(seconds=60)))

    with pytest.raises(DependencyUnavailable):
        await policy.call(target, repeatable=True)

    assert len(target.asked) == 1


async def test_a_retry_does_not_come_before_the_target_wants_it(fake_clock: FakeClock, policy: Policy) -> None:
    target = Target(DependencyUnavailable("busy", timedelta(seconds=3)), "yes")

    call = asyncio.create_task(policy.call(target, repeatable=True))
    await fake_clock.sleepers(1)
    await fake_clock.advance(timedelta(seconds=2.9))
    assert len(target.asked) == 1
    await fake_clock.advance(timedelta(seconds=0.2))

    assert await call == "yes"


def patient(seconds: float) -> Callable[[float], Awaitable[None]]:
    async def wait(allowed: float) -> None:
        await asyncio.sleep(seconds)

    return wait


async def test_an_attempt_that_takes_too_long_is_a_failure() -> None:
    options = replace(OPTIONS, timeout=timedelta(milliseconds=20), retry=RetryOptions(attempts=1))
    policy = Policy("payment", options, SystemClock())

    for _ in range(5):
        with pytest.raises(DependencyUnavailable, match=r"did not answer within 0\.02 s"):
            await policy.call(patient(5), repeatable=True)

    assert policy.breaker.state == "open"


class Stumbling(SystemClock):
    """A clock of a process that is held up for 15 ms whenever it looks at it."""

    def __init__(self) -> None:
        self._lost = 0.0

    def monotonic(self) -> float:
        self._lost += 0.015
        return super().monotonic() + self._lost


async def test_a_pause_of_our_own_process_before_an_attempt_excuses_no_target() -> None:
    options = replace(
        OPTIONS, timeout=timedelta(seconds=0.2), deadline=timedelta(seconds=0.2), retry=RetryOptions(attempts=1)
    )
    policy = Policy("payment", options, Stumbling())

    with pytest.raises(DependencyTooSlow):
        await policy.call(patient(5), repeatable=True)


async def test_the_callers_own_deadline_bounds_all_and_says_nothing_of_the_target() -> None:
    policy = Policy("payment", OPTIONS, SystemClock())
    now = SystemClock().now()

    for _ in range(6):
        hurried = replace(new_context(), deadline=SystemClock().now() + timedelta(milliseconds=20))
        with use(hurried), pytest.raises(DeadlineExceeded):
            await policy.call(patient(5), repeatable=True)

    assert SystemClock().now() - now < timedelta(seconds=1)
    assert policy.breaker.state == "closed"


async def test_nobody_is_asked_when_the_deadline_is_over(policy: Policy, fake_clock: FakeClock) -> None:
    target = Target("yes")

    late = replace(new_context(), deadline=fake_clock.now() - timedelta(seconds=1))
    with use(late), pytest.raises(DeadlineExceeded):
        await policy.call(target, repeatable=True)

    assert target.asked == []


async def test_who_is_cancelled_while_it_waits_for_a_place_takes_none(policy: Policy) -> None:
    gate = asyncio.Event()

    async def slow(seconds: float) -> None:
        await gate.wait()

    calls = [asyncio.create_task(policy.call(slow, repeatable=True)) for _ in range(4)]
    await asyncio.sleep(0)
    calls[3].cancel()
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(*calls, return_exceptions=True)

    assert (policy.bulkhead.under_way, policy.bulkhead.waiting) == (0, 0)
