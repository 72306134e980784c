"""What to look at when an order has not come to what it should: queues, sessions and last words of every process."""

from __future__ import annotations

from tests.harness.ledger import Ledger
from tests.harness.shop import Shop

_LINES = 12
_QUEUES = (
    "SELECT 'outbox ' || (SELECT count(*) FROM covey.outbox_pending) || ', inbox '"
    " || (SELECT count(*) FROM covey.inbox_pending) || ', held ' || (SELECT count(*) FROM covey.inbox_held)"
)
_SESSIONS = (
    "SELECT format('%s %s for %s s, waits for %s: %s', pid, state,"
    " round(extract(epoch FROM clock_timestamp() - state_change), 1), wait_event, left(query, 90))"
    " FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() ORDER BY pid"
)
_LOCKS = (
    "SELECT format('%s %s %s %s:%s granted=%s', pid, locktype, mode, classid, objid, granted) FROM pg_locks"
    " WHERE database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    " AND (locktype = 'advisory' OR NOT granted) ORDER BY pid"
)


async def testimony(shop: Shop, ledger: Ledger) -> str:
    """Return it as text, for the note of a failure."""
    said: list[str] = []
    for service, pool in ledger.pools.items():
        said.append(f"== {service}: {await pool.fetchval(_QUEUES)}")
        for question in (_SESSIONS, _LOCKS):
            said += [f"  {row[0]}" for row in await pool.fetch(question)]
        for replica in shop.replicas[service]:
            said += [f"-- {replica.log.name}", *replica.log.read_text(errors="replace").splitlines()[-_LINES:]]
    return "\n".join(said)
