"""The command `covey`.

Exit status: 0 it is done; 1 it failed, and standard error says why; 2 it was called wrongly or `covey.toml` is
wrong; 3 (`status`) the system is not up. What a command needs is imported inside it, so that `--help` is quick.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from typer.core import TyperCommand

from covey.errors import ConfigurationError, CoveyError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from covey.local.status import SystemStatus
    from covey.messaging.dead_letters import DeadLetters


class _Command(TyperCommand):
    """A command whose usage line shows what must be given as a plain word; typer would put it in braces."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [piece.strip("{}") for piece in super().collect_usage_pieces(ctx)]


app = typer.Typer(
    help="Run a system of microservices on one machine, with the engines that it needs.",
    no_args_is_help=True,
    rich_markup_mode=None,  # rich takes longer to import than all the rest
    pretty_exceptions_enable=False,
)

dead = typer.Typer(help="See messages that could not be handled, mend them, try them again.", no_args_is_help=True)
app.add_typer(dead, name="dead")

T = TypeVar("T")

ServiceName = Annotated[str, typer.Argument(metavar="SERVICE", help="The service whose inbox it is in.")]
LetterName = Annotated[str, typer.Argument(metavar="KEY", help="The key, or the id of the message.")]
OfType = Annotated[str | None, typer.Option("--type", help="Only messages of this type.")]
InReason = Annotated[str | None, typer.Option("--reason", help="Only those with this text in the reason.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for a script.")]


def main() -> None:
    """Run the command line; a CoveyError becomes one message on standard error."""
    try:
        app()
    except BrokenPipeError:  # whoever read our output has seen enough
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 - or Python complains when it flushes at exit
        sys.exit(1)
    except CoveyError as error:
        print(f"covey: {error}", file=sys.stderr)  # noqa: T201 - a command line prints
        sys.exit(2 if isinstance(error, ConfigurationError) else 1)


@app.command(epilog="Example: covey up --without order --replicas payment=2, or covey up --one-process")
def up(
    without: Annotated[list[str] | None, typer.Option(help="A service to leave out, to start it by hand.")] = None,
    replicas: Annotated[list[str] | None, typer.Option(help="How many of a service: NAME=COUNT.")] = None,
    one_process: Annotated[bool, typer.Option("--one-process", help="All services in one process.")] = False,
) -> None:
    """Bring the whole system up and keep it up until Ctrl-C.

    Starts PostgreSQL, NATS and Valkey (unless COVEY_POSTGRES_ADMIN_URL, NATS_URL and VALKEY_URL name yours), makes a
    database for each service, migrates it, starts every service and waits until it is ready. What dies is started
    again; what changes on disk is reloaded. A second Ctrl-C hurries.

    With --one-process a debugger attaches once and steps through all services, and they need a third of the memory;
    what one of them blocks or crashes, it does to all.
    """
    from covey.local.running import UpOptions
    from covey.local.system import read_system
    from covey.local.up import Foreground

    system = read_system(_root())
    counts = dict(_count(text) for text in replicas or [])
    for name in (*(without or []), *counts):
        if name not in system.services:
            raise typer.BadParameter(f"{name!r} is no service of {system.name}: {', '.join(system.services)}")
    options = UpOptions(without=without or [], replicas=counts, one_process=one_process)
    _run(Foreground(_root(), options, _say_if_heard, colours=_colours()).run())


@app.command(epilog="Example: covey down")
def down() -> None:
    """Stop the system, also from another terminal; clean up behind one that was killed."""
    from covey.local.down import bring_down

    _say(_run(bring_down(_state())))


@app.command(epilog="Example: covey status --json | jq -r '.units[] | select(.state != \"up\") | .name'")
def status(as_json: AsJson = False) -> None:
    """Show what runs where. Exit status 0: all is up; 1: something is not; 3: the system is not up."""
    from covey.local.table import render, why_not_up

    found = _found_status()
    if as_json:
        _say(json.dumps(asdict(found)))
    elif found.supervisor is None:
        _say(why_not_up(found))
    else:
        _say(render(found.units, colours=_colours()))
    if not found.healthy:
        raise typer.Exit(3 if found.supervisor is None else 1)


@app.command(epilog="Example: covey logs order payment -f")
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

    view = partial(for_people, colours=_colours()) if sys.stdout.isatty() else as_it_is
    try:
        show_logs(_state(), names or [], lines, follow, _say, view)
    except KeyboardInterrupt:
        raise typer.Exit from None


@app.command(epilog="Example: covey demo, or in a script: covey demo --exit")
def demo(
    by_itself: Annotated[bool, typer.Option("--exit", help="Run through without a key and end; as EXIT=1.")] = False,
) -> None:
    """See the system at work, and break it: runs the module that `covey.toml` names as its demo.

    On a terminal it waits for a key before each act. By itself, its exit status is 0 only if all was as it should be.
    """
    from covey.local.system import FILE, read_system

    system = read_system(_root())
    if system.demo is None:
        raise CoveyError(
            f"{system.name} has no demo. To give it one, write a module that shows it, and name it in {FILE}:"
            '\n\n  [demo]\n  module = "demo"    # demo.py beside this file'
        )
    os.chdir(system.root)
    command = [sys.executable, "-m", system.demo.module]
    os.execve(sys.executable, command, {**os.environ, "EXIT": "1"} if by_itself else dict(os.environ))


@app.command(epilog="Example: covey migrate --json")
def migrate(as_json: AsJson = False) -> None:
    """Bring every database to the newest revisions, whether the system is up or not."""
    from covey.local.migrate import migrate_system

    applied = _run(migrate_system(_root(), os.environ))
    if as_json:
        _say(json.dumps(applied))
        return
    for service, revisions in applied.items():
        _say(f"{service}: {', '.join(revisions) or 'nothing to do'}")


@app.command(epilog="Example: covey drill --seed 7 --minutes 2")
def drill(
    seed: Annotated[int | None, typer.Option(help="The same seed makes the same faults; default: a new one.")] = None,
    minutes: Annotated[float, typer.Option(min=0.1, max=600, help="How long the load lasts.")] = 2,
    rate: Annotated[float, typer.Option(min=0.1, max=1_000, help="Arrivals a second.")] = 30,
    report: Annotated[
        Path | None, typer.Option(help="Where the page goes; default: .covey/drills.", dir_okay=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Load a system of its own, break it on a schedule drawn from a seed, and have it audited.

    Processes are killed and stopped, messages duplicated and delayed, and what the system itself knows to break, while
    users arrive who wait for nobody. `[drill]` in covey.toml names the module that knows users and auditor. Exit status
    0: no violation, and all kills hit. Ctrl-C ends load and faults, and audits; a second one ends it all.
    """
    from covey.testing.drill.command import run_drill
    from covey.testing.drill.drill import DrillOptions

    chosen = secrets.randbelow(100_000) if seed is None else seed
    passed = _run(run_drill(_root(), DrillOptions(seed=chosen, seconds=60 * minutes, rate=rate), report, as_json, _say))
    if not passed:
        raise typer.Exit(1)


@app.command(epilog="Example: covey export order --check")
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

    system = read_system(_root())
    for name in services or []:
        if name not in system.services:
            raise typer.BadParameter(f"{name!r} is no service of {system.name}: {', '.join(system.services)}")
    exported = _run(exporting.export(system, services or system.services, os.environ))
    if not check:
        exporting.write(exported)
    _say(exporting.as_json(exported) if as_json else exporting.table(exported, written=not check))
    if check and any(one.difference for one in exported):
        raise typer.Exit(1)


@app.command(epilog="Example: covey contracts --json | jq -r '.[].consumer'")
def contracts(as_json: AsJson = False) -> None:
    """Hold what each service reads of the others, or asks of them, against their contracts; name who would break.

    Reads the files that `covey export` writes, and no code. Exit status 1 when something would break.
    """
    from covey.local.system import read_system
    from covey.tools.contracts import hold, read_contracts

    held = hold(read_contracts(read_system(_root())))
    if as_json:
        _say(json.dumps([asdict(breach) for breach in held.breaches]))
    else:
        _say("\n".join(map(str, held.breaches)) or f"all {held.expectations} expectations are met")
    if held.breaches:
        raise typer.Exit(1)


@dead.command("list", cls=_Command, epilog="Example: covey dead list payment --type payment.capture.v1 --json")
def dead_list(
    service: ServiceName,
    of_type: OfType = None,
    reason: InReason = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000, help="At most so many.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List the dead letters of a service, newest first, with why and how much waits behind each."""
    from covey.local.dead import as_json as to_json
    from covey.local.dead import table
    from covey.messaging.dead_letters import Filter

    letters = _with_dead(service, lambda dead: dead.page(limit, only=Filter(type=of_type, reason=reason)))
    if as_json:
        _say(to_json(letters))
    else:
        _say(table(letters) if letters else f"{service} has no such dead letter")


@dead.command("show", cls=_Command, epilog="Example: covey dead show payment 0197c0de-0000-7000-8000-000000000000")
def dead_show(service: ServiceName, name: LetterName, as_json: AsJson = False) -> None:
    """Show a dead letter whole: headers, body, what was done about it."""
    from covey.local.dead import as_json as to_json
    from covey.local.dead import page

    whole = _with_dead(service, lambda dead: dead.show(name))
    _say(to_json(whole) if as_json else page(whole, service))


@dead.command("edit", cls=_Command, epilog="Example: covey dead edit order 4711 --file mended.json")
def dead_edit(
    service: ServiceName,
    name: LetterName,
    body: Annotated[str | None, typer.Option(help="The new body, JSON.")] = None,
    file: Annotated[Path | None, typer.Option(help="A file with the new body.", exists=True, dir_okay=False)] = None,
) -> None:
    """Change the body of a dead letter, in $EDITOR unless it is given; the old one is kept. Replay it then."""
    from covey.local.dead import edited

    if body is not None and file is not None:
        raise typer.BadParameter("give the new body with --body or with --file, not with both")
    new = body.encode() if body is not None else file.read_bytes() if file is not None else None
    if new is None:
        new = edited(_with_dead(service, lambda dead: dead.show(name)).body, os.environ)
    if new is None:
        _say("nothing was changed")
        return
    changed = new
    _with_dead(service, lambda dead: dead.edit(name, changed))
    _say(f"changed; next: covey dead replay {service} {name}")


@dead.command(
    "replay", cls=_Command, epilog="Example: covey dead replay payment --all --reason 'connection refused' --rate 20"
)
def dead_replay(
    service: ServiceName,
    name: Annotated[str | None, typer.Argument(metavar="KEY", help="The key, or the id of the message.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that --type and --reason leave.")] = False,
    of_type: OfType = None,
    reason: InReason = None,
    rate: Annotated[float, typer.Option(min=0.1, max=1_000, help="With --all: so many a second.")] = 10,
) -> None:
    """Have one dead letter handled again, or with --all many, oldest first. What waits behind each follows."""
    from covey.messaging.dead_letters import Filter

    if (name is None) is not everything:
        raise typer.BadParameter("name one dead letter, or give --all")
    if name is not None:
        one = name
        _with_dead(service, lambda dead: dead.replay(one))
        _say(f"replayed; covey dead list {service} tells whether it died again")
        return

    async def many(dead: DeadLetters) -> int:
        return len([key async for key in dead.replay_all(Filter(type=of_type, reason=reason), rate)])

    _say(f"replayed {_with_dead(service, many)}; covey dead list {service} tells which died again")


@dead.command("discard", cls=_Command, epilog="Example: covey dead discard order 4711 --reason 'test data'")
def dead_discard(
    service: ServiceName,
    name: LetterName,
    reason: Annotated[str, typer.Option(help="Why; it is kept.")],
) -> None:
    """Give a dead letter up for good; what waits behind it goes on."""
    _with_dead(service, lambda dead: dead.discard(name, reason))
    _say("discarded")


def _with_dead(service: str, ask: Callable[[DeadLetters], Awaitable[T]]) -> T:
    from covey.local.dead import dead_letters_of

    state = _state_unless_given()

    async def run() -> T:
        async with dead_letters_of(service, state, os.environ) as letters:
            return await ask(letters)

    return _run(run())


def _state_unless_given() -> Path:
    """Return the state folder; with an address there need be no project here: in a container there is none."""
    if os.environ.get("DATABASE_URL"):
        return Path()
    try:
        return _state()
    except ConfigurationError as error:
        raise ConfigurationError(f"{error}, or set DATABASE_URL to the address of the service's database") from None


def _found_status() -> SystemStatus:
    from covey.local.status import SystemStatus, asked, read_status
    from covey.local.system import read_system

    written = read_status(_state())
    if written is None:
        return SystemStatus(name=read_system(_root()).name, supervisor=None, units=[])
    return _run(asked(written))


def _run(work: Coroutine[Any, Any, T]) -> T:
    import asyncio

    return asyncio.run(work)


def _root() -> Path:
    from covey.local.system import find_root

    return find_root(Path.cwd())


def _state() -> Path:
    return _root() / ".covey"


def _count(text: str) -> tuple[str, int]:
    name, _, count = text.partition("=")
    if not count.isdecimal() or not 1 <= int(count) <= 32:
        raise typer.BadParameter(f"{text!r} must read like payment=2, from 1 to 32")
    return name, int(count)


def _colours() -> bool:
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ


def _say_if_heard(text: str) -> None:
    """Print, unless the terminal is gone: a system that nobody watches is still to be kept up and stopped in order."""
    with suppress(OSError):
        _say(text)


def _say(text: str) -> None:
    typer.echo(text)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
