"""Retries: their pauses, and a budget that bounds what they add to the load."""

from __future__ import annotations

from datetime import timedelta

import pytest

from covey.errors import DefinitionError
from covey.resilience.retry import RetryBudget, RetryOptions


def test_pauses_grow_up_to_a_cap_and_are_drawn_from_zero_on() -> None:
    options = RetryOptions(base=timedelta(milliseconds=100), cap=timedelta(seconds=1))

    assert [options.pause_seconds(n, lambda: 1.0) for n in range(1, 7)] == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    assert options.pause_seconds(3, lambda: 0.0) == 0
    assert options.pause_seconds(10_000, lambda: 0.5) == 0.5


def test_while_a_target_is_down_retries_add_no_more_than_their_share() -> None:
    budget = RetryBudget(RetryOptions(share=0.1, reserve=10))
    retries = 0

    for _ in range(10_000):
        budget.pay_in()
        while budget.take_out():
            retries += 1

    assert 1_000 <= retries <= 1_010


def test_calm_times_save_up_no_more_than_the_reserve() -> None:
    budget = RetryBudget(RetryOptions(share=0.1, reserve=10))

    for _ in range(100_000):
        budget.pay_in()

    assert sum(budget.take_out() for _ in range(100)) == 10


@pytest.mark.parametrize(
    "wrong",
    [{"attempts": 0}, {"share": 1.5}, {"reserve": -1}, {"base": timedelta()}, {"cap": timedelta(milliseconds=1)}],
)
def test_retries_that_could_not_work_are_a_mistake(wrong: dict[str, object]) -> None:
    with pytest.raises(DefinitionError):
        RetryOptions(**wrong)  # type: ignore[arg-type]  # wrong on purpose
