"""What does a page of a long list cost, the first and one far behind it?

5,000,000 accounts; pages of 50 in the order of the names, the first and the 50,000th, as a service reads them: the rows
and the cursor of the next page.
"""

from __future__ import annotations

import time
from uuid import UUID

from bench.laboratory import Laboratory
from bench.results import Answer, Figure
from bench.rounds import spread
from covey.database.pagination import MOST, Column, Listing, Query
from covey.database.pool import Database, PoolOptions
from covey.work.unit_of_work import Transactions

ROWS = 5_000_000
LIMIT = 50
FAR = 50_000
ROUNDS = 5
READS = 200

TABLES = f"""
CREATE TABLE account (id uuid PRIMARY KEY, name text COLLATE "C" NOT NULL, email text NOT NULL, closed_at timestamptz);
INSERT INTO account SELECT gen_random_uuid(), 'name ' || lpad((n / 3)::text, 9, '0'), n || '@example.org'
FROM generate_series(1, {ROWS}) AS n;
CREATE INDEX ON account (name, id) WHERE closed_at IS NULL;
ANALYZE account;
"""
ACCOUNTS = Listing(
    "accounts",
    "SELECT * FROM account WHERE closed_at IS NULL",
    key=Column("id", UUID),
    sorts={"name": (Column("name", str),)},
)


async def answer(laboratory: Laboratory) -> Answer:
    """Read both pages over and over, interleaved."""
    url = await laboratory.database(TABLES)
    taken: dict[str, list[float]] = {"first": [], "far": []}
    async with Database.open(url, PoolOptions(size=2, application="bench")) as database:
        transactions = Transactions(database, "bench")
        cursor = await _far(transactions)
        for number in range(-1, ROUNDS):
            for name, where in (("first", None), ("far", cursor))[:: 1 if number % 2 else -1]:
                ms = await _read(transactions, where)
                if number >= 0:
                    taken[name].append(ms)
    found = [far / first for far, first in zip(taken["far"], taken["first"], strict=True)]
    told = Answer(title="Pages")
    told.text = [
        f"{ROWS:,} rows, {LIMIT} a page. Page 1: {spread(taken['first'], 2)} ms; page {FAR:,}:"
        f" {spread(taken['far'], 2)} ms; ratio {spread(found, 2)}."
    ]
    told.figures = [Figure(bar="far_page", values=found)]
    return told


async def _far(transactions: Transactions) -> str:
    """Go there page by page, as a client does, with the longest pages that there are."""
    cursor = None
    for _ in range(FAR * LIMIT // MOST):
        async with transactions.begin() as work:
            cursor = (await ACCOUNTS.page(work, Query(sort="name", cursor=cursor, limit=MOST))).next
    if cursor is None:
        raise RuntimeError("the list ends before the page")
    return cursor


async def _read(transactions: Transactions, cursor: str | None) -> float:
    begun = time.perf_counter()
    for _ in range(READS):
        async with transactions.begin() as work:
            page = await ACCOUNTS.page(work, Query(sort="name", cursor=cursor, limit=LIMIT))
        if len(page.rows) != LIMIT or page.next is None:
            raise RuntimeError("the page is not whole")
    return (time.perf_counter() - begun) / READS * 1e3
