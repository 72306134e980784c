"""`covey demo` and `covey drill`: see a system at work, and break it."""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path
from typing import Annotated

import typer

from covey.commands.terminal import AsJson, root, run, say
from covey.errors import CoveyError

commands = typer.Typer()


@commands.command(epilog="Example: covey demo, or in a script: covey demo --exit")
def demo(
    by_itself: Annotated[bool, typer.Option("--exit", help="Run through without a key and end; as EXIT=1.")] = False,
) -> None:
    """See the system at work, and break it: runs the module that `covey.toml` names as its demo.

    On a terminal it waits for a key before each act. By itself, its exit status is 0 only if all was as it should be.
    """
    from covey.local.system import FILE, read_system

    system = read_system(root())
    if system.demo is None:
        raise CoveyError(
            f"{system.name} has no demo. To give it one, write a module that shows it, and name it in {FILE}:"
            '\n\n  [demo]\n  module = "demo"    # demo.py beside this file'
        )
    os.chdir(system.root)
    command = [sys.executable, "-m", system.demo.module]
    os.execve(sys.executable, command, {**os.environ, "EXIT": "1"} if by_itself else dict(os.environ))


@commands.command(epilog="Example: covey drill --seed 7 --minutes 2")
def drill(
    seed: Annotated[int | None, typer.Option(help="The same seed makes the same faults; default: a new one.")] = None,
    minutes: Annotated[float, typer.Option(min=0.1, max=600, help="How long the load lasts.")] = 2,
    rate: Annotated[float, typer.Option(min=0.1, max=1_000, help="Users a second: of the shop, orders.")] = 30,
    report: Annotated[
        Path | None, typer.Option(help="Where the page goes; default: drills in the state folder.", dir_okay=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Load a system of its own, break it on a schedule drawn from a seed, and have it audited.

    Processes are killed and stopped, messages duplicated and delayed, and what the system itself knows to break, while
    users arrive who wait for nobody. `[drill]` in covey.toml names the module that knows users and auditor. Exit status
    0: no violation, and all kills and each kind of fault hit. Ctrl-C ends load and faults, and audits; a second one
    ends it all.
    """
    from covey.testing.drill.command import run_drill
    from covey.testing.drill.drill import DrillOptions

    chosen = secrets.randbelow(100_000) if seed is None else seed
    passed = run(run_drill(root(), DrillOptions(seed=chosen, seconds=60 * minutes, rate=rate), report, as_json, say))
    if not passed:
        raise typer.Exit(1)
