"""Orders that were finished long ago, by the million: copies of real ones, in every service's own tables.

What real orders have left is taken as it is found, table by table and column by column, so that a copy cannot differ in
form from what the services write; a table of covey's that grows with orders and has no age below is an error. Each copy
has ids and keys of its own (those that begin with a time begin with its time), is as much older as its number says, and
shares products and users with all others. Retention has been there: messages, answers and sagas are only those that it
would have left. Bodies and headers are not rewritten: nobody reads them again.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import asyncpg

from bench.laboratory import run_sql
from covey.messaging.retention import IDEMPOTENCY_AGE, INBOX_AGE, OUTBOX_AGE
from covey.saga.journal import SAGAS

MESSAGES = 1_000_000
MESSAGES_OF_ONE = 12
ORDERS_A_DAY = MESSAGES / MESSAGES_OF_ONE / INBOX_AGE.days
"""So many that there are as many processed messages as said, in all inboxes together: each order has these."""

AGES: Mapping[str, timedelta] = {
    "covey.inbox": INBOX_AGE,
    "covey.reply": INBOX_AGE,
    "covey.outbox": OUTBOX_AGE,
    "covey.idempotency": IDEMPOTENCY_AGE,
    "covey.saga": SAGAS[0].age,
    "covey.saga_log": SAGAS[0].age,
}
SHARED = {"product_id", "user_id"}
NEWEST = 200_000
"""The number of the newest copy of each order; older ones have lower numbers, and the oldest lower positions."""
OUTLIVED = 1_000
"""The number of the oldest copy that retention is to remove, above all positions that the shop has had before."""
CHUNK = 500
TABLES = """
SELECT format('%s.%s', n.nspname, c.relname) AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND n.nspname IN ('public', 'covey') ORDER BY 1
"""
COLUMNS = """
SELECT attname AS name, atttypid::regtype::text AS type, attidentity <> '' AS counted FROM pg_attribute
WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum
"""
UUID = "'^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'"
# Of an id that begins with a time what follows it; else all of it.
REST = """CASE WHEN {0}::text ~ {1} AND substr({0}::text, 15, 1) = '7' THEN substr(replace({0}::text, '-', ''), 13)
          ELSE {0}::text END AS {0}"""
COPIED = "CASE WHEN length(t.{0}) = 20 THEN (g.time || t.{0})::uuid ELSE md5(t.{0} || g.n)::uuid END"
FAST = {"session_replication_role": "replica", "synchronous_commit": "off", "jit": "off"}  # no look at foreign keys


@dataclass(frozen=True)
class _Table:
    name: str
    rows: int
    insert: str


class Stored:
    """The orders that one shop has stored. Make it with `begun`, place some orders, then `multiply` them."""

    def __init__(self, urls: Mapping[str, str], before: Mapping[str, Mapping[str, int]]) -> None:
        self.orders = 0
        self._urls = urls
        self._before = before
        self._tables: dict[str, list[_Table]] = {}
        self._originals = 0
        self._copies = 0
        self._overdue = OUTLIVED

    @classmethod
    async def begun(cls, admin_url: str, databases: Mapping[str, str]) -> Stored:
        """Remember what is in the databases of the services before the first order."""
        urls = {name: _beside(admin_url, url) for name, url in databases.items()}
        for url in urls.values():  # copies come before, in the order of positions
            await run_sql(url, "".join(f"ALTER TABLE covey.{t} ALTER position RESTART 1000000000000;" for t in QUEUES))
        return cls(urls, {name: await _counts(url) for name, url in urls.items()})

    async def originals(self) -> None:
        """Take what the orders have left that were placed since the beginning: it will be copied."""
        for service, url in self._urls.items():
            grown = [t for t, n in (await _counts(url)).items() if n > self._before[service][t]]
            if unknown := [t for t in grown if t.startswith("covey.") and t not in AGES]:
                raise RuntimeError(f"{service}: {unknown[0]} grows with orders, and bench.stored knows no age for it")
            self._tables[service] = [await _table(url, name) for name in grown]
        (orders,) = [t for t in self._tables["order"] if t.name == "public.orders"]
        self._originals = self.orders = orders.rows

    async def multiply(self, orders: int) -> None:
        """Add older copies until there are so many orders, and bring the planner's knowledge up to date."""
        until = orders // self._originals - 1
        await self._configure("SET max_wal_size = '8GB'")  # each checkpoint has whole pages written to the log again
        await asyncio.gather(*(self._copy(s, NEWEST - until, NEWEST - self._copies) for s in self._urls))
        self._copies, self.orders = until, (until + 1) * self._originals
        await asyncio.gather(*(run_sql(url, "VACUUM (FREEZE, ANALYZE)") for url in self._urls.values()))
        await self._configure("RESET max_wal_size")
        await run_sql(self._urls["order"], "CHECKPOINT")  # nothing of it is left to be written while orders are placed

    async def outlive(self, orders: int) -> None:
        """Add what retention has left of so many orders but should no longer: it has work from now on."""
        copies = orders // self._originals
        begun, self._overdue = self._overdue, self._overdue + copies
        await asyncio.gather(*(self._copy(s, begun, self._overdue, overdue=True) for s in self._urls))

    async def overdue(self) -> int:
        """Return how many rows retention has still to remove."""
        left = [await _fetch(url, OVERDUE, *(AGES[f"covey.{table}"] for table in AGED)) for url in self._urls.values()]
        return sum(rows[0][0] for rows in left)

    async def size_gb(self) -> float:
        """Return what all databases take on the disk."""
        sizes = [await _fetch(url, "SELECT pg_database_size(current_database())") for url in self._urls.values()]
        return float(sum(rows[0][0] for rows in sizes) / 1e9)

    async def some(self, count: int) -> list[str]:
        """Return the ids of so many orders that are stored, of all ages."""
        low, high = NEWEST - self._copies, NEWEST
        query = f"""
            SELECT (SELECT o.id FROM orders o WHERE o.id >= ({_time("n")} || repeat('0', 20))::uuid ORDER BY o.id LIMIT 1)
            FROM (SELECT ($1 + floor(random() * $2))::bigint AS n FROM generate_series(1, $3)) AS chosen
        """  # noqa: E501 - one expression
        return [str(row[0]) for row in await _fetch(self._urls["order"], query, low, high - low, count)]

    async def recent(self, count: int) -> list[str]:
        """Return the ids of so many orders whose sagas are still there, with their history."""
        query = """
            SELECT o.id FROM covey.saga s JOIN orders o ON o.saga_id = s.id
            WHERE s.ended_at > now() - interval '80 days' ORDER BY md5(s.id::text) LIMIT $1
        """
        return [str(row[0]) for row in await _fetch(self._urls["order"], query, count)]

    async def one_of_each(self) -> tuple[str, str]:
        """Return the ids of a real order and of a copy of it."""
        query = f"""
            SELECT o.id, c.id FROM orders o
            JOIN orders c ON c.id = ({_time(str(NEWEST))} || substr(replace(o.id::text, '-', ''), 13))::uuid LIMIT 1
        """
        ((original, copy),) = await _fetch(self._urls["order"], query)
        return str(original), str(copy)

    async def _copy(self, service: str, above: int, upto: int, overdue: bool = False) -> None:
        """Insert the copies with these numbers, the oldest first, of each table what retention leaves (or forgot)."""
        connection = await asyncpg.connect(self._urls[service], server_settings=FAST)
        try:
            for table in self._tables[service]:
                age = AGES.get(table.name)
                kept = 0 if age is None else NEWEST - int(age / self._step)
                if overdue and age is None:
                    continue
                for begin in range(above if overdue else max(above, kept), upto, CHUNK):
                    await connection.execute(table.insert, begin, min(begin + CHUNK, upto), self._step)
        finally:
            await connection.close()

    async def _configure(self, setting: str) -> None:
        for statement in (f"ALTER SYSTEM {setting}", "SELECT pg_reload_conf()"):
            await run_sql(self._urls["order"], statement)

    @property
    def _step(self) -> timedelta:
        """Return by how much each copy is older than the next."""
        return timedelta(days=self._originals / ORDERS_A_DAY)


def form(shown: Any) -> Any:
    """Return what is shown of an order without what is a copy's own: its ids and its times."""
    if isinstance(shown, dict):
        lasting = {name: value for name, value in shown.items() if not OWN.search(name) or name in SHARED}
        return {name: form(value) for name, value in lasting.items()}
    return [form(one) for one in shown] if isinstance(shown, list) else shown


OWN = re.compile(r"(^|_)(id|at)$")
QUEUES = ("outbox", "inbox")
AGED = ("inbox", "outbox", "reply", "idempotency", "saga")
OVERDUE = """
SELECT (SELECT count(*) FROM covey.inbox WHERE received_at < now() - $1::interval)
     + (SELECT count(*) FROM covey.outbox WHERE created_at < now() - $2::interval)
     + (SELECT count(*) FROM covey.reply WHERE at < now() - $3::interval)
     + (SELECT count(*) FROM covey.idempotency WHERE created_at < now() - $4::interval)
     + (SELECT count(*) FROM covey.saga WHERE ended_at < now() - $5::interval)
"""


def _beside(admin_url: str, url: str) -> str:
    """Return the address of a database as the administrator."""
    return f"{admin_url.rpartition('/')[0]}/{url.rpartition('/')[2]}"


async def _fetch(url: str, query: str, *arguments: object) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(url)
    try:
        rows: list[asyncpg.Record] = await connection.fetch(query, *arguments)
        return rows
    finally:
        await connection.close()


async def _counts(url: str) -> dict[str, int]:
    names = [row["name"] for row in await _fetch(url, TABLES)]
    return {name: (await _fetch(url, f"SELECT count(*) FROM {name}"))[0][0] for name in names}


async def _table(url: str, name: str) -> _Table:
    """Keep a table's real rows apart, and return how they are copied."""
    columns = await _fetch(url, COLUMNS, name)
    copied = [c["name"] for c in columns if c["name"] not in SHARED and (c["type"] == "uuid" or c["name"] == "key")]
    kept = [REST.format(c["name"], UUID) if c["name"] in copied else c["name"] for c in columns]
    counted = [c["name"] for c in columns if c["counted"]]
    where = f"WHERE {counted[0]} >= 1000000000000" if counted else ""
    original = f"public.original_{name.replace('.', '_')}"
    await run_sql(
        url,
        f"CREATE TABLE {original} AS SELECT {', '.join(kept)}, row_number() OVER () AS row_of_original"
        f" FROM {name} {where}",
    )
    rows = (await _fetch(url, f"SELECT count(*) FROM {original}"))[0][0]
    values = ", ".join(_value(c["name"], c["type"], c["counted"], c["name"] in copied, rows) for c in columns)
    insert = f"""
        INSERT INTO {name} ({", ".join(c["name"] for c in columns)}) OVERRIDING SYSTEM VALUE
        SELECT {values}
        FROM (SELECT n, {_time("n")} AS time, $3::interval * ({NEWEST} + 1 - n) AS age
              FROM generate_series($1::bigint + 1, $2::bigint) AS n) AS g, {original} t
        ORDER BY g.n, t.row_of_original
    """
    return _Table(name, rows, insert)


def _value(column: str, kind: str, counted: bool, copied: bool, rows: int) -> str:
    if counted:
        return f"g.n * {rows} + t.row_of_original"
    if copied:
        return COPIED.format(column) + ("::text" if kind == "text" else "")
    return f"t.{column} - g.age" if kind == "timestamp with time zone" else f"t.{column}"


def _time(number: str) -> str:
    """Return SQL for the first 12 digits of an id of a copy: its time, in milliseconds, about one second apart."""
    return f"lpad(to_hex(1600000000000 + {number} * 1000::bigint), 12, '0')"
