"""`covey export` and `covey contracts`: what services promise each other."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from typing import Annotated

import typer

from covey.commands.terminal import AsJson, root, run, say

commands = typer.Typer()


@commands.command(epilog="Example: covey export order --check")
def export(
    services: Annotated[list[str] | None, typer.Argument(metavar="SERVICE", help="Default: every service.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; 1 when a file differs from the code.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write each service's contracts from its code: openapi.json and asyncapi.json in its folder `contracts`.

    A service is imported and composed with addresses where nobody listens, and does not run. Check in what is
    written; --check tells where a file is not what the code says.
    """
    from covey.local.system import read_system
    from covey.tools import export as exporting

    system = read_system(root())
    for name in services or []:
        if name not in system.services:
            raise typer.BadParameter(f"{name!r} is no service of {system.name}: {', '.join(system.services)}")
    exported = run(exporting.export(system, services or system.services, os.environ))
    if not check:
        exporting.write(exported)
    say(exporting.as_json(exported) if as_json else exporting.table(exported, written=not check))
    if check and any(one.difference for one in exported):
        raise typer.Exit(1)


@commands.command(epilog="Example: covey contracts --json | jq -r '.[].consumer'")
def contracts(as_json: AsJson = False) -> None:
    """Hold what each service reads of the others, or asks of them, against their contracts; name who would break.

    Reads the files that `covey export` writes, and no code. Exit status 1 when something would break.
    """
    from covey.local.system import read_system
    from covey.tools.contracts import hold, read_contracts

    held = hold(read_contracts(read_system(root())))
    if as_json:
        say(json.dumps([asdict(breach) for breach in held.breaches]))
    else:
        say("\n".join(map(str, held.breaches)) or f"all {held.expectations} expectations are met")
    if held.breaches:
        raise typer.Exit(1)
