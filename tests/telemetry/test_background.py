from __future__ import annotations

import threading
from collections.abc import Callable

from covey.telemetry.background import Background
from covey.testing.eventually import eventually


def background(consume: Callable[[list[int]], None], *, interval: float = 0.001, limit: int = 1000) -> Background[int]:
    return Background("test", consume, interval=interval, batch=8, limit=limit)


async def test_items_are_consumed_in_order_by_another_thread() -> None:
    seen: list[int] = []
    threads: set[str] = set()

    def consume(items: list[int]) -> None:
        threads.add(threading.current_thread().name)
        seen.extend(items)

    queue = background(consume)
    queue.start()
    for number in range(100):
        queue.put(number)
    await eventually(lambda: len(seen) == 100)
    queue.close()

    assert seen == list(range(100))
    assert threads == {"test"}


def test_nothing_that_was_queued_is_lost_by_closing() -> None:
    seen: list[int] = []
    queue = background(seen.extend, interval=60)
    queue.start()
    for number in range(50):
        queue.put(number)

    queue.close()

    assert seen == list(range(50))


async def test_it_goes_on_after_it_was_idle() -> None:
    seen: list[int] = []
    queue = background(seen.extend)
    queue.start()

    async def consumed(number: int) -> None:
        queue.put(number)
        await eventually(lambda: number in seen)

    for number in range(5):
        await consumed(number)
    queue.close()


def test_what_does_not_fit_is_dropped_and_counted_and_never_waited_for() -> None:
    seen: list[int] = []
    queue = background(seen.extend, limit=10)

    for number in range(25):
        queue.put(number)
    queue.flush()

    assert seen == list(range(10))
    assert queue.dropped == 15


async def test_a_consumer_that_fails_is_counted_and_does_not_end_the_thread() -> None:
    seen: list[int] = []

    def consume(items: list[int]) -> None:
        if 0 in items:
            raise OSError("the disk is full")
        seen.extend(items)

    queue = background(consume)
    queue.start()
    queue.put(0)
    await eventually(lambda: queue.dropped == 1)
    queue.put(1)
    await eventually(lambda: seen == [1])
    queue.close()


def test_items_of_many_threads_are_all_consumed() -> None:
    seen: list[int] = []
    queue = background(seen.extend, limit=100_000)
    queue.start()

    def put() -> None:
        for number in range(2_000):
            queue.put(number)

    threads = [threading.Thread(target=put) for _ in range(4)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    queue.close()

    assert sorted(seen) == sorted(list(range(2_000)) * 4)
