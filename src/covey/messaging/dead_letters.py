"""Dead letters: messages that could not be handled, seen and dealt with by people.

A dead letter is a key that does not move: its hold names the message that failed, and what came later for the key
waits behind it. So nothing overtakes it, however it is dealt with (H13), and nothing else has to wait. Everything
done here takes the lane's lock first, as the workers do: whoever comes second sees what the first has done.

Dead Letter Channel and Invalid Message Channel: Hohpe and Woolf, *Enterprise Integration Patterns*.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import pydantic_core

from covey.errors import Conflict, Invalid, NotFound, TooLarge
from covey.messaging.options import LANES
from covey.work.outbox import MAX_BODY_BYTES
from covey.work.unit_of_work import Transactions, Work

BEHIND_LIMIT = 10_000

_COLUMNS = f"""
    h.key, h.position, h.error, h.attempts, h.since, h.until, i.id, i.type, i.kind, i.source, i.stream, i.time,
    i.received_at, (SELECT count(*) FROM (SELECT FROM covey.inbox_held w WHERE w.key = h.key AND w.position > h.position
                                          LIMIT {BEHIND_LIMIT}) AS w) AS behind
"""
_PAGE = f"""
SELECT {_COLUMNS} FROM covey.hold h JOIN covey.inbox i USING (position)
WHERE h.state = 'dead' AND ($1::timestamptz IS NULL OR (h.since, h.key) < ($1, $2))
    AND ($3::text IS NULL OR i.type = $3) AND ($4::text IS NULL OR position($4 IN h.error) > 0)
ORDER BY h.since DESC, h.key DESC LIMIT $5
"""
_OLDEST = """
SELECT h.key FROM covey.hold h JOIN covey.inbox i USING (position)
WHERE h.state = 'dead' AND h.since <= $1
    AND ($2::text IS NULL OR i.type = $2) AND ($3::text IS NULL OR position($3 IN h.error) > 0)
ORDER BY h.since, h.key LIMIT 1
"""
_FIND = """
SELECT h.key, i.id FROM covey.hold h JOIN covey.inbox i USING (position) WHERE h.key = $1 AND h.state = 'dead'
UNION ALL
SELECT h.key, i.id FROM covey.hold h JOIN covey.inbox i USING (position) WHERE i.id = $2 AND h.state = 'dead'
LIMIT 1
"""
_ONE = f"""
SELECT {_COLUMNS}, i.headers, i.body FROM covey.hold h JOIN covey.inbox i USING (position)
WHERE h.key = $1 AND i.id = $2 AND h.state = 'dead' FOR UPDATE OF h
"""
_HISTORY = "SELECT what, reason, old_body, at FROM covey.dead_letter_log WHERE position = $1 ORDER BY n"
_NOTE = """
INSERT INTO covey.dead_letter_log (position, message_id, key, what, reason, old_body) VALUES ($1, $2, $3, $4, $5, $6)
"""
_EDIT = "UPDATE covey.inbox SET body = $2 WHERE position = $1"
_REPLAY = """
UPDATE covey.hold SET state = 'waiting', until = clock_timestamp(), attempts = 0, token = NULL, owner = NULL
WHERE key = $1
"""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One message that was given up. `behind` messages of its key wait, counted up to 10,000.

    A command to a compensatable step of a saga goes away by itself at `expires`: then nobody waits for it any more.
    """

    key: str
    position: int
    reason: str
    attempts: int
    since: datetime
    expires: datetime | None
    id: UUID
    type: str
    kind: str
    source: str
    stream: str
    time: datetime
    received_at: datetime
    behind: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of what was done about a message: parked, edited, replayed, discarded or expired."""

    what: str
    reason: str | None
    old_body: bytes | None
    at: datetime


@dataclass(frozen=True, slots=True)
class Whole:
    """A dead letter with everything that is known of it."""

    letter: DeadLetter
    headers: dict[str, str]
    body: bytes
    history: list[Entry]


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Which dead letters are meant: of that type, with that text in the reason; None is any."""

    type: str | None = None
    reason: str | None = None


class DeadLetters:
    """The dead letters of one service. A letter is named by its key or by the id of its message.

    By its key is meant the one that is dead at that moment. Who has looked at a letter names it by its id: behind it
    another of its key may have died since.
    """

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    async def page(
        self, limit: int = 50, after: DeadLetter | None = None, only: Filter | None = None
    ) -> list[DeadLetter]:
        """Return at most `limit` letters behind `after`, newest first; fewer mean that these are the last."""
        only = only or Filter()
        place = (after.since, after.key) if after is not None else (None, None)
        async with self._transactions.begin() as work:
            rows = await work.fetch(_PAGE, *place, only.type, only.reason, limit)
        return [_letter(row) for row in rows]

    async def show(self, name: str) -> Whole:
        """Return a letter whole. Raises NotFound."""
        async with self._locked(name) as (work, row):
            history = await work.fetch(_HISTORY, row["position"])
        entries = [Entry(line["what"], line["reason"], line["old_body"], line["at"]) for line in history]
        return Whole(_letter(row), json.loads(row["headers"]), bytes(row["body"]), entries)

    async def edit(self, name: str, body: bytes) -> None:
        """Give a letter another body; the old one is kept in its history. It stays dead until it is replayed.

        Raises Invalid for what is no JSON, TooLarge, NotFound.
        """
        _require_json(body)
        async with self._locked(name) as (work, row):
            await work.execute(_EDIT, row["position"], body)
            await _note(work, row, "edited", None, bytes(row["body"]))

    async def replay(self, name: str) -> None:
        """Have a letter handled again, with all its attempts; what waits behind it follows. Raises NotFound."""
        async with self._locked(name) as (work, row):
            await work.execute(_REPLAY, row["key"])
            await _note(work, row, "replayed", None)

    async def replay_all(self, only: Filter, per_second: float) -> AsyncIterator[str]:
        """Replay what is dead now and fits, the oldest first and no faster than that; yield each key.

        What dies again meanwhile is left alone. Stop iterating to stop.
        """
        async with self._transactions.begin() as work:
            now = await work.fetchval("SELECT clock_timestamp()")
        while True:
            async with self._transactions.begin() as work:
                key = await work.fetchval(_OLDEST, now, only.type, only.reason)
            if key is None:
                return
            try:
                await self.replay(key)
            except (NotFound, Conflict):
                continue  # somebody else has dealt with it meanwhile
            yield key
            await asyncio.sleep(1 / per_second)

    async def discard(self, name: str, reason: str) -> None:
        """Give a letter up for good; what waits behind it goes on. Who asked a command gets no answer.

        The message and the reason stay in the history. Raises NotFound, and Invalid without a reason.
        """
        if not reason.strip():
            raise Invalid("discarding needs a reason: it is what others will find later")
        async with self._locked(name) as (work, row):
            await work.fetchval("SELECT covey.finish_held($1, $2)", [row["key"]], [row["position"]])
            await _note(work, row, "discarded", reason)

    @asynccontextmanager
    async def _locked(self, name: str) -> AsyncIterator[tuple[Work, Any]]:
        """Hold the lane of a letter; nobody handles it, and nothing changes it, until the block has committed."""
        async with self._transactions.begin() as work:
            found = await work.fetchrow(_FIND, name, _uuid(name))
            if found is None:
                raise NotFound(
                    f"there is no dead letter with the key or message id {name!r} in {self._transactions.service}"
                )
            key, identity = found
            await work.fetchval("SELECT pg_advisory_xact_lock($1, covey.lane($2))", LANES, key)
            row = await work.fetchrow(_ONE, key, identity)
            if row is None:
                raise Conflict(f"{name} is being dealt with by somebody else: it is no dead letter any more")
            yield work, row


def _letter(row: Any) -> DeadLetter:
    return DeadLetter(
        key=row["key"],
        position=row["position"],
        reason=row["error"] or "",
        attempts=row["attempts"],
        since=row["since"],
        expires=row["until"] if row["until"].year < 9999 else None,
        id=row["id"],
        type=row["type"],
        kind=row["kind"],
        source=row["source"],
        stream=row["stream"],
        time=row["time"],
        received_at=row["received_at"],
        behind=row["behind"],
    )


async def _note(work: Work, row: Any, what: str, reason: str | None, old_body: bytes | None = None) -> None:
    await work.execute(_NOTE, row["position"], row["id"], row["key"], what, reason, old_body)


def _require_json(body: bytes) -> None:
    if len(body) > MAX_BODY_BYTES:
        raise TooLarge(f"the body has {len(body):,} bytes, {MAX_BODY_BYTES:,} are allowed")
    try:
        pydantic_core.from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise Invalid(f"the new body is no JSON: {error}") from None


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
