"""Lists page by page: each row that stays exactly once, whatever comes and goes, and no SQL from outside."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from covey.database.filters import Integer, Text
from covey.database.pagination import Column, Listing, Query
from covey.database.pool import Database
from covey.errors import DefinitionError, Invalid, Unreadable
from covey.work.unit_of_work import Transactions, Work

ID = Column("id", UUID)
THINGS = Listing(
    "things",
    "SELECT * FROM thing WHERE NOT hidden",
    key=ID,
    sorts={
        "id": (),
        "name": (Column("name", str),),
        "weight": (Column("weight", int),),
        "at": (Column("made_at", datetime),),
    },
    filters={"name": "name = {}", "lightest": "weight >= {}"},
    fields={"weight": Integer("weight"), "name": Text("name")},
    most=50,
)
BEGUN = datetime(2026, 1, 1, 0, 0, 0, 123456, tzinfo=UTC)


@pytest.fixture
async def work(database: Database) -> AsyncIterator[Work]:
    async with Transactions(database, "test").begin() as work:
        await work.execute(
            "CREATE TABLE thing (id uuid PRIMARY KEY, name text NOT NULL, weight int NOT NULL,"
            " made_at timestamptz NOT NULL, hidden bool NOT NULL DEFAULT false)"
        )
        yield work


async def add(work: Work, number: int, name: str | None = None, weight: int | None = None) -> UUID:
    found = UUID(int=number)
    await work.execute(
        "INSERT INTO thing VALUES ($1, $2, $3, $4)",
        found,
        name if name is not None else f"thing {number % 3}",
        weight if weight is not None else number % 5,
        BEGUN + timedelta(microseconds=number // 2),
    )
    return found


async def pages(work: Work, limit: int, **query: Any) -> list[list[Any]]:
    found, cursor = [], None
    while True:
        page = await THINGS.page(work, Query(cursor=cursor, limit=limit, **query))
        found.append(page.rows)
        cursor = page.next
        if cursor is None:
            return found


@pytest.mark.parametrize("sort", ["id", "-id", "name", "-name", "weight", "-weight", "at", "-at"])
@pytest.mark.parametrize("limit", [1, 3, 7, 20, 50])
async def test_every_row_is_seen_once_in_order(work: Work, sort: str, limit: int) -> None:
    for number in range(20):
        await add(work, number)

    rows = [row for page in await pages(work, limit, sort=sort) for row in page]

    keys = {"id": "id", "name": "name", "weight": "weight", "at": "made_at"}
    expected = sorted(rows, key=lambda row: (row[keys[sort.lstrip("-")]], row["id"]), reverse=sort.startswith("-"))
    assert rows == expected
    assert len({row["id"] for row in rows}) == 20


async def test_the_last_page_says_that_it_is_the_last(work: Work) -> None:
    for number in range(6):
        await add(work, number)

    assert [len(page) for page in await pages(work, 3)] == [3, 3]
    assert [len(page) for page in await pages(work, 4)] == [4, 2]
    assert (await THINGS.page(work, Query(filters={"name": "none"}))).rows == []


async def test_rows_that_come_and_go_meanwhile_shift_nothing(work: Work) -> None:
    stay = {await add(work, number, weight=number) for number in range(0, 40, 2)}
    seen, cursor, turn = [], None, 0
    while True:
        page = await THINGS.page(work, Query(sort="weight", cursor=cursor, limit=3))
        seen += [row["id"] for row in page.rows]
        cursor, turn = page.next, turn + 1
        if cursor is None:
            break
        await add(work, 1_000 + turn, weight=0)  # before what was read
        await add(work, 2 * turn + 1, weight=2 * turn + 1)
        await work.execute("DELETE FROM thing WHERE id = $1", UUID(int=1_000 + turn - 1))

    assert stay <= set(seen)
    assert len(seen) == len(set(seen))


async def test_filters_hold_on_every_page_and_belong_to_the_cursor(work: Work) -> None:
    for number in range(30):
        await add(work, number)

    found = await pages(work, 2, filters={"name": "thing 1", "lightest": 2})

    assert [(row["name"], row["weight"] >= 2) for page in found for row in page] == [("thing 1", True)] * 6
    cursor = (await THINGS.page(work, Query(filters={"lightest": 2}, limit=2))).next
    for filters in ({}, {"lightest": 1}, {"name": "2"}):
        with pytest.raises(Unreadable):
            await THINGS.page(work, Query(filters=filters, cursor=cursor, limit=2))


async def test_a_condition_of_the_clients_holds_beside_the_filters_and_belongs_to_the_cursor(work: Work) -> None:
    for number in range(30):
        await add(work, number)

    found = await pages(work, 2, filters={"name": "thing 1"}, condition="weight >= 2 AND weight < 4")

    assert {(row["name"], row["weight"]) for page in found for row in page} == {("thing 1", 2), ("thing 1", 3)}
    cursor = (await THINGS.page(work, Query(condition="weight >= 2", limit=2))).next
    for other in ("", "weight >= 3"):
        with pytest.raises(Unreadable):
            await THINGS.page(work, Query(condition=other, cursor=cursor, limit=2))
    with pytest.raises(Invalid):
        await THINGS.page(work, Query(condition="hidden = 1"))


async def test_a_cursor_belongs_to_one_sort_one_list_and_one_service(work: Work, database: Database) -> None:
    for number in range(5):
        await add(work, number)
    cursor = (await THINGS.page(work, Query(sort="name", limit=2))).next

    for sort in ("-name", "id", None):
        with pytest.raises(Unreadable):
            await THINGS.page(work, Query(sort=sort, cursor=cursor))
    with pytest.raises(Unreadable):
        other = Listing("others", "SELECT * FROM thing WHERE true", key=ID, sorts={"name": (Column("name", str),)})
        await other.page(work, Query(sort="name", cursor=cursor))
    with pytest.raises(Unreadable):
        redefined = Listing("things", "SELECT * FROM thing WHERE true", key=ID, sorts={"name": ()})
        await redefined.page(work, Query(sort="name", cursor=cursor))
    await work.execute("UPDATE covey.signing_key SET key = sha256('another service')")
    with pytest.raises(Unreadable):
        await THINGS.page(work, Query(sort="name", cursor=cursor))


async def test_a_cursor_that_was_changed_anywhere_is_refused(work: Work) -> None:
    for number in range(5):
        await add(work, number)
    cursor = (await THINGS.page(work, Query(sort="name", limit=2))).next
    assert cursor is not None
    raw = bytearray(urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))

    for place in range(len(raw)):
        changed = bytes(raw[:place]) + bytes([raw[place] ^ 1]) + bytes(raw[place + 1 :])
        with pytest.raises(Unreadable):
            await THINGS.page(work, Query(sort="name", cursor=urlsafe_b64encode(changed).decode()))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(cursor=st.text(max_size=60) | st.binary(max_size=60).map(lambda raw: urlsafe_b64encode(b"\x01" + raw).decode()))
async def test_whatever_is_sent_for_a_cursor_is_refused(work: Work, cursor: str) -> None:
    with pytest.raises(Unreadable):
        await THINGS.page(work, Query(cursor=cursor))


@pytest.mark.parametrize(
    "query",
    [
        Query(sort="colour"),
        Query(sort="--name"),
        Query(sort="name; DROP TABLE thing"),
        Query(sort=""),
        Query(filters={"colour": "red"}),
        Query(filters={"name = '' OR true --": 1}),
        Query(limit=0),
        Query(limit=-1),
        Query(limit=51),
    ],
)
async def test_what_was_not_declared_is_refused(work: Work, query: Query) -> None:
    with pytest.raises(Invalid):
        await THINGS.page(work, query)


async def test_a_value_is_a_value_whatever_it_looks_like(work: Work) -> None:
    await add(work, 1, name="x' OR true --")
    await add(work, 2, name="{}")

    assert len((await THINGS.page(work, Query(filters={"name": "x' OR true --"}))).rows) == 1
    assert len((await THINGS.page(work, Query(filters={"name": "{}"}))).rows) == 1


async def test_a_batch_has_what_was_asked_for_in_the_order_in_which_it_was(work: Work) -> None:
    ids = [await add(work, number) for number in range(5)]
    await work.execute("UPDATE thing SET hidden = true WHERE id = $1", ids[0])

    found = await THINGS.batch(work, [ids[3], UUID(int=99), ids[1], ids[3], ids[0]])

    assert [row["id"] for row in found] == [ids[3], ids[1]]
    with pytest.raises(Invalid):
        await THINGS.batch(work, [UUID(int=n) for n in range(51)])


def test_a_list_that_could_not_work_is_refused_where_it_is_declared() -> None:
    for select, sorts, filters in (
        ("SELECT * FROM thing", {"id": ()}, {}),
        ("SELECT * FROM thing WHERE true", {}, {}),
        ("SELECT * FROM thing WHERE true", {"id": ()}, {"name": "name = $1"}),
    ):
        with pytest.raises(DefinitionError):
            Listing("things", select, key=ID, sorts=sorts, filters=filters)
    for name, kind in (("id; --", UUID), ("id", float)):
        with pytest.raises(DefinitionError):
            Column(name, kind)  # type: ignore[arg-type]
