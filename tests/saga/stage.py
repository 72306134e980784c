"""A saga over two services whose participant does as it is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from covey.errors import DependencyUnavailable
from covey.message import Command, Refused, Reply
from covey.messaging.router import Router
from covey.saga.definition import pivot, retriable, step
from covey.saga.saga import Saga
from covey.testing.eventually import eventually
from covey.testing.replica import Replica, replica
from covey.work.unit_of_work import Work

TIMEOUT = timedelta(milliseconds=400)
PATIENCE = timedelta(seconds=30)
"""Longer than a loaded machine may let a step wait: where nothing is silent, nothing is to be undone for that."""


class Reserve(Command, type="stock.reserve.v1", key="saga_id"):
    """Put pieces aside."""

    saga_id: UUID
    pieces: int


class Release(Command, type="stock.release.v1", key="saga_id"):
    """Put them back."""

    saga_id: UUID


class Hold(Command, type="stock.hold.v1", key="saga_id"):
    """Put money aside."""

    saga_id: UUID


class Unhold(Command, type="stock.unhold.v1", key="saga_id"):
    """Let it go."""

    saga_id: UUID


class Take(Command, type="stock.take.v1", key="saga_id"):
    """Take the money: the pivot."""

    saga_id: UUID


class Ship(Command, type="stock.ship.v1", key="saga_id"):
    """Send the pieces off."""

    saga_id: UUID


class Held(Reply):
    """Money is put aside under this number."""

    number: str


class Data(BaseModel):
    """What the saga carries."""

    pieces: int = 1
    number: str = ""
    weight: float = 1.0


async def noted(data: Data, work: Work) -> None:
    """Note that the saga went through, in its own database."""
    await work.execute("INSERT INTO ending (how, number) VALUES ('noted', $1)", data.number)


async def given_up(data: Data, reason: str, work: Work) -> None:
    """Note that the saga was undone."""
    await work.execute("INSERT INTO ending (how, number) VALUES ('given up', $1)", reason)


def _saga(name: str, patience: timedelta, with_hold: timedelta) -> Saga[Data]:
    return Saga(
        name,
        Data,
        step(Reserve, undo=Release, timeout=patience),
        step(Hold, undo=Unhold, timeout=with_hold),
        pivot(Take, timeout=TIMEOUT),
        retriable(Ship, timeout=TIMEOUT),
        retriable(noted),
        compensated=given_up,
    )


place = _saga("place", PATIENCE, PATIENCE)
hasty = _saga("hasty", TIMEOUT, TIMEOUT)
hasty_hold = _saga("hasty-hold", PATIENCE, TIMEOUT)
"""For what happens to its second step: on a busy machine the first may take longer than the others may."""


@dataclass
class Participant:
    """Does as it is told. `script` holds, for each command, what the next attempts do; then it obeys. `refused` are
    the sagas to which it says no, however often it is asked.

    `refuse` answers no; `garble` answers with what no database stores; `mute` stays silent until the command expires
    or, without a deadline, until the script goes on; `poison` raises what no retry can cure; `late` obeys, after the
    saga has lost its patience.
    """

    script: dict[str, list[str]] = field(default_factory=dict)
    refused: dict[str, set[UUID]] = field(default_factory=dict)

    def router(self) -> Router:
        """Return the handlers."""
        router = Router()
        for model in (Reserve, Release, Hold, Unhold, Take, Ship):
            router.on(model)(self._handler(model.__name__))
        return router

    def _handler(self, name: str) -> Any:
        async def handle(command: Any, work: Work) -> Reply | None:
            behaviour = next(iter(self.script.get(name, [])), "obey")
            if self.script.get(name):
                self.script[name].pop(0)
            if command.saga_id in self.refused.get(name, ()):
                behaviour = "refuse"
            match behaviour:
                case "refuse":
                    return Refused(reason=f"no {name}")
                case "garble":
                    return Held(number="7\0") if name == "Hold" else Refused(reason=f"no {name}\0")
                case "mute":
                    raise DependencyUnavailable("not now")
                case "poison":
                    raise ValueError("a defect")
            await work.execute("INSERT INTO effect (saga_id, what) VALUES ($1, $2)", command.saga_id, name)
            if behaviour == "late":
                await asyncio.sleep(2 * TIMEOUT.total_seconds())
            return Held(number="7") if name == "Hold" else None

        return handle


@dataclass
class Stage:
    """Two services in this process, and where they look."""

    order: Replica
    stock: Replica
    participant: Participant
    order_url: str
    stock_url: str
    broker: Any

    async def start(self, data: Data | None = None, saga: Saga[Data] = place, saga_id: UUID | None = None) -> UUID:
        """Start a saga."""
        async with self.order.transactions.begin() as work:
            return await saga.start(work, data or Data(), saga_id)

    async def end_of(self, saga_id: UUID) -> str:
        """Wait until a saga has ended; return how."""

        async def ended() -> str | None:
            rows = await self.order.fetch(
                "SELECT status FROM covey.saga WHERE id = $1 AND ended_at IS NOT NULL", saga_id
            )
            return str(rows[0]["status"]) if rows else None

        end = await eventually(ended, within=timedelta(seconds=20), because="every saga ends")
        assert end is not None
        return end

    async def effects(self, saga_id: UUID) -> list[str]:
        """Return what the participant has done for a saga, in order."""
        rows = await self.stock.fetch("SELECT what FROM effect WHERE saga_id = $1 ORDER BY n", saga_id)
        return [row["what"] for row in rows]

    async def endings(self) -> list[tuple[str, str]]:
        """Return what the saga's own functions have noted."""
        return [(row["how"], row["number"]) for row in await self.order.fetch("SELECT how, number FROM ending")]

    async def history(self, saga_id: UUID) -> list[str]:
        """Return a saga's history as lines."""
        rows = await self.order.fetch("SELECT step, what FROM covey.saga_log WHERE saga_id = $1 ORDER BY n", saga_id)
        return [f"{row['step']} {row['what']}" for row in rows]


@asynccontextmanager
async def on_stage(order_url: str, stock_url: str, broker: Any) -> AsyncIterator[Stage]:
    """Run both services on this broker."""
    participant = Participant()
    async with (
        replica("order", order_url, broker, sagas=[place, hasty, hasty_hold]) as order,
        replica("stock", stock_url, broker, [participant.router()]) as stock,
    ):
        async with order.transactions.begin() as work:
            await work.execute("CREATE TABLE ending (how text, number text)")
        async with stock.transactions.begin() as work:
            await work.execute(
                "CREATE TABLE effect (n bigint GENERATED ALWAYS AS IDENTITY, saga_id uuid, what text,"
                " UNIQUE (saga_id, what))"
            )
        yield Stage(order, stock, participant, order_url, stock_url, broker)
