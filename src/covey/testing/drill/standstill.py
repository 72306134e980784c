"""A process that stands still with all that it has started: the postmaster alone would keep nobody's query waiting."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

import psutil


def stop(pid: int) -> list[psutil.Process]:
    """Stop a process, then its children: of one that is stopped there are no new ones. Return who was there."""
    stopped = []
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        process.suspend()
        stopped.append(process)
        for child in process.children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                child.suspend()
                stopped.append(child)
    return stopped


def wake(stopped: Iterable[psutil.Process]) -> None:
    """Let processes go on, also those whose parent is dead meanwhile; one that is gone is left alone."""
    for process in stopped:
        with suppress(psutil.NoSuchProcess):
            process.resume()
