"""The circuit breaker: opens on a share of failures, closes on few probes, counts nothing where it does not belong."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from covey.errors import DefinitionError
from covey.resilience.circuit_breaker import BreakerOptions, CircuitBreaker, CircuitOpen
from covey.testing.clock import FakeClock

OPTIONS = BreakerOptions(minimum=10, window=timedelta(seconds=10), rest=timedelta(seconds=5), probes=2)


@pytest.fixture
def changes() -> list[str]:
    return []


@pytest.fixture
def breaker(fake_clock: FakeClock, changes: list[str]) -> CircuitBreaker:
    return CircuitBreaker("payment", OPTIONS, fake_clock, changes.append)


def call(breaker: CircuitBreaker, outcome: str, times: int = 1) -> None:
    for _ in range(times):
        getattr(breaker, outcome)(breaker.enter())


def test_few_failures_are_too_few_to_tell(breaker: CircuitBreaker) -> None:
    call(breaker, "failed", 9)

    assert breaker.state == "closed"


def test_enough_failures_open_it_and_nobody_passes(breaker: CircuitBreaker, changes: list[str]) -> None:
    call(breaker, "failed", 10)

    with pytest.raises(CircuitOpen) as refused:
        breaker.enter()
    assert breaker.state == "open"
    assert changes == ["open"]
    assert refused.value.retry_after == timedelta(seconds=5)


def test_five_failures_among_thousands_of_successes_are_noise(breaker: CircuitBreaker) -> None:
    for _ in range(5):
        call(breaker, "succeeded", 800)
        call(breaker, "failed")

    assert breaker.state == "closed"


async def test_what_has_left_the_window_does_not_count(breaker: CircuitBreaker, fake_clock: FakeClock) -> None:
    call(breaker, "failed", 9)
    await fake_clock.advance(timedelta(seconds=11))
    call(breaker, "failed", 9)

    assert breaker.state == "closed"


async def test_failures_of_several_slices_add_up(breaker: CircuitBreaker, fake_clock: FakeClock) -> None:
    for _ in range(10):
        call(breaker, "failed")
        await fake_clock.advance(timedelta(seconds=0.9))

    assert breaker.state == "open"


@pytest.mark.parametrize("hours", [-1, 1])
async def test_a_wall_clock_that_is_set_neither_opens_nor_closes_it(
    breaker: CircuitBreaker, fake_clock: FakeClock, hours: int
) -> None:
    call(breaker, "failed", 9)
    fake_clock.set_wall(timedelta(hours=hours))
    call(breaker, "failed")
    assert breaker.state == "open", "what was counted is still counted"

    fake_clock.set_wall(timedelta(hours=hours))
    with pytest.raises(CircuitOpen):
        breaker.enter()
    await fake_clock.advance(timedelta(seconds=5))
    breaker.enter()

    assert breaker.state == "half-open"


def test_what_says_nothing_of_the_target_counts_neither_way(breaker: CircuitBreaker) -> None:
    call(breaker, "failed", 9)
    call(breaker, "ignored", 100)
    assert breaker.state == "closed"

    call(breaker, "failed")

    assert breaker.state == "open"


class TestAfterItsRest:
    @pytest.fixture(autouse=True)
    async def rested(self, breaker: CircuitBreaker, fake_clock: FakeClock) -> None:
        call(breaker, "failed", 10)
        await fake_clock.advance(timedelta(seconds=5))

    def test_as_many_probes_pass_as_are_needed_and_no_more(self, breaker: CircuitBreaker) -> None:
        entered = [breaker.enter() for _ in range(2)]

        for _ in range(500):
            with pytest.raises(CircuitOpen):
                breaker.enter()
        assert breaker.state == "half-open"
        assert len(entered) == 2

    def test_probes_that_succeed_close_it(self, breaker: CircuitBreaker, changes: list[str]) -> None:
        call(breaker, "succeeded", 2)

        assert changes == ["open", "half-open", "closed"]

    def test_after_closing_old_failures_are_forgotten(self, breaker: CircuitBreaker) -> None:
        call(breaker, "succeeded", 2)
        call(breaker, "failed", 9)

        assert breaker.state == "closed"

    def test_a_probe_that_fails_opens_it_for_another_rest(self, breaker: CircuitBreaker) -> None:
        call(breaker, "failed")

        with pytest.raises(CircuitOpen) as refused:
            breaker.enter()
        assert refused.value.retry_after == timedelta(seconds=5)

    def test_a_probe_that_says_nothing_gives_its_place_back(self, breaker: CircuitBreaker) -> None:
        call(breaker, "ignored", 50)
        call(breaker, "succeeded", 2)

        assert breaker.state == "closed"


async def test_a_late_success_from_before_it_opened_does_not_close_it(
    breaker: CircuitBreaker, fake_clock: FakeClock
) -> None:
    late = [breaker.enter() for _ in range(5)]
    call(breaker, "failed", 10)
    await fake_clock.advance(timedelta(seconds=5))
    probe = breaker.enter()

    for entered in late:
        breaker.succeeded(entered)

    assert breaker.state == "half-open"
    breaker.succeeded(probe)
    assert breaker.state == "half-open"


async def test_a_late_failure_from_before_does_not_open_one_that_has_closed_since(
    breaker: CircuitBreaker, fake_clock: FakeClock
) -> None:
    late = [breaker.enter() for _ in range(20)]
    call(breaker, "failed", 10)
    await fake_clock.advance(timedelta(seconds=5))
    slow = breaker.enter()
    call(breaker, "failed")
    await fake_clock.advance(timedelta(seconds=5))
    call(breaker, "succeeded", 2)

    for entered in [*late, slow]:
        breaker.failed(entered)

    assert breaker.state == "closed"


@given(st.lists(st.sampled_from(["enter"] * 4 + ["succeeded", "failed", "ignored", "wait"]), min_size=5, max_size=200))
def test_never_more_probes_than_are_needed_are_under_way(steps: list[str]) -> None:
    now = [0.0]

    class Moved(FakeClock):
        def monotonic(self) -> float:
            return now[0]

    breaker = CircuitBreaker("x", OPTIONS, Moved())
    call(breaker, "failed", 10)
    now[0] += 5
    probes: list[object] = []
    for step in steps:
        if step == "wait":
            now[0] += 5
        elif step == "enter":
            try:
                entered = breaker.enter()
            except CircuitOpen:
                continue
            probes.append(entered)
        elif probes:
            getattr(breaker, step)(probes.pop())
        if breaker.state == "half-open":
            state = breaker._state
            assert sum(probe is state for probe in probes) <= OPTIONS.probes


@pytest.mark.parametrize(
    "wrong", [{"failure_rate": 0}, {"failure_rate": 1.5}, {"minimum": 0}, {"probes": 0}, {"rest": timedelta()}]
)
def test_one_that_could_not_work_is_a_mistake(wrong: dict[str, object]) -> None:
    with pytest.raises(DefinitionError):
        BreakerOptions(**wrong)  # type: ignore[arg-type]  # wrong on purpose
