"""`covey up`, `down`, `status`, `logs`, `migrate`: a system on this machine."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from covey.commands.terminal import AsJson, colours, root, run, say, say_if_heard, state
from covey.errors import ConfigurationError

if TYPE_CHECKING:
    from covey.local.status import SystemStatus

commands = typer.Typer()


@commands.command(epilog="Example: covey up --without order --replicas payment=2, or covey up --one-process")
def up(
    without: Annotated[list[str] | None, typer.Option(help="A service to leave out, to start it by hand.")] = None,
    replicas: Annotated[list[str] | None, typer.Option(help="How many of a service: NAME=COUNT.")] = None,
    one_process: Annotated[bool, typer.Option("--one-process", help="All services in one process.")] = False,
) -> None:
    """Bring the whole system up and keep it up until Ctrl-C.

    Starts PostgreSQL, the broker and Valkey (unless COVEY_POSTGRES_ADMIN_URL, NATS_URL or BROKER_URL, and VALKEY_URL
    name yours), makes a database for each service, migrates it, starts every service and waits until it is ready. What
    dies is started again; what changes on disk is reloaded. A second Ctrl-C hurries.

    With --one-process a debugger attaches once and steps through all services, and they need a fourth of the memory;
    what one of them blocks or crashes, it does to all.

    COVEY_STATE names another state folder than .covey beside covey.toml, and with it a system of its own, with engines,
    data, ports and keys of its own, beside the one that is up from this folder: COVEY_STATE=.covey-2 covey up. Every
    command means the system of that folder, and so does a service that is started by hand.
    """
    from covey.local.running import UpOptions
    from covey.local.system import read_system
    from covey.local.up import Foreground

    system = read_system(root())
    counts = dict(_count(text) for text in replicas or [])
    for name in (*(without or []), *counts):
        if name not in system.services:
            raise typer.BadParameter(f"{name!r} is no service of {system.name}: {', '.join(system.services)}")
    options = UpOptions(without=without or [], replicas=counts, one_process=one_process)
    run(Foreground(root(), options, say_if_heard, colours=colours()).run())


@commands.command(epilog="Example: covey down, or for whatever still runs anywhere: covey down --all")
def down(
    everywhere: Annotated[
        bool, typer.Option("--all", help="Every system of this user on this machine, of whatever folder.")
    ] = False,
) -> None:
    """Stop the system, also from another terminal; clean up behind one that was killed."""
    from covey.local.down import bring_all_down, bring_down

    if everywhere:
        say("\n".join(run(bring_all_down())) or "no system of yours is up")
    else:
        say(run(bring_down(state())))


@commands.command(epilog="Example: covey status --json | jq -r '.units[] | select(.state != \"up\") | .name'")
def status(
    as_json: AsJson = False,
    everywhere: Annotated[
        bool, typer.Option("--all", help="Which systems of this user run on this machine, and in which folder.")
    ] = False,
) -> None:
    """Show what runs where. Exit status 0: all is up; 1: something is not; 3: the system is not up."""
    from covey.local.table import render, why_not_up

    if everywhere:
        _show_all(as_json)
        return
    found = _found_status()
    _look_at_system_file(found)
    if as_json:
        say(json.dumps(asdict(found)))
    elif found.supervisor is None:
        say(why_not_up(found))
    else:
        say(render(found.units, colours=colours()))
        if found.without:
            say(f"\nleft out, to be started by hand: {', '.join(found.without)}")
    if not found.healthy:
        raise typer.Exit(3 if found.supervisor is None else 1)


@commands.command(epilog="Example: covey logs order payment -f")
def logs(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", help="Processes as `covey status` names them; default: all."),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many of the last lines of each.")] = 50,
) -> None:
    """Show what the processes of the system wrote: on a terminal for people, into a pipe as it is."""
    from covey.local.logs import as_it_is, for_people, show_logs

    view = partial(for_people, colours=colours()) if sys.stdout.isatty() else as_it_is
    try:
        show_logs(state(), names or [], lines, follow, say, view)
    except KeyboardInterrupt:
        raise typer.Exit from None


@commands.command(epilog='Example: curl $ORDER/api/v1/orders -H "Authorization: Bearer $(covey token user:0199f2c0)"')
def token(
    subject: Annotated[str, typer.Argument(help="Whose: a kind and an id, as user:0199f2c0 or service:order.")],
    role: Annotated[list[str] | None, typer.Option(help="What they may be, as staff; several times for more.")] = None,
) -> None:
    """Print a development token, with which the services of this system know who asks.

    It has no end, and is worth nothing to any other system. One with the role staff may do everything in the shop.
    """
    from covey.local.tokens import token

    say(token(state(), os.environ, subject, role or []))


@commands.command(epilog="Example: covey migrate --json")
def migrate(as_json: AsJson = False) -> None:
    """Bring every database to the newest revisions, whether the system is up or not."""
    from covey.local.migrate import migrate_system

    applied = run(migrate_system(root(), os.environ))
    if as_json:
        say(json.dumps(applied))
        return
    for service, revisions in applied.items():
        say(f"{service}: {', '.join(revisions) or 'nothing to do'}")


def _show_all(as_json: bool) -> None:
    from covey.local.registry import running_systems
    from covey.local.table import list_of

    systems = running_systems()
    if as_json:
        say(json.dumps([asdict(one) for one in systems], default=str))
    else:
        say(list_of(systems) if systems else "no system of yours is up")


def _look_at_system_file(found: SystemStatus) -> None:
    """Say what is wrong with the system file; where nothing runs that is all there is to say, and it is raised."""
    from covey.local.system import read_system

    try:
        read_system(root())
    except ConfigurationError as error:
        if found.supervisor is None and not found.left:
            raise
        typer.echo(f"covey: {error}\nwhat runs was started before that", err=True)


def _found_status() -> SystemStatus:
    from covey.local.status import SystemStatus, asked, read_status
    from covey.local.system import read_system

    written = read_status(state())
    if written is None:
        return SystemStatus(name=read_system(root()).name, supervisor=None, units=[])
    return run(asked(written))


def _count(text: str) -> tuple[str, int]:
    name, _, count = text.partition("=")
    if not count.isdecimal() or not 1 <= int(count) <= 32:
        raise typer.BadParameter(f"{text!r} must read like payment=2, from 1 to 32")
    return name, int(count)
