"""`covey drill` as it is called: signals, what is written where, and what is left of a system that failed."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path
from signal import SIGINT, SIGTERM

from covey.errors import Unavailable
from covey.local.chosen import state_folder
from covey.local.launcher import write_atomically
from covey.local.state import hide
from covey.testing.drill.drill import DrillOptions, drill
from covey.testing.drill.progress import Progress
from covey.testing.drill.report import page
from covey.testing.drill.result import told

_FOLDER = "drills"


async def run_drill(
    root: Path, options: DrillOptions, report: Path | None, as_json: bool, say: Callable[[str], None]
) -> bool:
    """Drill a system, write the report, say what came of it, and return whether it has passed.

    With `as_json` the result is said as JSON, and progress goes to standard error. Raises what `drill` does, and
    Unavailable when it was interrupted twice.
    """
    state = state_folder(root, os.environ)
    progress = Progress(sys.stderr if as_json else sys.stdout)
    drilling = asyncio.create_task(drill(root, options, progress))
    for number in (SIGINT, SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, _asked_to_end, progress, drilling)
    try:
        result = await drilling
    except asyncio.CancelledError:
        raise Unavailable("interrupted twice: nothing was audited") from None
    file = report or _place(state, options.seed)
    write_atomically(file, page(result), mode=0o666)
    progress.say("")
    if as_json:
        say(result.as_json())
    else:
        kept = [f"logs and data are kept in {result.state}"] if result.state else []
        say("\n".join([*told(result), *kept, f"report: {file}"]))
    return not result.objections()


def _asked_to_end(progress: Progress, drilling: asyncio.Task[object]) -> None:
    if progress.interrupt():
        drilling.cancel()


def _place(state: Path, seed: int) -> Path:
    (state / _FOLDER).mkdir(parents=True, exist_ok=True)
    hide(state)
    return state / _FOLDER / f"seed-{seed}.html"
