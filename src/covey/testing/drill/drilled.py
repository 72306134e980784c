"""What a system brings to its drill: who uses it, what else of it can fail, and who says whether all is right after.

covey knows no service. `covey.toml` names a module of the system, `[drill] module = "shop.drill"`, and in it the
function `drilled(system)`, an async context manager that gives a `Drilled`.
"""

from __future__ import annotations

import importlib
import random
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

from covey.errors import ConfigurationError
from covey.local.running import RunningSystem
from covey.local.system import System

FUNCTION = "drilled"


class Notes(Protocol):
    """Where an arrival says what has come of it."""

    def accepted(self, seconds: float) -> None:
        """Note that something was promised (a 2xx), so long after it was first asked for, attempts included."""
        ...

    def failed(self, kind: str) -> None:
        """Note an attempt without an answer, or with one that promises nothing: `503`, `refused`, `no answer`."""
        ...

    def given_up(self) -> None:
        """Note that somebody does not ask any longer; whether their wish was fulfilled is not known."""
        ...


@dataclass(frozen=True, kw_only=True)
class OwnFault:
    """A fault that only this system has: its provider is slow, say.

    `begin` and `end` raise CoveyError or OSError when they cannot; `end` is called again then, and once more at the
    end of the drill, also without a `begin`.
    """

    name: str
    begin: Callable[[], Awaitable[None]]
    end: Callable[[], Awaitable[None]]
    shortest_seconds: float = 2.0
    longest_seconds: float = 9.0


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the auditor says: the violations of each rule, as sentences, and a few lines on what there is."""

    rules: Mapping[str, Sequence[str]]
    summary: Sequence[str] = field(default=())

    @property
    def violations(self) -> list[str]:
        """Return the violations of all rules."""
        return [violation for found in self.rules.values() for violation in found]


class Drilled(Protocol):
    """A running system with its users and its auditor."""

    @property
    def faults(self) -> Sequence[OwnFault]:
        """Return the faults that only this system has; they are never begun two at a time."""
        ...

    async def prepare(self) -> None:
        """Make what the users need, before there is any load or fault."""
        ...

    async def arrive(self, chance: random.Random, notes: Notes) -> None:
        """Do what one user does, from the first request to the last answer, retries included.

        Each asks for one thing that is to be promised, an order say: the rate of a drill is that of these, and what
        else there is to do, such as to read, comes on top. What they do is drawn from `chance`. It raises nothing that
        a fault can cause.
        """
        ...

    async def completed(self) -> int:
        """Return how much of what was accepted has come to its end so far. Raises Unavailable when nobody can say."""
        ...

    async def audit(self, within_seconds: float) -> Verdict:
        """Wait until nothing moves any more, at most so long, and hold what there is against what was promised."""
        ...


Open = Callable[[RunningSystem], AbstractAsyncContextManager[Drilled]]


def opener(system: System) -> Open:
    """Import the module that the system file names and return its function. Raises ConfigurationError."""
    if system.drill is None:
        raise ConfigurationError(
            f"{system.name} says nothing of drills: name the module that knows its users and its auditor in"
            ' covey.toml, `[drill]` with `module = "…"` (docs/drills.md)'
        )
    name = system.drill.module
    if str(system.root) not in sys.path:
        sys.path.insert(0, str(system.root))
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise ConfigurationError(f"drill.module: {name} cannot be imported: {error}") from error
    found: Open | None = getattr(module, FUNCTION, None)
    if found is None:
        raise ConfigurationError(f"drill.module: {name} has no function {FUNCTION!r}: see docs/drills.md")
    return found
