"""`covey dead`: messages that could not be handled, and with `--queue` jobs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from typer.core import TyperCommand

from covey.commands.dead_jobs import discard_job, list_jobs, replay_jobs, show_job
from covey.commands.terminal import AsJson, run, say, state
from covey.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from covey.messaging.dead_letters import DeadLetters, Filter

T = TypeVar("T")

ServiceName = Annotated[str, typer.Argument(metavar="SERVICE", help="The service whose inbox it is in.")]
LetterName = Annotated[str, typer.Argument(metavar="KEY", help="The key, or the id of the message, or of the job.")]
OfQueue = Annotated[str | None, typer.Option("--queue", help="Not messages, but jobs of this queue.")]
OfType = Annotated[str | None, typer.Option("--type", help="Only messages of this type.")]
InReason = Annotated[str | None, typer.Option("--reason", help="Only those with this text in the reason.")]


class _Command(TyperCommand):
    """A command whose usage line shows what must be given as a plain word; typer would put it in braces."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [piece.strip("{}") for piece in super().collect_usage_pieces(ctx)]


commands = typer.Typer(
    help="See messages, or jobs of a queue, that could not be handled, mend them, try them again.", no_args_is_help=True
)


@commands.command("list", cls=_Command, epilog="Example: covey dead list payment --type payment.capture.v1 --json")
def dead_list(
    service: Annotated[str | None, typer.Argument(metavar="SERVICE", help="Of this service only.")] = None,
    of_type: OfType = None,
    reason: InReason = None,
    queue: OfQueue = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000, help="At most so many.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List the dead letters of a service, or of all here, newest first, with why and how much waits behind each."""
    from covey.local.dead import as_json as to_json
    from covey.local.dead import table
    from covey.messaging.dead_letters import Filter

    if queue is not None:
        _require_none(of_type)
        if service is None:
            raise typer.BadParameter("--queue needs the name of a service, too")
        list_jobs(service, queue, reason, limit, as_json)
        return
    only = Filter(type=of_type, reason=reason)
    if service is None:
        _list_all(limit, only, as_json, "such " if of_type or reason else "")
        return
    letters = _with_dead(service, lambda dead: dead.page(limit, only=only))
    if as_json:
        say(to_json(letters))
    else:
        say(table(letters) if letters else _none(service, filtered=bool(of_type or reason)))


@commands.command("show", cls=_Command, epilog="Example: covey dead show payment 0197c0de-0000-7000-8000-000000000000")
def dead_show(service: ServiceName, name: LetterName, queue: OfQueue = None, as_json: AsJson = False) -> None:
    """Show a dead letter whole: headers, body, what was done about it."""
    if queue is not None:
        show_job(service, queue, name, as_json)
        return
    from covey.local.dead import as_json as to_json
    from covey.local.dead import page

    whole = _with_dead(service, lambda dead: dead.show(name))
    say(to_json(whole) if as_json else page(whole, service))


@commands.command("edit", cls=_Command, epilog="Example: covey dead edit order 4711 --file mended.json")
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
        shown = _with_dead(service, lambda dead: dead.show(name))
        name = str(shown.letter.id)  # what is dead of its key may be another one when the editor is closed
        new = edited(shown.body, os.environ)
    if new is None:
        say("nothing was changed")
        return
    changed = new
    _with_dead(service, lambda dead: dead.edit(name, changed))
    say(f"changed; next: covey dead replay {service} {name}")


@commands.command(
    "replay", cls=_Command, epilog="Example: covey dead replay payment --all --reason 'connection refused' --rate 20"
)
def dead_replay(
    service: ServiceName,
    name: Annotated[str | None, typer.Argument(metavar="KEY", help="The key, or the id of the message.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that --type and --reason leave.")] = False,
    of_type: OfType = None,
    reason: InReason = None,
    queue: OfQueue = None,
    rate: Annotated[float, typer.Option(min=0.1, max=1_000, help="With --all: so many a second.")] = 10,
) -> None:
    """Have one dead letter handled again, or with --all many, oldest first. What waits behind each follows."""
    from covey.messaging.dead_letters import Filter

    if (name is None) is not everything:
        raise typer.BadParameter("name one dead letter, or give --all")
    if queue is not None:
        _require_none(of_type)
        replay_jobs(service, queue, name, reason, rate)
        return
    if name is not None:
        one = name
        _with_dead(service, lambda dead: dead.replay(one))
        say(f"replayed; covey dead list {service} tells whether it died again")
        return

    async def many(dead: DeadLetters) -> int:
        return len([key async for key in dead.replay_all(Filter(type=of_type, reason=reason), rate)])

    say(f"replayed {_with_dead(service, many)}; covey dead list {service} tells which died again")


@commands.command("discard", cls=_Command, epilog="Example: covey dead discard order 4711 --reason 'test data'")
def dead_discard(
    service: ServiceName,
    name: LetterName,
    reason: Annotated[str | None, typer.Option(help="Why; it is kept. Not for a job, which is forgotten.")] = None,
    queue: OfQueue = None,
) -> None:
    """Give a dead letter up for good; what waits behind it goes on."""
    if queue is not None:
        if reason is not None:
            raise typer.BadParameter("a queue keeps no --reason: a job that is discarded is forgotten")
        discard_job(service, queue, name)
        return
    if reason is None:
        raise typer.BadParameter("say why with --reason; it is kept")
    why = reason
    _with_dead(service, lambda dead: dead.discard(name, why))
    say("discarded")


def _list_all(limit: int, only: Filter, as_json: bool, such: str) -> None:
    """List those of every service of the system here: as JSON by service, for a terminal of those that have any."""
    from covey.local.dead import as_json as to_json
    from covey.local.dead import services_in, table

    if os.environ.get("DATABASE_URL"):
        raise typer.BadParameter("name the service whose database DATABASE_URL is the address of")
    found = {name: _with_dead(name, lambda dead: dead.page(limit, only=only)) for name in services_in(state())}
    if as_json:
        say("{" + ", ".join(f'"{name}": {to_json(letters)}' for name, letters in found.items()) + "}")
        return
    for name, letters in found.items():
        if letters:
            say(f"{name}\n{table(letters)}\n")
    none = [name for name, letters in found.items() if not letters]
    if none:
        say(f"no {such}dead letter in {', '.join(none)}")


def _require_none(of_type: str | None) -> None:
    if of_type is not None:
        raise typer.BadParameter("jobs of a queue have no --type")


def _none(service: str, *, filtered: bool) -> str:
    if filtered:
        return f"{service} has no such dead letter; covey dead list {service} shows those of every type and reason"
    return f"{service} has no dead letter: what it was sent is handled, or will be tried again by itself"


def _with_dead(service: str, ask: Callable[[DeadLetters], Awaitable[T]]) -> T:
    from covey.local.dead import dead_letters_of

    folder = _state_unless_given()

    async def asked() -> T:
        async with dead_letters_of(service, folder, os.environ) as letters:
            return await ask(letters)

    return run(asked())


def _state_unless_given() -> Path:
    """Return the state folder; with an address there need be no project here: in a container there is none."""
    if os.environ.get("DATABASE_URL"):
        return Path()
    try:
        return state()
    except ConfigurationError as error:
        raise ConfigurationError(f"{error}, or set DATABASE_URL to the address of the service's database") from None
