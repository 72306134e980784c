"""How long a service takes to end: what it has begun may finish, all of it within one span."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from uuid import UUID

from pydantic import BaseModel

from covey.clock import Grace
from covey.ids import new_id
from covey.local.engines.embedded import Engines
from covey.message import Command, Reply
from covey.messaging.brokers.memory import MemoryBroker
from covey.messaging.queue import Queue
from covey.messaging.router import Router
from covey.service import Parts, Service
from covey.settings import ServiceSettings
from covey.testing.clock import FakeClock
from covey.testing.eventually import eventually
from covey.work.unit_of_work import Work

SPAN = timedelta(seconds=1)


class Handle(Command, type="shop.handle.v1", key="id"):
    id: UUID


class Call(Command, type="shop.call.v1", key="id"):
    id: UUID


class Job(BaseModel):
    """Something to do."""


class Hanging:
    """Whatever is begun here never ends. `begun` is what was."""

    def __init__(self) -> None:
        self.begun: set[str] = set()

    async def hang(self, name: str) -> None:
        """Begin, and never end."""
        self.begun.add(name)
        await asyncio.Event().wait()

    async def handle(self, command: Handle, work: Work) -> None:
        """Hang in a transaction."""
        await self.hang("message")

    async def do(self, job: Job, work: Work) -> None:
        """Hang in a job."""
        await self.hang("job")

    async def intend(self, command: Call, work: Work) -> str:
        """Go on."""
        return ""

    async def call(self, command: Call, intent: str, key: str) -> str:
        """Hang outside."""
        await self.hang("call")
        return ""

    async def settle(self, command: Call, result: str, work: Work) -> Reply:
        """Never come here."""
        return Reply()


async def test_what_hangs_everywhere_holds_up_the_end_of_a_service_once(
    database_url: str, covey_engines: Engines, system_name: str
) -> None:
    hanging, router, queue = Hanging(), Router(), Queue("jobs", Job)
    router.on(Handle)(hanging.handle)
    router.external(Call, hanging)
    queue.handler(hanging.do)
    settings = ServiceSettings(
        database_url=database_url,
        nats_url="nats://unused",
        valkey_url=covey_engines.valkey_url,
        system=system_name,
        drain_timeout=SPAN,
    )
    async with Service("shop", Parts(messages=[router], queues=[queue])).running(settings, MemoryBroker()) as service:
        async with service.messaging.transactions.begin() as work:
            work.publish(Call(id=new_id()))
            await queue.add(work, Job())
        await eventually(lambda: hanging.begun == {"job", "call"})
        async with service.messaging.transactions.begin() as work:
            work.publish(Handle(id=new_id()))
        await eventually(lambda: "message" in hanging.begun)
        stopped_at = time.monotonic()

    assert time.monotonic() - stopped_at < 2 * SPAN.total_seconds()


async def test_a_grace_runs_from_who_first_asks_or_from_its_beginning() -> None:
    clock = FakeClock()
    asked, grace = Grace(timedelta(seconds=10), clock), Grace(timedelta(seconds=10), clock)
    await clock.advance(timedelta(seconds=60))
    assert asked.seconds_left() == 10
    grace.begin()
    await clock.advance(timedelta(seconds=4))

    assert grace.seconds_left() == 6
    grace.begin()  # it has begun
    await clock.advance(timedelta(seconds=60))
    assert grace.seconds_left() == 0
