"""Queues of jobs that are no events: work that a service gives itself, done at least once by any of its replicas.

    class Thumbnail(BaseModel):
        picture: UUID

    thumbnails = Queue("thumbnails", Thumbnail, QueueOptions(at_once=2))

    @thumbnails.handler
    async def make_thumbnail(job: Thumbnail, work: Work) -> None: ...

    await thumbnails.add(work, Thumbnail(picture=picture.id), id=f"thumbnail {picture.id}")
    service = Service("gallery", Parts(http=[api], queues=[thumbnails]))

**At least once**: a job is acknowledged after its handler's transaction has committed, so who dies between the two
leaves it to be done again. **Not with a transaction**: a job is added at once, whatever becomes of the work that adds
it; what must happen if and only if something commits is an event or a command. **No order.**

Source: reliable queues on streams, https://valkey.io/topics/streams-intro/#consumer-groups.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Generic, TypeVar

import orjson
from pydantic import TypeAdapter, ValidationError

from covey.context import Context, current, new_context
from covey.errors import DefinitionError, TooLarge, Unavailable, Unreadable
from covey.ids import new_id
from covey.messaging.queue_options import QueueOptions
from covey.messaging.queue_store import DeadJob, Lengths, QueueStore
from covey.work.outbox import MAX_BODY_BYTES
from covey.work.unit_of_work import Work

J = TypeVar("J")

Handler = Callable[[J, Work], Awaitable[None]]

_NAME = re.compile(r"[a-z][a-z0-9-]*")


class QueueFull(Unavailable):
    """As many jobs are there as may be."""


class Queue(Generic[J]):
    """A queue as a service declares it. `job` is a model or dataclass, or whatever can be written as JSON and read."""

    def __init__(self, name: str, job: type[J], options: QueueOptions | None = None) -> None:
        if not _NAME.fullmatch(name):
            raise DefinitionError(f"{name!r} cannot name a queue: lower-case letters, digits and dashes")
        self.name = name
        self.options = options or QueueOptions()
        self._adapter: TypeAdapter[J] = TypeAdapter(job)
        self._handler: Handler[J] | None = None

    def handler(self, handle: Handler[J]) -> Handler[J]:
        """Have this function do the jobs, each attempt in a transaction of its own that begins when it is used."""
        if self._handler is not None:
            raise DefinitionError(f"the queue {self.name} has a handler already")
        self._handler = handle
        return handle

    async def add(self, work: Work, job: J, *, after: timedelta = timedelta(0), id: str = "") -> bool:
        """Have a job done, after a while by the server's clock; it is there when this returns, `work` commits or not.

        While a job with this id is there, waiting, being done or dead, there is no second one, and False is returned.
        Raises QueueFull, TooLarge over 900,000 bytes, and ValkeyUnavailable when it may or may not be there: with an
        id it is safe to add it again.
        """
        written = self._written(job)
        if len(written) > MAX_BODY_BYTES:
            told = f"{len(written):,} bytes, {MAX_BODY_BYTES:,} are allowed: add a reference"
            raise TooLarge(f"a job of the queue {self.name} has {told}")
        added = await self.store(work).add(id or str(new_id()), written, after)
        if added < 0:
            raise QueueFull(f"the queue {self.name} holds {self.options.most:,} jobs", timedelta(seconds=5))
        return added == 1

    async def dead(self, work: Work, limit: int = 100) -> list[DeadJob]:
        """Return at most so many jobs that are not tried any more, the oldest first."""
        return await self.store(work).dead(limit)

    async def replay(self, work: Work, id: str) -> bool:
        """Have a dead job done again, as if for the first time; return whether it was dead."""
        return await self.store(work).revive(id)

    async def discard(self, work: Work, id: str) -> bool:
        """Forget a dead job; return whether it was dead."""
        return await self.store(work).discard(id)

    async def lengths(self, work: Work) -> Lengths:
        """Count its jobs."""
        return await self.store(work).lengths()

    def store(self, work: Work) -> QueueStore:
        """Return where its jobs are. Raises DefinitionError where no service runs that has this queue."""
        store: QueueStore | None = work.resources.get(self)
        if store is None:
            raise DefinitionError(f"no service runs here that declares the queue {self.name}: Parts(queues=[…])")
        return store

    def require_handler(self) -> None:
        """Raise DefinitionError when nobody does its jobs."""
        if self._handler is None:
            raise DefinitionError(f"the queue {self.name} has no handler: decorate one with its `handler`")

    async def handle(self, text: bytes, work: Work) -> None:
        """Do a job. Raises Unreadable when it is none, and what its handler raises."""
        assert self._handler is not None  # required when the service starts
        try:
            job = self._adapter.validate_json(orjson.dumps(_told(text)["job"]))
        except ValidationError as error:
            raise Unreadable(f"it is no job of the queue {self.name}: {error.errors(include_input=False)}") from None
        await self._handler(job, work)

    def _written(self, job: J) -> bytes:
        context = current()
        told = {"correlation_id": context.correlation_id, "traceparent": context.trace.traceparent()}
        return orjson.dumps({**told, "job": orjson.Fragment(self._adapter.dump_json(job))})


def context_of(text: bytes) -> Context:
    """Return the context in which a job is done: that in which it was added."""
    try:
        told = _told(text)
    except Unreadable:
        return new_context()
    return new_context(_text(told.get("correlation_id")), _text(told.get("traceparent")))


def _told(text: bytes) -> dict[str, object]:
    try:
        told = orjson.loads(text)
    except orjson.JSONDecodeError:
        told = None
    if not isinstance(told, dict) or "job" not in told:
        raise Unreadable("what lies in the queue is no job")
    return told


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
