"""Readiness: whether this process should be given work now. Liveness (`/health`) asks nothing: it answers, so it lives.

A dependency that is away makes a service not ready, never dead: restarting it would not bring the dependency
back (Kubernetes, https://kubernetes.io/docs/concepts/configuration/liveness-readiness-startup-probes/).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

from covey.clock import Clock, SystemClock
from covey.telemetry.redaction import redact_text

Check = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome of all checks: for each name "ok" or, redacted, why not."""

    checks: dict[str, str]

    @property
    def ready(self) -> bool:
        """Tell whether every check passed."""
        return all(outcome == "ok" for outcome in self.checks.values())


class Readiness:
    """Named checks, run at once, each within its timeout; their outcome is kept for half a second.

    However many ask at the same time, the checks run once. Until `started` is called and after `drain`,
    the service is not ready whatever they say.
    """

    def __init__(self, clock: Clock | None = None, keep: timedelta = timedelta(seconds=0.5)) -> None:
        self._clock = clock or SystemClock()
        self._keep = keep.total_seconds()
        self._checks: dict[str, tuple[Check, float]] = {}
        self._state = "starting"
        self._running: asyncio.Task[Report] | None = None
        self._known: tuple[float, Report] | None = None
        self._at_drain: list[Callable[[], None]] = []

    def add(self, name: str, check: Check, timeout: timedelta = timedelta(seconds=1)) -> None:
        """Add a check: it returns when all is well, and raises or takes longer than `timeout` when not."""
        self._checks[name] = (check, timeout.total_seconds())
        self._known = None

    def started(self) -> None:
        """Say that start-up is over: from now on the checks decide."""
        self._state = "ok"

    def at_drain(self, call: Callable[[], None]) -> None:
        """Have this called once the process is about to stop: for what would otherwise go on. It must not fail."""
        self._at_drain.append(call)

    def drain(self) -> None:
        """Say that this process is about to stop: it is not ready any more, at once and for good."""
        self._state = "draining"
        for call in self._at_drain:
            call()

    async def report(self) -> Report:
        """Return the outcome of the checks, not older than half a second."""
        if self._state != "ok":
            return Report({"service": self._state})
        if self._known is not None and self._clock.monotonic() - self._known[0] < self._keep:
            return self._known[1]
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        return await asyncio.shield(self._running)

    async def _run(self) -> Report:
        try:
            outcomes = await asyncio.gather(*[self._outcome(*check) for check in self._checks.values()])
            report = Report(dict(zip(self._checks, outcomes, strict=True)))
            self._known = (self._clock.monotonic(), report)
            return report
        finally:
            self._running = None

    async def _outcome(self, check: Check, timeout_s: float) -> str:
        try:
            async with asyncio.timeout(timeout_s):
                await check()
        except TimeoutError:
            return f"no answer within {timeout_s:g} s"
        except Exception as error:  # whatever went wrong is the answer to the question
            return redact_text(f"{type(error).__name__}: {error}")
        return "ok"
