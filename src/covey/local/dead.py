"""`covey dead`: the dead letters of a service, for people and for scripts."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from covey.database.pool import Database, PoolOptions
from covey.errors import ConfigurationError
from covey.local.environment import environment_file, read_environment
from covey.local.visible import visible
from covey.messaging.dead_letters import DeadLetter, DeadLetters, Entry, Whole
from covey.work.unit_of_work import Transactions

_REASON_LENGTH = 70


@asynccontextmanager
async def dead_letters_of(service: str, state: Path, environment: Mapping[str, str]) -> AsyncIterator[DeadLetters]:
    """Open the dead letters of a service: on DATABASE_URL if it is set, else on the database of the system here.

    Raises ConfigurationError when neither is known, DatabaseUnavailable.
    """
    options = PoolOptions(size=2, application=f"covey dead {service}")
    async with Database.open(_database_url(service, state, environment), options) as database:
        yield DeadLetters(Transactions(database, service))


def as_json(value: Any) -> str:
    """Return a dead letter, or several, as JSON; a body that is no text is shown as far as it can be read."""
    plain = [asdict(one) for one in value] if isinstance(value, list) else asdict(value)
    return json.dumps(plain, default=_plain)


def table(letters: list[DeadLetter]) -> str:
    """Return dead letters as lines for a terminal, newest first."""
    lines = [("KEY", "TYPE", "SINCE", "TRIED", "BEHIND", "REASON")]
    for one in letters:
        since = f"{one.since:%Y-%m-%d %H:%M:%S}"
        reason = visible(one.reason)
        short = reason if len(reason) <= _REASON_LENGTH else f"{reason[:_REASON_LENGTH]}…"
        lines.append((visible(one.key), visible(one.type), since, str(one.attempts), str(one.behind), short))
    widths = [max(len(line[column]) for line in lines) for column in range(5)]
    return "\n".join(
        "  ".join([*(text.ljust(width) for text, width in zip(line[:5], widths, strict=True)), line[5]])
        for line in lines
    )


def page(whole: Whole, service: str) -> str:
    """Return everything that is known of a dead letter, for a terminal, and what can be done about it."""
    letter = whole.letter
    facts = {
        "key": letter.key,
        "message": f"{letter.id}  {letter.kind}  {letter.type}",
        "from": f"{letter.source}, made {letter.time}, received {letter.received_at}",
        "reason": letter.reason,
        "tried": f"{_counted(letter.attempts, 'time')}, dead since {letter.since}",
        "behind": f"{_counted(letter.behind, 'message')} of its key",
    }
    if letter.expires is not None:
        facts["expires"] = f"{letter.expires}: then nobody waits for it any more"
    lines = [f"{name:8} {visible(value)}" for name, value in facts.items()]
    lines += ["headers", *(f"  {visible(name)}: {visible(value)}" for name, value in whole.headers.items())]
    lines += ["body", *(f"  {visible(line)}" for line in readable(whole.body).splitlines())]
    lines += ["history", *(f"  {entry.at}  {entry.what}{_about(entry)}" for entry in whole.history)]
    lines.append(f"next: covey dead replay|edit|discard {service} {letter.id}")
    return "\n".join(lines)


def _about(entry: Entry) -> str:
    if entry.old_body is not None:
        return f"  it was {visible(entry.old_body.decode(errors='replace'))}"
    return f"  {visible(entry.reason)}" if entry.reason else ""


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def readable(body: bytes) -> str:
    """Return a body for people: JSON with indentation, anything else as it is."""
    try:
        return json.dumps(json.loads(body), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return body.decode(errors="replace")


def edited(body: bytes, environment: Mapping[str, str]) -> bytes | None:
    """Have a person change a body in $VISUAL or $EDITOR; None when it was left as it is or emptied.

    Raises ConfigurationError when there is no editor or it fails.
    """
    editor = environment.get("VISUAL") or environment.get("EDITOR")
    if not editor:
        raise ConfigurationError("there is no editor: set EDITOR, or give the new body with --body or --file")
    before = readable(body)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "body.json"
        file.write_text(f"{before}\n")  # an editor would end the last line anyway, and that is no change
        done = subprocess.run(["sh", "-c", f'{editor} "$1"', "sh", str(file)], check=False)
        if done.returncode != 0:
            raise ConfigurationError(f"the editor {editor!r} ended with status {done.returncode}: nothing was changed")
        after = file.read_text().strip()
    return None if after in (before.strip(), "") else after.encode()


def _database_url(service: str, state: Path, environment: Mapping[str, str]) -> str:
    if url := environment.get("DATABASE_URL"):
        return url
    file = environment_file(state, service)
    url = read_environment(state, service).get("DATABASE_URL") if file.is_file() else None
    if url is None:
        known = _known(state)
        hint = f"the services here are {', '.join(known)}" if known else "`covey up` starts the system"
        raise ConfigurationError(f"the database of {service!r} is not known: {hint}; or set DATABASE_URL")
    return url


def services_in(state: Path) -> list[str]:
    """Return the services of the system here. Raises ConfigurationError when it is not up, and left no databases."""
    if not (known := _known(state)):
        raise ConfigurationError("no service is known here: `covey up` starts the system; or name one")
    return known


def _known(state: Path) -> list[str]:
    return sorted(file.stem for file in environment_file(state, "").parent.glob("*.env"))


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, (datetime, UUID)):
        return str(value)
    raise TypeError(type(value).__name__)
