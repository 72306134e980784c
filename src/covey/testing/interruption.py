"""Stop work at each point at which it waits: the places where a cancellation, a timeout or a crash can hit it.

async for point in every_interruption(lambda: place_order(work)):
    assert await nothing_is_left()                 # after each of them
assert point.completed                             # the last run was not interrupted
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Interruption:
    """One run: cancelled when it waited for the `number`-th time, or completed before that."""

    number: int
    completed: bool


async def every_interruption(make: Callable[[], Coroutine[Any, Any, Any]]) -> AsyncIterator[Interruption]:
    """Run what `make` returns again and again, cancelling it one wait later each time, until it completes.

    What is cancelled and does not end, or ends with another error than its cancellation, fails with that error.
    """
    number = 0
    while True:
        number += 1
        completed = await _interrupted(make(), number)
        yield Interruption(number, completed)
        if completed:
            return


async def _interrupted(coroutine: Coroutine[Any, Any, Any], number: int) -> bool:
    task: asyncio.Task[Any] = asyncio.ensure_future(_Counted(coroutine, number).run())
    try:
        await task
    except asyncio.CancelledError:
        if not task.cancelled():
            raise
        return False
    return True


class _Counted:
    """Passes on what a coroutine waits for, and cancels its task at one of these moments."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], number: int) -> None:
        self._coroutine = coroutine
        self._left = number

    async def run(self) -> Any:
        return await self

    def __await__(self) -> Generator[Any, Any, Any]:
        waits = self._coroutine.__await__()
        send: Callable[[], Any] = lambda: next(waits)  # noqa: E731 - what resumes the coroutine, replaced each time
        while True:
            try:
                awaited = send()
            except StopIteration as end:
                return end.value
            self._left -= 1
            if self._left == 0:
                task = asyncio.current_task()
                assert task is not None
                asyncio.get_running_loop().call_soon(task.cancel)
            try:
                value = yield awaited
            except BaseException as error:
                send = _throwing(waits, error)
            else:
                send = _sending(waits, value)


def _throwing(waits: Generator[Any, Any, Any], error: BaseException) -> Callable[[], Any]:
    return lambda: waits.throw(error)


def _sending(waits: Generator[Any, Any, Any], value: Any) -> Callable[[], Any]:
    return lambda: waits.send(value)
