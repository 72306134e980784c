"""What a call at a seam is called, read off the wire.

A statement belongs to what its transaction is about: a turn for certain messages, a request, an answer of somebody
outside, a timer. A worker's transaction shows that only when it has read its messages, so what came before is
named afterwards. Polling that found nothing is about nothing, and dropped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Literal

from tests.wire.exchange import Mailing, Statement
from tests.wire.postgres import length, texts
from tests.wire.smtp import DOT

When = Literal["before", "after", "delivered", "booked"]

BEGIN, COMMIT, ROLLBACK = "begin", "commit", "rollback"
AND_COMMIT = f" and {COMMIT}"
"""The end of the name of a statement that carries COMMIT along."""
TAKE, TAKE_DUE, TIMER, RECOVER, READ = "take", "take due", "saga timer", "recover", "relay reads"
RESUME, STORE, MARK, RECEIVE, PUBLISH, FLUSH = "resume", "stores", "relay marks", "receives", "publishes", "flush:"
ACCEPT = "accepts"
SUSPECT = "begin suspect"
STATEMENT = "statement in a transaction"
RECIPIENT, MAIL = "names the recipient", "hands the mail over"

LATE = (BEGIN, TAKE, TAKE_DUE, TIMER, RECOVER, READ)
"""Calls of which only the answer shows whether there was something to do."""

_FUNCTIONS = {
    "receive": STORE,
    "accept": ACCEPT,
    "take": TAKE,
    "take_due": TAKE_DUE,
    "park": "park",
    "resume": RESUME,
    "recover": RECOVER,
    "begin_suspect": SUSPECT,
    "due_sagas": TIMER,
    "relay": READ,
}
_IDLE = re.compile(
    r"SELECT 1$|SELECT current_setting\('jit'\)|VACUUM|LISTEN|UNLISTEN|NOTIFY|SELECT pg_advisory_(un)?lock\(|"
    r"SELECT n FROM unnest\(\$2|SELECT least\(|WITH new AS \(INSERT INTO covey\.ingest|DELETE FROM covey\.|"
    r".*pg_catalog|.*pg_type"
)
_SEAMS = {STORE: "messages stored", ACCEPT: "turn at once", RECEIVE: "delivery", FLUSH: "flush", READ: READ, MARK: MARK}


@lru_cache(maxsize=1024)
def call_of(sql: str) -> str | None:
    """Return what a statement is called; None: it belongs to no work (signs of life, housekeeping)."""
    text = " ".join(sql.split())
    if text in ("BEGIN", "COMMIT", "ROLLBACK"):
        return text.lower()
    if re.match(r"SELECT (\* FROM )?covey\.", text):
        functions = re.findall(r"\bcovey\.(\w+)\(", text)
        return (len(functions) == 1 and _FUNCTIONS.get(functions[0])) or f"{FLUSH} {' + '.join(functions)}"
    if not text or _IDLE.match(text):
        return None
    writes = re.search(r"\b(INSERT INTO|UPDATE|DELETE FROM) ([a-z_.]+)", text)
    reads = re.search(r"\bFROM ([a-z_.]+)", text)
    if writes:
        return f"{writes[1].split()[0].lower()} {writes[2]}"
    return f"select {reads[1] if reads else text[7:40].partition('(')[0]}"


def ends(call: str) -> bool:
    """Tell whether a transaction ends with this call."""
    return call in (COMMIT, ROLLBACK) or call.endswith(AND_COMMIT)


def seam_of(call: str, when: When) -> str:
    """Return the seam that this side of a call belongs to."""
    if call.startswith(PUBLISH):
        return "publish" if when == "before" else "publish acknowledged"
    if call.startswith("POST /"):
        return "provider call" if when == "before" else "provider answer"
    if call in (RECIPIENT, MAIL):
        return "mail call" if when == "before" else "mail answer"
    if call.endswith(AND_COMMIT):
        return COMMIT
    for start, seam in _SEAMS.items():
        if call.startswith(start):
            return seam
    return call if call in (BEGIN, COMMIT, ROLLBACK, TIMER, *_FUNCTIONS.values()) else STATEMENT


def mail_call_of(mailing: Mailing) -> str | None:
    """Return what a step of handing a mail over is called; None for those that decide nothing."""
    if mailing.line == DOT:
        return MAIL
    return RECIPIENT if mailing.line.upper().startswith("RCPT") else None


def taken(statement: Statement) -> str:
    """Return the types of the messages that a take has read."""
    return _named(one[5].decode() for one in statement.rows if one[5])


def stored(statement: Statement) -> str:
    """Return the types of the messages that are to be stored."""
    place = 7 if call_of(statement.sql) == ACCEPT else 8
    return _named(texts(statement.arguments[0][place]))


def read(statement: Statement) -> str:
    """Return the types of the messages that the relay has read."""
    return _named(one[4].decode() for one in statement.rows if one[4])


def marks(statement: Statement) -> bool:
    """Tell whether the relay says that it has published something."""
    return length(statement.arguments[0][0]) > 0


def recovered(statement: Statement) -> bool:
    """Tell whether abandoned calls were found."""
    return any(int.from_bytes(one[0] or b"", "big") for one in statement.rows)


def _named(types: Iterable[str]) -> str:
    return " + ".join(sorted(set(types)))
