"""The bulkhead: so many at a time, in order, and no place is ever lost."""

from __future__ import annotations

import asyncio
import random

import pytest

from covey.errors import DefinitionError
from covey.resilience.bulkhead import Bulkhead, BulkheadFull, BulkheadOptions


async def passed(bulkhead: Bulkhead) -> None:
    turn = bulkhead.take()
    if turn is not None:
        await bulkhead.wait(turn)


async def test_so_many_pass_at_once_and_the_rest_wait_or_are_refused() -> None:
    bulkhead = Bulkhead("payment", BulkheadOptions(most=2, waiting=1))
    await passed(bulkhead)
    await passed(bulkhead)
    third = asyncio.create_task(passed(bulkhead))
    await asyncio.sleep(0)

    with pytest.raises(BulkheadFull, match="2 calls to payment"):
        bulkhead.take()
    assert (bulkhead.under_way, bulkhead.waiting) == (2, 1)
    bulkhead.give_back()
    await third
    assert (bulkhead.under_way, bulkhead.waiting) == (2, 0)


async def test_places_are_given_in_order() -> None:
    bulkhead = Bulkhead("payment", BulkheadOptions(most=1, waiting=10))
    await passed(bulkhead)
    order: list[int] = []

    async def one(number: int) -> None:
        await passed(bulkhead)
        order.append(number)
        bulkhead.give_back()

    tasks = [asyncio.create_task(one(number)) for number in range(10)]
    await asyncio.sleep(0)
    bulkhead.give_back()
    await asyncio.gather(*tasks)

    assert order == list(range(10))
    assert bulkhead.under_way == 0


async def test_no_newcomer_overtakes_who_waits() -> None:
    bulkhead = Bulkhead("payment", BulkheadOptions(most=1, waiting=10))
    await passed(bulkhead)
    waiting = asyncio.create_task(passed(bulkhead))
    await asyncio.sleep(0)
    bulkhead.give_back()

    turn = bulkhead.take()

    assert turn is not None
    await waiting
    bulkhead.give_back()
    await bulkhead.wait(turn)


async def test_who_is_cancelled_in_the_moment_of_its_turn_passes_it_on() -> None:
    bulkhead = Bulkhead("payment", BulkheadOptions(most=1, waiting=10))
    await passed(bulkhead)
    first, second = (asyncio.create_task(passed(bulkhead)) for _ in range(2))
    await asyncio.sleep(0)

    bulkhead.give_back()
    first.cancel()

    await second
    bulkhead.give_back()
    assert bulkhead.under_way == 0


async def test_no_place_is_lost_however_callers_are_cancelled() -> None:
    chance = random.Random(7)
    bulkhead = Bulkhead("payment", BulkheadOptions(most=3, waiting=200))

    async def one() -> None:
        await passed(bulkhead)
        assert bulkhead.under_way <= 3
        try:
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)
        finally:
            bulkhead.give_back()

    tasks = [asyncio.create_task(one()) for _ in range(200)]
    for task in tasks:
        if chance.random() < 0.5:
            task.cancel()
        if chance.random() < 0.3:
            await asyncio.sleep(0)
    await asyncio.gather(*tasks, return_exceptions=True)

    assert (bulkhead.under_way, bulkhead.waiting) == (0, 0)


@pytest.mark.parametrize("wrong", [{"most": 0}, {"waiting": -1}])
def test_one_that_could_not_work_is_a_mistake(wrong: dict[str, int]) -> None:
    with pytest.raises(DefinitionError):
        BulkheadOptions(**wrong)
