"""Waiting for what must come true, in place of sleeping for as long as it might take."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from datetime import timedelta
from inspect import isawaitable
from typing import Any, TypeVar, overload

T = TypeVar("T")

_FIRST_PAUSE_SECONDS = 0.001
_LONGEST_PAUSE_SECONDS = 0.05


@overload
async def eventually(
    condition: Callable[[], Coroutine[Any, Any, T]], within: timedelta = ..., *, because: str = ...
) -> T: ...
@overload
async def eventually(condition: Callable[[], T], within: timedelta = ..., *, because: str = ...) -> T: ...
async def eventually(
    condition: Callable[[], T | Coroutine[Any, Any, T]],
    within: timedelta = timedelta(seconds=10),
    *,
    because: str = "",
) -> T:
    """Ask `condition` until its answer is true and return that answer; fail after `within`.

    A condition may be sync or async. One that raises AssertionError has not come true yet, so that it can consist of
    asserts; any other exception passes through at once. The failure shows the last answer or assertion, so
    ask for what you want to see: `await eventually(lambda: shop.orders(), because="the order was placed")`.
    """
    pause, last = _FIRST_PAUSE_SECONDS, "it gave no answer"
    limit = asyncio.timeout(within.total_seconds())
    try:
        async with limit:
            while True:
                try:
                    found = condition()
                    answer = await found if isawaitable(found) else found
                    if answer:
                        return answer
                    last = f"the last answer was {answer!r}"
                except AssertionError as error:
                    last = f"the last assertion was: {error}"
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
    except TimeoutError:
        if not limit.expired():
            raise  # the condition's own
        reason = f" ({because})" if because else ""
        raise AssertionError(f"not within {within.total_seconds():g} s{reason}; {last}") from None
