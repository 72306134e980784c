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
from covey.ids import new_id
from covey.message import Command
from covey.messaging.router import Router
from covey.saga.definition import pivot, retriable, step
from covey.saga.saga import Saga
from covey.service import Parts, Running, Service
from covey.work.unit_of_work import Work

CHANNEL = "ended"
TABLES = f"""
CREATE TABLE effect (what text NOT NULL, saga_id text NOT NULL, amount bigint NOT NULL);
CREATE FUNCTION tell_end() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN PERFORM pg_notify('{CHANNEL}', NEW.id::text); RETURN NULL; END $$;
CREATE TRIGGER tell_end AFTER UPDATE OF ended_at ON covey.saga
FOR EACH ROW WHEN (NEW.ended_at IS NOT NULL) EXECUTE FUNCTION tell_end();
"""
INSERT = "INSERT INTO effect (what, saga_id, amount) VALUES ($1, $2, $3)"


class Reserve(Command, type="participant.reserve.v1", key="saga_id"):
    """The first step."""

    saga_id: UUID
    amount: int
    writes: bool


class Authorize(Command, type="participant.authorize.v1", key="saga_id"):
    """The second step."""

    saga_id: UUID
    amount: int
    writes: bool


class Capture(Command, type="participant.capture.v1", key="saga_id"):
    """The pivot."""

    saga_id: UUID
    amount: int
    writes: bool


class Ship(Command, type="participant.ship.v1", key="saga_id"):
    """The last step, which only goes forward."""

    saga_id: UUID
    amount: int
    writes: bool


class Undo(Command, type="participant.undo.v1", key="saga_id"):
    """What undoes the first two; never asked for here."""

    saga_id: UUID


class Order(BaseModel):
    """The data of the sagas. `writes`: each step in the other process writes a row."""

    amount: int
    writes: bool = False


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
    """Return the participant's handlers."""
    router = Router()

    async def handle(command: Any, work: Work) -> None:
        if command.writes:
            await work.execute(INSERT, command.message_type, str(command.saga_id), command.amount)

    for command in (Reserve, Authorize, Capture, Ship):
        router.on(command)(handle)
    return router


class Owner:
    """Starts sagas, and learns of their end as another process would: the database tells of each when it is durable."""

    def __init__(self, running: Running) -> None:
        self._database = running.database
        self._transactions = running.messaging.transactions
        self._expected: dict[UUID, asyncio.Future[None]] = {}

    async def run(self, which: str, count: int, in_flight: int, writes: bool = False) -> dict[str, Any]:
        """Run `count` sagas, `in_flight` at a time; return the seconds for all, and for each its milliseconds."""
        milliseconds: list[float] = []
        amounts = iter(range(count))

        async def one_after_the_other() -> None:
            for amount in amounts:
                begun = time.monotonic()
                await self._one(which, Order(amount=amount, writes=writes))
                milliseconds.append((time.monotonic() - begun) * 1e3)

        begun = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(in_flight):
                tasks.create_task(one_after_the_other())
        return {"seconds": time.monotonic() - begun, "milliseconds": milliseconds}

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Hear of the ends of sagas for the length of a block."""
        async with self._database.connected() as connection:
            await connection.add_listener(CHANNEL, self._hear)
            yield

    async def start(self, count: int) -> list[str]:
        """Start so many remote sagas at once and return their ids."""

        async def one(amount: int) -> str:
            async with self._transactions.begin() as work:
                return str(await REMOTE.start(work, Order(amount=amount)))

        return list(await asyncio.gather(*map(one, range(count))))

    async def _one(self, which: str, order: Order) -> None:
        saga_id = new_id()
        ended = self._expected[saga_id] = asyncio.get_running_loop().create_future()
        async with self._transactions.begin() as work:
            await SAGAS[which].start(work, order, saga_id)
        await ended

    def _hear(self, connection: object, process: int, channel: str, payload: str) -> None:
        expected = self._expected.pop(UUID(payload), None)
        if expected is not None:
            expected.set_result(None)


@asynccontextmanager
async def owner(settings: dict[str, Any]) -> AsyncIterator[Mapping[str, Deed]]:
    """Be the service that owns sagas."""
    async with Service("owner", Parts(sagas=list(SAGAS.values()))).running(settings_of(settings)) as running:
        owning = Owner(running)
        async with owning.listening():
            yield {"run": owning.run, "start": owning.start}


@asynccontextmanager
async def participant(settings: dict[str, Any]) -> AsyncIterator[Mapping[str, Deed]]:
    """Be the service that carries out steps."""
    async with Service("participant", Parts(messages=[steps()])).running(settings_of(settings)):
        yield {}


if __name__ == "__main__":
    play({"owner": owner, "participant": participant})
