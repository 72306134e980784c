"""Doing a request once, however often it is sent (IETF draft-ietf-httpapi-idempotency-key-header).

The key is claimed in the transaction of the effect, before the effect, and the answer is kept in it as well: key,
effect and answer are committed together or not at all. Whoever comes with the same key while that
transaction is open does not get the lock and is told to come back; nobody waits, so nobody holds a
connection for somebody else's request. Keys are forgotten by `covey.messaging.retention`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import timedelta

from covey.errors import Conflict, Invalid
from covey.work.unit_of_work import Work

_LOCKS = 0x434F10  # our class in PostgreSQL's space of locks with two numbers, beside those of covey.messaging

# The insert sees a row that was committed after this statement began, because a unique index does; so a lock that
# has just become free leads to the answer that its holder kept, never to a second effect.
_CLAIM = """
WITH lock AS MATERIALIZED (SELECT pg_try_advisory_xact_lock($4::int, hashtext($1 || chr(31) || $2)) AS free),
     claim AS (INSERT INTO covey.idempotency (scope, key, fingerprint) SELECT $1, $2, $3 FROM lock WHERE free
               ON CONFLICT DO NOTHING RETURNING 1)
SELECT free, EXISTS (SELECT FROM claim) AS claimed FROM lock"""

_KNOWN = "SELECT fingerprint, status, headers::text, body FROM covey.idempotency WHERE scope = $1 AND key = $2"


class KeyReused(Invalid):
    """The idempotency key belongs to a request that asked for something else."""


class InProgress(Conflict):
    """The same request is being carried out at this moment; its answer can be had after `retry_after`."""

    retry_after = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Answer:
    """What was answered, to be given again as it was."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


@dataclass(frozen=True, slots=True)
class Claim:
    """A key that this transaction has claimed, and that needs an answer before it ends."""

    work: Work
    scope: str
    key: str

    def keep(self, answer: Answer) -> None:
        """Store the answer with the effect, just before the commit."""
        headers = json.dumps(answer.headers)
        self.work.collect("keep_answers", self.scope, self.key, answer.status, headers, answer.body)


async def claim(work: Work, scope: str, key: str, fingerprint: bytes) -> Claim | Answer:
    """Claim `key` within `scope`, or return the answer that was given to the request that had it first.

    `fingerprint` stands for everything that makes two requests the same. Raises KeyReused when the key was used for
    another request, InProgress when the first one has not been answered yet.
    """
    outcome = await work.fetchrow(_CLAIM, scope, key, fingerprint, _LOCKS)
    if outcome["claimed"]:
        return Claim(work, scope, key)
    known = await work.fetchrow(_KNOWN, scope, key) if outcome["free"] else None
    if known is None or known["status"] is None:
        raise InProgress("the request with this Idempotency-Key is being carried out")
    if known["fingerprint"] != fingerprint:
        raise KeyReused("this Idempotency-Key was used for another request")
    headers = [(name, value) for name, value in json.loads(known["headers"])]
    return Answer(known["status"], headers, known["body"])
