from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from covey.testing.eventually import eventually

SHORT = timedelta(seconds=0.05)


async def test_it_returns_the_first_true_answer() -> None:
    answers = iter([0, None, [], "yes", "no"])

    assert await eventually(lambda: next(answers)) == "yes"


async def test_a_condition_may_be_async() -> None:
    answers = iter([False, 7])

    async def ask() -> object:
        return next(answers)

    assert await eventually(ask) == 7


async def test_a_condition_may_consist_of_asserts() -> None:
    numbers = iter(range(5))

    def three() -> bool:
        assert next(numbers) == 3
        return True

    assert await eventually(three)


async def test_it_fails_with_the_reason_the_time_and_the_last_answer() -> None:
    with pytest.raises(AssertionError, match=r"not within 0\.05 s \(the order was placed\); the last answer was \[\]"):
        await eventually(list, SHORT, because="the order was placed")


async def test_it_fails_with_the_last_assertion() -> None:
    def never() -> bool:
        raise AssertionError("two is not three")

    with pytest.raises(AssertionError, match="the last assertion was: two is not three"):
        await eventually(never, SHORT)


async def test_a_condition_that_hangs_does_not_hold_it_up() -> None:
    async def hang() -> bool:
        await asyncio.Event().wait()
        return True

    with pytest.raises(AssertionError, match="it gave no answer"):
        await eventually(hang, SHORT)


async def test_any_other_error_passes_at_once() -> None:
    with pytest.raises(ZeroDivisionError):
        await eventually(lambda: 1 / 0)


async def test_a_timeout_of_the_condition_itself_is_not_taken_for_its_own() -> None:
    def condition() -> bool:
        raise TimeoutError("of the condition")

    with pytest.raises(TimeoutError, match="of the condition"):
        await eventually(condition)
