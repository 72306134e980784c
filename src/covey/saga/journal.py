"""Where running sagas live: a row each, and a line of history for everything that happened to it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, assert_never
from uuid import UUID

import pydantic_core

from covey.messaging.retention import Rule
from covey.messaging.storable import clean
from covey.saga.machine import Compensated, Compensating, Completed, Running, State
from covey.work.unit_of_work import Work

_COLUMNS = "id, name, version, status, step, attempts, refusals, waiting, data, reason, logged, token"
_LOAD = f"SELECT {_COLUMNS}, extract(epoch FROM clock_timestamp() - moved_at)::float8 FROM covey.load_sagas($1)"
_HISTORY = "SELECT step, what, detail, at, message_id FROM covey.saga_log WHERE saga_id = $1 ORDER BY n"

SAGAS = (Rule("forget_sagas", timedelta(days=90)),)
"""How long a saga that has ended is there to be looked at, with its history."""


@dataclass(slots=True)
class Record:
    """A saga as its row has it. `waiting` is the command id whose reply it waits for.

    `unmoved_seconds` is for how long it had not moved when it was read. `token` is of the writing that was read, and
    `written` of the one that will replace it: whoever finds another token in the row has read what is no longer so.
    `size` is that of the data as written, in characters. `remembered`: it was not read but is only a guess.
    """

    id: UUID
    name: str
    version: int
    state: State
    waiting: UUID | None
    data: dict[str, Any]
    logged: int = 0
    unmoved_seconds: float = 0.0
    token: int = 0
    written: int | None = None
    size: int = 0
    remembered: bool = False


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
    loaded = loaded_in(work)
    missing = [saga_id for saga_id in ids if saga_id not in loaded]
    if missing:
        loaded |= {row["id"]: _record(row) for row in await work.fetch(_LOAD, missing)}
    return {saga_id: loaded[saga_id] for saga_id in ids if saga_id in loaded}


def loaded_in(work: Work) -> dict[UUID, Record]:
    """Return the sagas that this transaction has read, to add to them or to look at them."""
    loaded: dict[UUID, Record] = work.state.setdefault(load, {})
    return loaded


def written_in(work: Work) -> list[Record]:
    """Return the sagas that this transaction has started or moved."""
    return [*work.state.get(insert, ()), *work.state.get(load, {}).values()]


async def history(work: Work, saga_id: UUID) -> list[Happened]:
    """Return everything that has happened to a saga, in order; nothing when there is none of that id."""
    rows = await work.fetch(_HISTORY, saga_id)
    return [Happened(row["step"], row["what"], row["detail"], row["at"], row["message_id"]) for row in rows]


def insert(work: Work, record: Record, wait_seconds: float | None) -> None:
    """Write a new saga at the end of the transaction."""
    saga_id, *state = _state_row(record, wait_seconds)
    work.collect("start_sagas", saga_id, record.name, record.version, *state)
    work.state.setdefault(insert, []).append(record)


def update(work: Work, record: Record, wait_seconds: float | None, *, moved: bool = True) -> None:
    """Write a saga's state at the end of the transaction; if it has moved, it is to do so by itself after so long.

    Of several updates of a saga in one transaction the last counts, and of those that have moved it the last says how
    long it is to wait: what comes too late to move it must not stop its clock. The transaction fails with Contention
    when the row is not what was read.
    """
    waits: dict[UUID, float | None] = work.state.setdefault(update, {})
    if moved:
        waits[record.id] = wait_seconds
    row = _state_row(record, waits.get(record.id))
    work.collect("move_sagas", *row, record.token, record.id in waits, key=record.id)


def note(
    work: Work, record: Record, step: str, what: str, detail: str | None = None, message: UUID | None = None
) -> None:
    """Add a line to a saga's history at the end of the transaction.

    A line of that number is there already if somebody else has moved the saga; `move_sagas` tells so first.
    """
    record.logged += 1
    told = None if detail is None else clean(detail)
    work.collect("log_sagas", record.id, record.logged, step, what, message, told, after="move_sagas")


def _state_row(record: Record, wait_seconds: float | None) -> tuple[Any, ...]:
    status, step, attempts, refusals, reason = _flat(record.state)
    # JSON has no NaN, and jsonb wants JSON.
    data = pydantic_core.to_json(record.data, inf_nan_mode="strings").decode()
    record.written, record.size = random.getrandbits(63), len(data)
    return (
        record.id,
        status,
        step,
        attempts,
        refusals,
        record.waiting,
        data,
        reason,
        record.logged,
        None if wait_seconds is None else timedelta(seconds=wait_seconds),
        record.written,
    )


def has_ended(state: State) -> bool:
    """Tell whether this is how a saga ends."""
    return isinstance(state, (Completed, Compensated))


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
        token=row["token"],
        unmoved_seconds=row["extract"],
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
