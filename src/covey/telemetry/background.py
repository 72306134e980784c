"""A bounded queue and the thread that empties it: what keeps formatting, writing and exporting off the request path."""

from __future__ import annotations

import atexit
import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Background(Generic[T]):
    """Hands items to `consume`, in order, at most `batch` at a time, from a thread of its own.

    `put` takes a quarter of a microsecond and never waits: when `limit` items are waiting the newest is dropped
    and counted in `dropped`. The thread sleeps while there is nothing to do and wakes up `interval` seconds
    after the first item, so that what arrives together is consumed together. It is a daemon that flushes at
    exit: an exception that ends the process loses nothing, SIGKILL loses what the last interval brought.
    """

    def __init__(
        self, name: str, consume: Callable[[list[T]], None], *, interval: float, batch: int, limit: int
    ) -> None:
        self.dropped = 0
        self.stopping = threading.Event()
        self._consume = consume
        self._interval = interval
        self._batch = batch
        self._limit = limit
        self._queue: deque[T] = deque()
        self._signalled = False
        self._wake = threading.Event()
        self._consuming = threading.RLock()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread. Before that, and after `close`, items wait for a `flush`."""
        self._thread.start()
        atexit.register(self.close)

    def put(self, item: T) -> None:
        """Queue one item, or drop and count it. Safe from any thread, never waits."""
        if len(self._queue) >= self._limit:
            self.dropped += 1
            return
        self._queue.append(item)
        if not self._signalled:
            self._signalled = True
            self._wake.set()

    def flush(self) -> None:
        """Consume in the calling thread what is queued now; waits for what the other thread has in hand."""
        with self._consuming:
            waiting = len(self._queue)
            while waiting > 0:
                batch = [self._queue.popleft() for _ in range(min(waiting, self._batch))]
                waiting -= len(batch)
                try:
                    self._consume(batch)
                except Exception:  # telemetry that fails is counted; it neither ends its thread nor the service
                    self.dropped += len(batch)

    def close(self) -> None:
        """Stop the thread and consume the rest. Calling it again only flushes."""
        atexit.unregister(self.close)
        self.stopping.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()
        self.flush()

    def _run(self) -> None:
        while not self.stopping.is_set():
            self._wake.wait()
            self.stopping.wait(self._interval)
            self._wake.clear()
            self._signalled = False
            self.flush()
