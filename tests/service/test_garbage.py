"""The collector of a process that serves: what is there when it has started is never gone through again."""

from __future__ import annotations

import subprocess
import sys

_SEEN = """
import gc, time
import covey.service
from covey.garbage import spare_what_is_there

def seconds():
    begun = time.perf_counter()
    gc.collect()
    return time.perf_counter() - begun

before = min(seconds() for _ in range(3))
spare_what_is_there()
spare_what_is_there()
class Cycle: pass
lost = Cycle(); lost.itself = lost; del lost
print(gc.get_freeze_count() > 50_000, gc.collect() > 0, before > 5 * min(seconds() for _ in range(3)))
"""


def test_what_was_there_is_spared_and_new_garbage_is_not() -> None:
    """In a process of its own: it is for good."""
    said = subprocess.run([sys.executable, "-c", _SEEN], capture_output=True, text=True, check=True)

    assert said.stdout.split() == ["True"] * 3
