"""Where running sagas live: a row each, and a line of history for everything that happened to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, assert_never
from uuid import UUID

import pydantic_core

from covey.messaging.storable import clean
from covey.saga.machine import Compensated, Compensating, Completed, Running, State
from covey.work.unit_of_work import Work

_COLUMNS = "id, name, version, status, step, attempts, refusals, waiting, data, reason, logged, moved_at, deadline"
_LOAD = f"SELECT {_COLUMNS}, clock_timestamp() FROM covey.load_sagas($1)"
_HISTORY = "SELECT step, what, detail, at, message_id FROM covey.saga_log WHERE saga_id = $1 ORDER BY n"


@dataclass(slots=True)
class Record:
    """A saga as its row has it. `waiting` is the command id whose reply it waits for, until `deadline`.

    `now` is the database's time when it was read; None for one that is being started: the database fills it in.
    """

    id: UUID
    name: str
    version: int
    state: State
    waiting: UUID | None
    data: dict[str, Any]
    logged: int
    moved_at: datetime | None
    deadline: datetime | None
    now: datetime | None


@dataclass(frozen=True, slots=True)
class Happened:
    """A line of a saga's history."""

    step: str
    what: str
    detail: str | None
    at: datetime
    message_id: UUID | None


async def load(work: Work, ids: Sequence[UUID]) -> dict[UUID, Record]:
    """Lock and read sagas, in the order of their ids, so that two transactions cannot wait for each other.

    Whoever asks again in the same transaction gets the same records, with what was done to them: their rows are
    written only at its end.
    """
    loaded: dict[UUID, Record] = work.state.setdefault(load, {})
    missing = [saga_id for saga_id in ids if saga_id not in loaded]
    if missing:
        loaded |= {row["id"]: _record(row) for row in await work.fetch(_LOAD, missing)}
    return {saga_id: loaded[saga_id] for saga_id in ids if saga_id in loaded}


async def history(work: Work, saga_id: UUID) -> list[Happened]:
    """Return everything that has happened to a saga, in order; nothing when there is none of that id."""
    rows = await work.fetch(_HISTORY, saga_id)
    return [Happened(row["step"], row["what"], row["detail"], row["at"], row["message_id"]) for row in rows]


def insert(work: Work, record: Record, wait_seconds: float | None) -> None:
    """Write a new saga at the end of the transaction."""
    saga_id, *state = _state_row(record, wait_seconds)
    work.collect("start_sagas", saga_id, record.name, record.version, *state)


def update(work: Work, record: Record, wait_seconds: float | None) -> None:
    """Write a saga's state at the end of the transaction; it is to move by itself after so many seconds.

    Of several updates of a saga in one transaction the last counts.
    """
    work.collect("move_sagas", *_state_row(record, wait_seconds), key=record.id)


def note(
    work: Work, record: Record, step: str, what: str, detail: str | None = None, message: UUID | None = None
) -> None:
    """Add a line to a saga's history at the end of the transaction."""
    record.logged += 1
    told = None if detail is None else clean(detail)
    work.collect("log_sagas", record.id, record.logged, step, what, message, told, record.now)


def _state_row(record: Record, wait_seconds: float | None) -> tuple[Any, ...]:
    status, step, attempts, refusals, reason = _flat(record.state)
    return (
        record.id,
        status,
        step,
        attempts,
        refusals,
        record.waiting,
        pydantic_core.to_json(record.data, inf_nan_mode="strings").decode(),  # JSON has no NaN, and jsonb wants JSON
        reason,
        record.logged,
        record.now,
        None if wait_seconds is None else timedelta(seconds=wait_seconds),
        record.now if status in ("completed", "compensated") else None,
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
        data=pydantic_core.from_json(row["data"]),
        logged=row["logged"],
        moved_at=row["moved_at"],
        deadline=row["deadline"],
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
