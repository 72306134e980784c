"""Asks the database what a call is going to find, of which only the answer would tell.

A worker begins transactions all the time, and nearly all find nothing. Whether the one that it is about to begin is
the one to kill in can be read in the tables: the work that the point is about waits there, and nobody has it.
"""

from __future__ import annotations

from typing import Any

from tests.crash.logbook import DIRECT, INGEST, RETRY, TURN, WORKER, Logbook
from tests.crash.points import Point
from tests.crash.seams import BEGIN, READ, RECOVER, TIMER
from tests.wire.exchange import Statement
from tests.wire.postgres import numbers

_PENDING = """
SELECT string_agg(DISTINCT i.type, ' + ' ORDER BY i.type) FROM covey.inbox_pending p JOIN covey.inbox i USING (position)
WHERE NOT EXISTS (SELECT FROM covey.hold h WHERE h.key = p.key)
"""
_DUE = """
SELECT string_agg(DISTINCT i.type, ' + ' ORDER BY i.type)
FROM covey.hold h JOIN covey.inbox_held w USING (key) JOIN covey.inbox i ON i.position = w.position
WHERE h.until <= clock_timestamp()
"""
_UNPUBLISHED = """
SELECT string_agg(DISTINCT o.type, ' + ' ORDER BY o.type)
FROM covey.outbox_pending p JOIN covey.outbox o USING (position)
WHERE p.position <> ALL ($1)
"""
_OVERDUE = "SELECT EXISTS (SELECT FROM covey.saga WHERE deadline <= clock_timestamp())"
_ABANDONED = "SELECT EXISTS (SELECT FROM covey.hold WHERE state = 'working')"


async def foresee(pool: Any, logbook: Logbook, point: Point, statement: Statement) -> bool:
    """Tell whether this statement, of the kind of the point, is going to find what the point is about."""
    role = statement.session.role
    if point.about.startswith(DIRECT):
        return role.startswith(INGEST)  # it begins nothing without a message
    for what, query in ((TURN, _PENDING), (RETRY, _DUE)):
        if point.about.startswith(f"{what} "):
            return role == WORKER and point.about == f"{what} {await pool.fetchval(query)}"
    if role.startswith((WORKER, INGEST)):
        return False
    if point.call.startswith(READ):
        found = await pool.fetchval(_UNPUBLISHED, numbers(statement.arguments[0][0]))
        return bool(point.call == f"{READ} {found}")
    if point.about == TIMER:
        return bool(await pool.fetchval(_OVERDUE))
    if point.about == RECOVER:
        return bool(await pool.fetchval(_ABANDONED))
    return point.call == BEGIN and (point.about.startswith("answer") or logbook.request == point.about)
