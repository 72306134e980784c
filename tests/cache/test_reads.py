"""`@cached` on what a service reads: with its database, its transactions and its events."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import NewType
from uuid import UUID

import pytest
from fastapi import APIRouter

from covey.cache.caches import Caches
from covey.cache.options import CacheOptions
from covey.cache.reads import cached
from covey.database.pool import Database
from covey.http.transaction import Transaction
from covey.ids import new_id
from covey.local.engines.embedded import Engines
from covey.message import Event
from covey.messaging.brokers.memory import MemoryBroker
from covey.messaging.router import Router
from covey.security.access import public
from covey.service import Parts, Running, Service
from covey.settings import ServiceSettings
from covey.telemetry.metrics import Counter
from covey.testing.asgi import ask
from covey.testing.eventually import eventually
from covey.work.unit_of_work import Transactions, Work

BookId = NewType("BookId", UUID)


@dataclass(frozen=True)
class Book:
    """Something that a library has."""

    id: BookId
    title: str


class BookChanged(Event, type="library.book-changed.v1", key="book_id"):
    """A book has another title now."""

    book_id: BookId


@cached("book", CacheOptions(hold=timedelta(seconds=1)))
async def book_by_id(work: Work, book_id: BookId) -> Book | None:
    """Return a book, or None."""
    row = await work.fetchrow("SELECT id, title FROM book WHERE id = $1", book_id)
    return Book(**dict(row)) if row else None


api = APIRouter()
router = Router()


@api.get("/books/{book_id}")
@public
async def get_book(book_id: BookId, work: Transaction) -> Book | None:
    return await book_by_id(work, book_id)


@api.put("/books/{book_id}/{title}")
@public
async def rename(book_id: BookId, title: str, work: Transaction, *, silently: bool = False) -> Book | None:
    await work.execute("INSERT INTO book VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET title = $2", book_id, title)
    if not silently:
        await book_by_id.changing(work, book_id)
    work.publish(BookChanged(book_id=book_id))
    return await book_by_id(work, book_id)


@router.on(BookChanged)
async def forget(event: BookChanged, work: Work) -> None:
    await book_by_id.changed(work, event.book_id)


library = Service("library", Parts(http=[api], messages=[router], valkey=True))


@pytest.fixture
async def tables(database: Database) -> None:
    async with Transactions(database, "library").begin() as work:
        await work.execute("CREATE TABLE book (id uuid PRIMARY KEY, title text NOT NULL)")


@pytest.fixture
async def running(
    tables: None, database_url: str, covey_engines: Engines, system_name: str, memory_broker: MemoryBroker
) -> AsyncIterator[Running]:
    settings = ServiceSettings(
        database_url=database_url, nats_url="nats://unused", valkey_url=covey_engines.valkey_url, system=system_name
    )
    async with library.running(settings, memory_broker) as started:
        yield started


def hits(running: Running) -> float:
    counters = [one for one in running.telemetry.metrics.all() if one.name == "covey_cache_reads_total"]
    return sum(one.value(("book", "hit")) for one in counters if isinstance(one, Counter))


async def title(running: Running, book_id: UUID) -> str:
    answer = await ask(running.app, "GET", f"/books/{book_id}")
    assert answer.status == 200
    return str(answer.json()["title"])


async def test_a_route_finds_what_was_read_and_takes_no_connection_for_it(running: Running) -> None:
    book_id = new_id()
    await ask(running.app, "PUT", f"/books/{book_id}/Emma")
    await eventually(lambda: _kept(running, book_id))
    before = hits(running)
    async with running.messaging.transactions.begin() as work:
        found = await book_by_id(work, BookId(book_id))
        assert not work.begun

    assert found == Book(BookId(book_id), "Emma")
    assert hits(running) == before + 1


async def _kept(running: Running, book_id: UUID) -> bool:
    before = hits(running)
    await title(running, book_id)
    return hits(running) > before


async def test_a_change_is_seen_at_once(running: Running) -> None:
    book_id = new_id()
    for name in ("Emma", "Persuasion"):
        await ask(running.app, "PUT", f"/books/{book_id}/{name}")

        assert await title(running, book_id) == name


async def test_a_change_that_was_not_announced_is_seen_when_its_event_has_come(running: Running) -> None:
    book_id = new_id()
    for name in ("Emma", "Persuasion"):
        await ask(running.app, "PUT", f"/books/{book_id}/{name}", query="silently=true")
        await eventually(partial(_is, running, book_id, name))


async def _is(running: Running, book_id: UUID, name: str) -> bool:
    return await title(running, book_id) == name


async def test_a_transaction_that_has_begun_reads_what_it_has_written_and_shows_it_to_nobody(running: Running) -> None:
    book_id = BookId(new_id())
    async with running.messaging.transactions.begin() as work:
        await work.execute("INSERT INTO book VALUES ($1, 'Emma')", book_id)
        assert await book_by_id(work, book_id) == Book(book_id, "Emma")

        answer = await ask(running.app, "GET", f"/books/{book_id}")

    assert answer.json() is None


async def test_where_no_service_runs_a_read_is_only_a_read(tables: None, database: Database) -> None:
    async with Transactions(database, "library").begin() as work:
        assert await book_by_id(work, BookId(new_id())) is None
        await book_by_id.changing(work, BookId(new_id()))
        await book_by_id.changed(work, BookId(new_id()))
        assert Caches not in work.resources


async def test_a_service_that_has_no_valkey_reads_its_database(
    tables: None, database_url: str, memory_broker: MemoryBroker
) -> None:
    settings = ServiceSettings(database_url=database_url, nats_url="nats://unused")
    async with library.running(settings, memory_broker) as running:
        book_id = new_id()
        await ask(running.app, "PUT", f"/books/{book_id}/Emma")

        assert await title(running, book_id) == "Emma"
        assert running.valkey is None


def test_it_says_what_the_function_says() -> None:
    assert book_by_id.__doc__ == "Return a book, or None."
