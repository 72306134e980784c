"""The policy of a call: what is tried again and what is not, in which order, and within which time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from covey.clock import SystemClock
from covey.context import new_context, use
from covey.errors import Conflict, DeadlineExceeded, DependencyUnavailable, Unavailable
from covey.resilience.bulkhead import BulkheadFull, BulkheadOptions
from covey.resilience.circuit_breaker import BreakerOptions, CircuitOpen
from covey.resilience.policy import Policy, PolicyOptions
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


@pytest.mark.parametrize("error", [Conflict("no"), RuntimeError("ours"), asyncio.CancelledError()])
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
