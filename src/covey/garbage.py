"""The garbage collector of a process that serves.

Reference counts free nearly all of what a service makes. What is left for the collector are cycles, such as those of
exceptions and tasks. To find them it goes through every object that is not known to be old, and from time to time
through all: some 300,000 that importing has made and that never go away, 0.1 to 0.2 s each time in which no request is
answered.
"""

from __future__ import annotations

import gc

_YOUNG, _MIDDLE, _OLD = 5_000, 10, 10
"""How many objects may be made before the young are gone through (Python: 700), and how often until the next older."""


def spare_what_is_there() -> None:
    """Let the collector never look at what is there now, and look at what comes less often.

    Of the whole process: to be called by who owns it, when it has started. Again is harmless.
    """
    gc.freeze()
    gc.set_threshold(_YOUNG, _MIDDLE, _OLD)
