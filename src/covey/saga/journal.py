"""Where running sagas live: a row each, and a line of history for everything that happened to it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, assert_never
from uuid import UUID

from covey.saga.machine import Compensated, Compensating, Completed, Running, State
from covey.work.unit_of_work import Work

_COLUMNS = "id, name, version, status, step, attempts, refusals, waiting, data, reason, logged, moved_at"
_LOAD = f"SELECT {_COLUMNS}, clock_timestamp() FROM covey.saga WHERE id = ANY ($1) ORDER BY id FOR UPDATE"
_INSERT = """
INSERT INTO covey.saga (id, name, version, status, step, attempts, refusals, waiting, data, reason, logged, moved_at,
                        deadline, ended_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, clock_timestamp() + $13::interval, $14)
"""
_UPDATE = """
UPDATE covey.saga SET status = $4, step = $5, attempts = $6, refusals = $7, waiting = $8, data = $9, reason = $10,
    logged = $11, moved_at = $12, deadline = clock_timestamp() + $13::interval, ended_at = $14
WHERE id = $1 AND name = $2 AND version = $3
"""
_LOG = """
INSERT INTO covey.saga_log (saga_id, n, step, what, message_id, detail, at) VALUES ($1, $2, $3, $4, $5, $6, $7)
"""
_HISTORY = "SELECT step, what, detail, at, message_id FROM covey.saga_log WHERE saga_id = $1 ORDER BY n"


@dataclass(slots=True)
class Record:
    """A saga as its row has it. `waiting` is the command id whose reply it waits for; `now` is the database's time."""

    id: UUID
    name: str
    version: int
    state: State
    waiting: UUID | None
    data: dict[str, Any]
    logged: int
    moved_at: datetime
    now: datetime


@dataclass(frozen=True, slots=True)
class Happened:
    """A line of a saga's history."""

    step: str
    what: str
    detail: str | None
    at: datetime
    message_id: UUID | None


async def load(work: Work, ids: Sequence[UUID]) -> dict[UUID, Record]:
    """Lock and read sagas, in the order of their ids, so that two transactions cannot wait for each other."""
    return {row["id"]: _record(row) for row in await work.fetch(_LOAD, ids)}


async def history(work: Work, saga_id: UUID) -> list[Happened]:
    """Return everything that has happened to a saga, in order; nothing when there is none of that id."""
    rows = await work.fetch(_HISTORY, saga_id)
    return [Happened(row["step"], row["what"], row["detail"], row["at"], row["message_id"]) for row in rows]


def insert(work: Work, record: Record, wait_seconds: float | None) -> None:
    """Write a new saga at the end of the transaction."""
    work.defer(_INSERT, *_values(record, wait_seconds))


def update(work: Work, record: Record, wait_seconds: float | None) -> None:
    """Write a saga's state at the end of the transaction; it is to move by itself after so many seconds."""
    work.defer(_UPDATE, *_values(record, wait_seconds))


def note(
    work: Work, record: Record, step: str, what: str, detail: str | None = None, message: UUID | None = None
) -> None:
    """Add a line to a saga's history at the end of the transaction."""
    record.logged += 1
    work.defer(_LOG, record.id, record.logged, step, what, message, detail, record.now)


def _values(record: Record, wait_seconds: float | None) -> tuple[Any, ...]:
    status, step, attempts, refusals, reason = _flat(record.state)
    ended = record.now if status in ("completed", "compensated") else None
    wait = None if wait_seconds is None else timedelta(seconds=wait_seconds)
    return (
        record.id,
        record.name,
        record.version,
        status,
        step,
        attempts,
        refusals,
        record.waiting,
        json.dumps(record.data),
        reason,
        record.logged,
        record.now,
        wait,
        ended,
    )


def _flat(state: State) -> tuple[str, int, int, int, str | None]:
    match state:
        case Running(step, attempts, refusals):
            return "running", step, attempts, refusals, None
        case Compensating(step, reason, attempts, refusals):
            return "compensating", step, attempts, refusals, reason
        case Completed():
            return "completed", -1, 0, 0, None
        case Compensated(reason):
            return "compensated", -1, 0, 0, reason
        case _:
            assert_never(state)


def _record(row: Any) -> Record:
    return Record(
        id=row["id"],
        name=row["name"],
        version=row["version"],
        state=_state(row),
        waiting=row["waiting"],
        data=json.loads(row["data"]),
        logged=row["logged"],
        moved_at=row["moved_at"],
        now=row["clock_timestamp"],
    )


def _state(row: Any) -> State:
    match row["status"]:
        case "running":
            return Running(row["step"], row["attempts"], row["refusals"])
        case "compensating":
            return Compensating(row["step"], row["reason"], row["attempts"], row["refusals"])
        case "completed":
            return Completed()
        case _:
            return Compensated(row["reason"])
