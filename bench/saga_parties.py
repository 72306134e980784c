"""The two services of the questions about sagas: one owns them, one carries out their steps."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from bench.event_parties import settings_of
from bench.party import Deed, play
from covey.message import Command
from covey.messaging.router import Router
from covey.saga.definition import pivot, retriable, step
from covey.saga.saga import Saga
from covey.service import Parts, Running, Service
from covey.work.unit_of_work import Work

TABLES = "CREATE TABLE effect (what text NOT NULL, saga_id text NOT NULL, amount bigint NOT NULL)"
ENDED = "SELECT id FROM covey.saga WHERE id = ANY ($1::uuid[]) AND ended_at IS NOT NULL"
INSERT = "INSERT INTO effect (what, saga_id, amount) VALUES ($1, $2, $3)"


class Reserve(Command, type="participant.reserve.v1", key="saga_id"):
    """The first step."""

    saga_id: UUID
    amount: int


class Authorize(Command, type="participant.authorize.v1", key="saga_id"):
    """The second step."""

    saga_id: UUID
    amount: int


class Capture(Command, type="participant.capture.v1", key="saga_id"):
    """The pivot."""

    saga_id: UUID
    amount: int


class Ship(Command, type="participant.ship.v1", key="saga_id"):
    """The last step, which only goes forward."""

    saga_id: UUID
    amount: int


class Undo(Command, type="participant.undo.v1", key="saga_id"):
    """What undoes the first two; never asked for here."""

    saga_id: UUID


class Order(BaseModel):
    """The data of the sagas."""

    amount: int


REMOTE = Saga("remote", Order, step(Reserve, undo=Undo), step(Authorize, undo=Undo), pivot(Capture), retriable(Ship))


async def reserve(data: Order, work: Work) -> None:
    """Do the first local step."""


async def authorize(data: Order, work: Work) -> None:
    """Do the second local step."""


async def capture(data: Order, work: Work) -> None:
    """Do the local pivot."""


async def ship(data: Order, work: Work) -> None:
    """Do the last local step."""


async def undo(data: Order, work: Work) -> None:
    """Undo a local step; never asked for here."""


async def reserve_row(data: Order, work: Work) -> None:
    """Do the first local step and write a row."""
    await _write(work, "reserve", data.amount)


async def authorize_row(data: Order, work: Work) -> None:
    """Do the second local step and write a row."""
    await _write(work, "authorize", data.amount)


async def capture_row(data: Order, work: Work) -> None:
    """Do the local pivot and write a row."""
    await _write(work, "capture", data.amount)


async def ship_row(data: Order, work: Work) -> None:
    """Do the last local step and write a row."""
    await _write(work, "ship", data.amount)


LOCAL = Saga("local", Order, step(reserve, undo=undo), step(authorize, undo=undo), pivot(capture), retriable(ship))
ROWS = Saga(
    "local-rows",
    Order,
    step(reserve_row, undo=undo),
    step(authorize_row, undo=undo),
    pivot(capture_row),
    retriable(ship_row),
)
SAGAS: Mapping[str, Saga[Order]] = {saga.name: saga for saga in (REMOTE, LOCAL, ROWS)}


async def _write(work: Work, what: str, amount: int) -> None:
    await work.execute(INSERT, what, "", amount)


def steps() -> Router:
    """Return the participant's handlers: each writes a row."""
    router = Router()

    async def handle(command: Any, work: Work) -> None:
        await work.execute(INSERT, command.message_type, str(command.saga_id), command.amount)

    for command in (Reserve, Authorize, Capture, Ship):
        router.on(command)(handle)
    return router


class Owner:
    """Starts sagas, and learns of their end as another process would: by asking the database."""

    def __init__(self, running: Running) -> None:
        self._database = running.database
        self._transactions = running.messaging.transactions
        self._expected: dict[UUID, asyncio.Future[None]] = {}

    async def run(self, which: str, count: int, in_flight: int) -> dict[str, Any]:
        """Run `count` sagas, `in_flight` at a time; return the seconds for all, and for each its milliseconds."""
        milliseconds: list[float] = []
        amounts = iter(range(count))

        async def one_after_the_other() -> None:
            for amount in amounts:
                begun = time.monotonic()
                await self._one(which, amount)
                milliseconds.append((time.monotonic() - begun) * 1e3)

        asking = asyncio.create_task(self._ask(0.001 if in_flight == 1 else 0.01))
        begun = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(in_flight):
                tasks.create_task(one_after_the_other())
        seconds = time.monotonic() - begun
        asking.cancel()
        await asyncio.wait([asking])
        return {"seconds": seconds, "milliseconds": milliseconds}

    async def start(self, count: int) -> list[str]:
        """Start so many remote sagas at once and return their ids."""

        async def one(amount: int) -> str:
            async with self._transactions.begin() as work:
                return str(await REMOTE.start(work, Order(amount=amount)))

        return list(await asyncio.gather(*map(one, range(count))))

    async def _one(self, which: str, amount: int) -> None:
        async with self._transactions.begin() as work:
            saga_id = await SAGAS[which].start(work, Order(amount=amount))
        ended = self._expected[saga_id] = asyncio.get_running_loop().create_future()
        await ended

    async def _ask(self, pause_seconds: float) -> None:
        connection = await self._database.connect()
        try:
            statement = await connection.prepare(ENDED)
            while True:
                await asyncio.sleep(pause_seconds)
                for row in await statement.fetch(list(self._expected)):
                    self._expected.pop(row[0]).set_result(None)
        finally:
            await connection.close()


@asynccontextmanager
async def owner(settings: dict[str, Any]) -> AsyncIterator[Mapping[str, Deed]]:
    """Be the service that owns sagas."""
    async with Service("owner", Parts(sagas=list(SAGAS.values()))).running(settings_of(settings)) as running:
        owning = Owner(running)
        yield {"run": owning.run, "start": owning.start}


@asynccontextmanager
async def participant(settings: dict[str, Any]) -> AsyncIterator[Mapping[str, Deed]]:
    """Be the service that carries out steps."""
    async with Service("participant", Parts(messages=[steps()])).running(settings_of(settings)):
        yield {}


if __name__ == "__main__":
    play({"owner": owner, "participant": participant})
