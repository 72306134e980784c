"""What the demo and the tour have in common: the shop is brought up on a terminal, and stopped in order at a signal."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGTERM

from covey.errors import CoveyError
from covey.local.running import RunningSystem, UpOptions, running_system
from covey.local.unit import Unit, Up
from covey.local.up import covey
from shop.books import SERVICES, Sources
from shop.client import ShopClient
from shop.terminal import Terminal

ROOT = Path(__file__).parent.parent
PROVIDER, CARRIER, MAIL = "sandbox-provider", "sandbox-carrier", "mail-sink"
_INTERRUPTED = 130


@asynccontextmanager
async def shown_shop(
    terminal: Terminal, state: Path | None = None, root: Path = ROOT
) -> AsyncIterator[tuple[RunningSystem, ShopClient]]:
    """Bring the shop up, and tell of it on the terminal; stop it in order at the end of the block."""
    began = time.perf_counter()
    terminal.meanwhile("starting PostgreSQL, the broker and Valkey, then the services")

    def announce(unit: Unit) -> None:
        if isinstance(unit.state, Up) and not unit.restarts:
            terminal.meanwhile(f"{unit.name} is up")

    try:
        async with running_system(root, UpOptions(state=state, announce=announce)) as system:
            terminal.result(f"{', '.join(system.units)} are up after {time.perf_counter() - began:.1f} s", good=True)
            urls = {service: system.url(service) for service in SERVICES}
            async with ShopClient.open(urls, system.token) as client:
                try:
                    yield system, client
                finally:
                    terminal.meanwhile("stopping everything in order")
    finally:
        terminal.still()


def sources_of(system: RunningSystem) -> Sources:
    """Return the books of a running shop."""
    databases = {service: system.database_url(service) for service in SERVICES}
    return Sources(
        databases=databases, provider=system.url(PROVIDER), carrier=system.url(CARRIER), mail=system.url(MAIL)
    )


def conclude(terminal: Terminal, failures: Sequence[str], seconds: float) -> None:
    """Say how it has ended."""
    if failures:
        what = (
            "1 thing is not as it should be"
            if len(failures) == 1
            else f"{len(failures)} things are not as they should be"
        )
        verdict = terminal.styled(what, "red")
    else:
        verdict = terminal.styled("Everything is as it should be", "green")
    terminal.say(f"\n{verdict}, after {seconds:.0f} s.")
    for failure in failures:
        terminal.result(failure, good=False)
    if failures:
        terminal.say(f"What each process wrote, also after the end: {covey()} logs")


def exit_is_asked_for() -> bool:
    """Tell whether EXIT=1 is set: run through, and end."""
    return os.environ.get("EXIT", "0") not in ("", "0")


def run_until_signal(terminal: Terminal, work: Coroutine[None, None, int], *, unfinished: int = 0) -> int:
    """Run to the end, or until a signal stops everything in order; return the exit status, or then `unfinished`.

    A CoveyError becomes a line on standard error, and status 1.
    """
    try:
        return asyncio.run(_until_signal(terminal, work, unfinished))
    except* CoveyError as group:
        sys.stderr.write("".join(f"{error}\n" for error in group.exceptions))
    return 1


def unfinished_status(*, by_itself: bool) -> int:
    """Return the status of one that was interrupted: a script that waits for a verdict has none."""
    return _INTERRUPTED if by_itself else 0


async def _until_signal(terminal: Terminal, work: Coroutine[None, None, int], unfinished: int) -> int:
    running = asyncio.ensure_future(work)
    for number in (SIGINT, SIGTERM, SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, running.cancel)
    try:
        return await running
    except asyncio.CancelledError:
        terminal.say("stopped")
        return unfinished
