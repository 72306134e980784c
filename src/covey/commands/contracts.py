"""`covey export`, `covey contracts` and `covey client`: what services promise each other, and how to call them."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from covey.commands.terminal import AsJson, root, run, say

commands = typer.Typer()


@commands.command(epilog="Example: covey export order --check")
def export(
    services: Annotated[list[str] | None, typer.Argument(metavar="SERVICE", help="Default: every service.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; 1 when a file differs from the code.")] = False,
    release: Annotated[bool, typer.Option("--release", help="Have it be the last release from now on.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write each service's contracts from its code: openapi.json and asyncapi.json in its folder `contracts`.

    A service is imported and composed with addresses where nobody listens, and does not run. Check in what is
    written; --check tells where a file is not what the code says. With --release what is published, proto too, is
    copied to `contracts/released`, which `covey contracts` holds later versions against.
    """
    from covey.local.system import read_system
    from covey.tools import export as exporting

    system = read_system(root())
    for name in services or []:
        if name not in system.services:
            raise typer.BadParameter(f"{name!r} is no service of {system.name}: {', '.join(system.services)}")
    if check and release:
        raise typer.BadParameter("--check writes nothing, and --release does")
    exported = run(exporting.export(system, services or system.services, os.environ))
    if not check:
        exporting.write(exported)
    if release:
        exporting.release(system, services or system.services)
    say(exporting.as_json(exported) if as_json else exporting.table(exported, written=not check))
    if check and any(one.difference for one in exported):
        raise typer.Exit(1)


@commands.command(epilog="Example: covey contracts --json | jq -r '.[].consumer'")
def contracts(as_json: AsJson = False) -> None:
    """Hold what each service reads of the others, or asks of them, against their contracts; name who would break.

    And hold what is published against the last release. Reads what is checked in under `contracts`, and no code. Exit
    status 1 when something would break.
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


@commands.command(epilog="Example: covey client order --output services/loyalty/loyalty_service/order_client.py")
def client(
    service: Annotated[str, typer.Argument(help="Whose client.")],
    output: Annotated[Path | None, typer.Option(help="The module to write; default: standard output.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; 1 when the module is another.")] = False,
) -> None:
    """Make a typed client of a service from its published contract: models, and a function for each operation.

    It calls by covey.http.client, with its deadline, retries and errors. Reads what `covey export` has written, and no
    code.
    """
    from covey.local.system import read_system
    from covey.tools.client import module, read_contract

    if check and output is None:
        raise typer.BadParameter("--check needs --output, the module that it holds against the contract")
    source = module(service, read_contract(read_system(root()), service))
    if output is None:
        say(source.rstrip("\n"))
    elif not check:
        output.write_text(source)
    elif not output.is_file() or output.read_text() != source:
        say(f"{output} is not what the contract of {service} says")
        raise typer.Exit(1)
