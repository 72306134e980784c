"""`covey dead … --queue NAME`: jobs of a queue that are not tried any more."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from covey.commands.terminal import run, say, state
from covey.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from covey.local.dead_jobs import DeadJobs

T = TypeVar("T")


def list_jobs(service: str, queue: str, error: str | None, limit: int, as_json: bool) -> None:
    """List dead jobs, newest first."""
    from covey.local.dead_jobs import as_json as to_json
    from covey.local.dead_jobs import table

    jobs = _with_jobs(service, queue, lambda dead: dead.page(limit, error))
    if as_json:
        say(to_json(jobs))
    else:
        say(table(jobs) if jobs else f"the queue {queue} of {service} has no {'such ' if error else ''}dead job")


def show_job(service: str, queue: str, id_: str, as_json: bool) -> None:
    """Show a dead job whole."""
    from covey.local.dead_jobs import as_json as to_json
    from covey.local.dead_jobs import page

    job = _with_jobs(service, queue, lambda dead: dead.show(id_))
    say(to_json(job) if as_json else page(job, service, queue))


def replay_jobs(service: str, queue: str, id_: str | None, error: str | None, rate: float) -> None:
    """Have a dead job done again, or without an id all."""
    if id_ is None:
        many = _with_jobs(service, queue, lambda dead: dead.replay_all(error, rate))
        say(f"replayed {many}; covey dead list {service} --queue {queue} tells which died again")
        return
    one = id_
    _with_jobs(service, queue, lambda dead: dead.replay(one))
    say(f"replayed; covey dead list {service} --queue {queue} tells whether it died again")


def discard_job(service: str, queue: str, id_: str) -> None:
    """Forget a dead job."""
    _with_jobs(service, queue, lambda dead: dead.discard(id_))
    say("discarded")


def _with_jobs(service: str, queue: str, ask: Callable[[DeadJobs], Awaitable[T]]) -> T:
    from covey.local.dead_jobs import dead_jobs_of

    folder = _state_unless_given()

    async def asked() -> T:
        async with dead_jobs_of(service, queue, folder, os.environ) as jobs:
            return await ask(jobs)

    return run(asked())


def _state_unless_given() -> Path:
    """Return the state folder; with an address there need be no project here: in a container there is none."""
    if os.environ.get("VALKEY_URL") or os.environ.get("REDIS_URL"):
        return Path()
    try:
        return state()
    except ConfigurationError as error:
        raise ConfigurationError(f"{error}, or set VALKEY_URL and COVEY_SYSTEM to where the queue is") from None
