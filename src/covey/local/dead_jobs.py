"""`covey dead … --queue`: the dead jobs of a queue, where its service keeps them, for people and for scripts."""

from __future__ import annotations

import asyncio
import json
import shlex
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from covey.errors import ConfigurationError, NotFound
from covey.local.dead import readable
from covey.local.environment import environment_file, read_environment
from covey.local.visible import visible
from covey.messaging.queue import context_of
from covey.messaging.queue_options import QueueOptions
from covey.messaging.queue_store import DeadJob, QueueStore
from covey.settings import ServiceSettings
from covey.valkey.client import Valkey

_ERROR_LENGTH = 70


class DeadJobs:
    """The dead jobs of one queue. Everything raises ValkeyUnavailable."""

    def __init__(self, store: QueueStore, name: str) -> None:
        self._store = store
        self._name = name

    async def page(self, limit: int, error: str | None) -> list[DeadJob]:
        """Return dead jobs, newest first; only those with this text in the error, if one is given."""
        found: list[DeadJob] = []
        for id_ in reversed(await self._store.dead_ids()):
            job = await self._store.find_dead(id_) if len(found) < limit else None
            if job is not None and (error or "") in job.error:
                found.append(job)
        return found

    async def show(self, id_: str) -> DeadJob:
        """Return a dead job. Raises NotFound."""
        found = await self._store.find_dead(id_)
        if found is None:
            raise self._missing(id_)
        return found

    async def replay(self, id_: str) -> None:
        """Have a dead job done again. Raises NotFound."""
        if not await self._store.revive(id_):
            raise self._missing(id_)

    async def replay_all(self, error: str | None, rate: float) -> int:
        """Have all done again that are dead now, or those with this text in the error: oldest first, so many a second.

        One that dies again meanwhile is not replayed again. Returns how many there were.
        """
        replayed = 0
        for id_ in await self._store.dead_ids():
            job = await self._store.find_dead(id_)
            if job is not None and (error or "") in job.error and await self._store.revive(id_):
                replayed += 1
                await asyncio.sleep(1 / rate)
        return replayed

    async def discard(self, id_: str) -> None:
        """Forget a dead job. Raises NotFound."""
        if not await self._store.discard(id_):
            raise self._missing(id_)

    def _missing(self, id_: str) -> NotFound:
        return NotFound(f"the queue {self._name} has no dead job {id_!r}")


@asynccontextmanager
async def dead_jobs_of(
    service: str, queue: str, state: Path, environment: Mapping[str, str]
) -> AsyncIterator[DeadJobs]:
    """Open a queue of a service: in the Valkey of VALKEY_URL if it is set, else in that of the system here.

    Raises ConfigurationError when neither is known, or the service never had such a queue; ValkeyUnavailable.
    """
    url, system = _place(service, state, environment)
    async with Valkey.open(url) as valkey:
        store = QueueStore(valkey, system, service, queue, QueueOptions())
        if not await store.exists():
            known = ", ".join(await store.others()) or "none"
            raise ConfigurationError(f"{service} has no queue {queue!r} in the system {system!r}; it has: {known}")
        yield DeadJobs(store, queue)


def as_json(jobs: DeadJob | list[DeadJob]) -> str:
    """Return a dead job, or several, as JSON; a job that is no JSON is shown as text."""
    return json.dumps([_plain(one) for one in jobs] if isinstance(jobs, list) else _plain(jobs))


def table(jobs: list[DeadJob]) -> str:
    """Return dead jobs as lines for a terminal."""
    lines = [("ID", "SINCE", "ERROR")]
    for one in jobs:
        error = visible(one.error)
        short = error if len(error) <= _ERROR_LENGTH else f"{error[:_ERROR_LENGTH]}…"
        lines.append((visible(one.id), f"{one.since:%Y-%m-%d %H:%M:%S}", short))
    widths = [max(len(line[column]) for line in lines) for column in range(2)]
    return "\n".join("  ".join([line[0].ljust(widths[0]), line[1].ljust(widths[1]), line[2]]) for line in lines)


def page(job: DeadJob, service: str, queue: str) -> str:
    """Return everything that is known of a dead job, for a terminal, and what can be done about it."""
    facts = {
        "id": job.id,
        "since": str(job.since),
        "error": job.error,
        "context": f"correlation id {context_of(job.job).correlation_id}",
    }
    lines = [f"{name:8} {visible(value)}" for name, value in facts.items()]
    lines += ["job", *(f"  {visible(line)}" for line in readable(json.dumps(_job(job)).encode()).splitlines())]
    id_ = visible(shlex.quote(job.id))  # it is there to be copied, and an id may be anything
    return "\n".join([*lines, f"next: covey dead replay|discard {service} {id_} --queue {queue}"])


def _plain(job: DeadJob) -> dict[str, Any]:
    correlation_id = context_of(job.job).correlation_id
    return {
        "id": job.id, "since": str(job.since), "error": job.error, "correlation_id": correlation_id, "job": _job(job)
    }  # fmt: skip


def _job(job: DeadJob) -> Any:
    """Return what was added; of what is no job, all of it as text."""
    try:
        return json.loads(job.job)["job"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return job.job.decode(errors="replace")


def _place(service: str, state: Path, environment: Mapping[str, str]) -> tuple[str, str]:
    """Return the address of a service's Valkey, and the name of its system."""
    told = environment
    if not _url(told):
        file = environment_file(state, service)
        told = read_environment(state, service) if file.is_file() else {}
    url = _url(told)
    if url is None:
        raise ConfigurationError(
            f"the Valkey of {service!r} is not known: `covey up` starts the system; or set VALKEY_URL and COVEY_SYSTEM"
        )
    return url, told.get("COVEY_SYSTEM") or ServiceSettings.model_fields["system"].default


def _url(told: Mapping[str, str]) -> str | None:
    return told.get("VALKEY_URL") or told.get("REDIS_URL")
