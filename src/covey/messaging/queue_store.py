"""A queue as it lies in Valkey: the scripts that add, take, finish and give up jobs, each in one step.

`{<system>:<service>:queue:<name>}` is in the name of each key: `:ready` (a stream with the consumer group `workers`),
`:later` (by when it is due), `:jobs` (what each is, by id), `:attempts`, `:errors` and `:dead` (by when it died).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha1

from covey.messaging.queue_options import QueueOptions
from covey.valkey.client import Valkey
from covey.valkey.connection import Connection
from covey.valkey.script import Script

_ADD = Script.beside(__name__, "queue_add.lua")
_TAKE = Script.beside(__name__, "queue_take.lua")
_KEEP = Script.beside(__name__, "queue_keep.lua")
_DONE = Script.beside(__name__, "queue_done.lua")
_FAIL = Script.beside(__name__, "queue_fail.lua")
_REVIVE = Script.beside(__name__, "queue_revive.lua")


@dataclass(frozen=True, slots=True)
class Taken:
    """A job that a worker has. `attempt` counts from 1."""

    entry: str
    id: str
    attempt: int
    text: bytes


@dataclass(frozen=True, slots=True)
class Look:
    """What a look has brought. `last` is the last entry that there was, `due` when to look again at the latest.

    `alone`: one job is to be done alone, since two workers have left it: the one that was taken, or else the next one
    for a worker that does nothing.
    """

    taken: list[Taken]
    last: str
    due: timedelta | None
    alone: bool
    buried: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class DeadJob:
    """A job that is not tried any more, until it is replayed."""

    id: str
    job: bytes
    error: str
    since: datetime


@dataclass(frozen=True, slots=True)
class Lengths:
    """How many jobs there are: ready or being done, waiting for their time, and dead."""

    ready: int
    later: int
    dead: int


class QueueStore:
    """One queue in a Valkey. Everything raises ValkeyUnavailable; what was asked may have happened then."""

    def __init__(self, valkey: Valkey, system: str, service: str, name: str, options: QueueOptions) -> None:
        tag = f"{{{system}:{service}:queue:{name}}}"
        self._name = name
        self._valkey = valkey
        self._options = options
        self._keys = [f"{tag}:{of}" for of in ("ready", "later", "jobs", "attempts", "errors", "dead")]
        self.ready, self._later, self._jobs, _, self._errors, self._dead = self._keys

    async def add(self, id_: str, text: bytes, after: timedelta) -> int:
        """Add a job; return 1, or 0 when one with this id is there, or -1 when there is no room."""
        delay = max(0, int(after / timedelta(milliseconds=1)))
        return int(await self._valkey.run(_ADD, self._keys[:3], self._options.most, delay, id_, text))

    async def take(self, worker: str, room: int, doing: Collection[str] = ()) -> Look:
        """Take at most so many jobs for a worker. `doing`: what it does."""
        lease, most = int(self._options.lease / timedelta(milliseconds=1)), self._options.max_attempts
        found, last, due, alone, buried = await self._valkey.run(_TAKE, self._keys, worker, room, lease, most, *doing)
        taken = [Taken(entry.decode(), id_.decode(), attempt, text) for entry, id_, attempt, text in found]
        return Look(
            taken,
            last.decode(),
            None if due < 0 else timedelta(milliseconds=due),
            bool(alone),
            [id_.decode() for id_ in buried],
        )

    async def more(self, connection: Connection, last: str, within: timedelta) -> None:
        """Wait on a connection of one's own until there is an entry behind `last`, or the time is over."""
        block = max(1, int(within / timedelta(milliseconds=1)))
        await connection.call("XREAD", "COUNT", 1, "BLOCK", block, "STREAMS", self.ready, last)

    async def keep(self, worker: str, entries: list[str]) -> None:
        """Say that a worker still does these; those that others have by now stay theirs."""
        if entries:
            await self._valkey.run(_KEEP, [self.ready], worker, *entries)

    async def done(self, taken: Taken) -> None:
        """Forget a job that is done: it, and no other that has come under its id since its lease was over."""
        await self._valkey.run(
            _DONE, self._keys, taken.entry, taken.id, sha1(taken.text, usedforsecurity=False).hexdigest()
        )

    async def later(self, worker: str, taken: Taken, after: timedelta, why: str) -> None:
        """Have a job tried again after a while."""
        await self._valkey.run(
            _FAIL, self._keys, worker, taken.entry, taken.id, "later", int(after / timedelta(milliseconds=1)), why
        )

    async def bury(self, worker: str, taken: Taken, why: str) -> bool:
        """Have a job tried no more; return whether it is dead now: not if another has it, or has done it."""
        return bool(await self._valkey.run(_FAIL, self._keys, worker, taken.entry, taken.id, "dead", 0, why))

    async def hand_back(self, worker: str, taken: Taken) -> None:
        """Leave a job to others, as if it had not been taken."""
        await self._valkey.run(_FAIL, self._keys, worker, taken.entry, taken.id, "back", 0, "")

    async def dead(self, limit: int) -> list[DeadJob]:
        """Return at most so many dead jobs, the oldest first."""
        if limit < 1:
            return []  # to ZRANGE -1 is the last
        found = await self._valkey.call("ZRANGE", self._dead, 0, limit - 1, "WITHSCORES")
        if not found:
            return []
        ids = [id_ for id_, _ in found]
        jobs = await self._valkey.call("HMGET", self._jobs, *ids)
        errors = await self._valkey.call("HMGET", self._errors, *ids)
        return [
            DeadJob(id_.decode(), job or b"", (error or b"").decode(), datetime.fromtimestamp(since / 1000, UTC))
            for (id_, since), job, error in zip(found, jobs, errors, strict=True)
        ]

    async def dead_ids(self) -> list[str]:
        """Return the ids of all dead jobs, the oldest first."""
        return [id_.decode() for id_ in await self._valkey.call("ZRANGE", self._dead, 0, -1)]

    async def find_dead(self, id_: str) -> DeadJob | None:
        """Return a job that is dead; None when there is none of this id."""
        since = await self._valkey.call("ZSCORE", self._dead, id_)
        if since is None:
            return None
        job = await self._valkey.call("HGET", self._jobs, id_)
        error = await self._valkey.call("HGET", self._errors, id_)
        return DeadJob(id_, job or b"", (error or b"").decode(), datetime.fromtimestamp(since / 1000, UTC))

    async def exists(self) -> bool:
        """Tell whether a job was ever added, or a worker has ever looked."""
        return bool(await self._valkey.call("EXISTS", *self._keys))

    async def others(self) -> list[str]:
        """Return the names of all queues of the service that exist. It looks at every key of the server."""
        begin, _, _ = self.ready.rpartition(f":{self._name}}}")
        pattern, found, cursor = f"{_escaped(begin)}:*}}:ready", set[str](), b"0"
        while True:
            cursor, keys = await self._valkey.call("SCAN", cursor, "MATCH", pattern, "COUNT", 1_000)
            found |= {key.decode().removeprefix(f"{begin}:").removesuffix("}:ready") for key in keys}
            if cursor == b"0":
                return sorted(found)

    async def revive(self, id_: str) -> bool:
        """Have a dead job done again; return whether it was dead."""
        return bool(await self._valkey.run(_REVIVE, self._keys, id_))

    async def discard(self, id_: str) -> bool:
        """Forget a dead job; return whether it was dead."""
        return bool(await self._valkey.run(_DONE, self._keys, "0-1", id_, ""))  # there is no such entry

    async def lengths(self) -> Lengths:
        """Count."""
        ready = await self._valkey.call("XLEN", self.ready)
        later, dead = [await self._valkey.call("ZCARD", key) for key in (self._later, self._dead)]
        return Lengths(ready, later, dead)


def _escaped(text: str) -> str:
    """Return a text as a pattern that only it matches."""
    return "".join(f"\\{one}" if one in "*?[]^-\\" else one for one in text)
