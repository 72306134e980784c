"""Work: one PostgreSQL transaction that carries an effect together with the messages that tell of it.

Transactional outbox (Richardson, *Microservices Patterns*, chapter 3). A crash anywhere before COMMIT leaves
nothing, a crash after it leaves effect and messages both; there is no moment with one and without the other.
Whoever publishes from a `Work` needs no broker: the relay does the rest, now or after the next start.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import lru_cache
from itertools import count
from types import MappingProxyType, TracebackType
from typing import Any, TypeVar
from uuid import UUID

from covey.clock import Clock, SystemClock
from covey.context import active
from covey.database.errors import translated
from covey.database.pool import Acquired, Connection, Database, is_lost
from covey.errors import DatabaseUnavailable, DefinitionError, QueryFailed
from covey.message import Envelope, Message
from covey.telemetry.tracing import Attributes, Tracer
from covey.work.lasting import refuse_lasting
from covey.work.outbox import PUBLISH, PUBLISH_ONE, Outgoing, row_of
from covey.work.reading import is_plain_read

T = TypeVar("T")

_ENDED = "the block that this Work belongs to has ended: await everything inside it"

Call = tuple[str, list[Any]]
"""A function of the schema `covey`, and its arguments."""

Look = Callable[[str, str, tuple[Any, ...]], Awaitable[Any]]
"""Runs a statement without a transaction: the name of the connection's method, the statement and its arguments."""

Resources = Mapping[Any, Any]
"""What a service shares among all its works, each under what its owner looks for: mostly its class."""

_SPAN: Attributes = MappingProxyType({"db.system.name": "postgresql"})

NO_RESOURCES: Resources = MappingProxyType({})


class Work:
    """One transaction, READ COMMITTED, with the messages that it will publish.

    Everything done through it takes effect together when the block that gave it ends, or not at all. It belongs
    to one task: PostgreSQL runs one statement at a time on a connection.
    """

    __slots__ = (
        "_collected",
        "_connect",
        "_connection",
        "_deferred",
        "_first",
        "_look",
        "_opening",
        "_outgoing",
        "_over",
        "_preceding",
        "_ready",
        "clock",
        "enqueued",
        "published",
        "resources",
        "service",
        "state",
    )

    def __init__(
        self,
        connection: Connection | None,
        service: str,
        clock: Clock,
        connect: Callable[[], Awaitable[Connection]] | None = None,
        first: Call | None = None,
        resources: Resources = NO_RESOURCES,
        look: Look | None = None,
    ) -> None:
        self.service = service
        self.clock = clock
        self.resources = resources
        self._connection = connection
        self._connect = connect
        self._first = first  # what `connect` calls too; together with the rest if all of it is one statement
        self._look = look  # for reads before the transaction has begun; None: every statement begins it
        self._ready = connection  # where a statement may run at once
        self._over = False
        self._preceding: list[Call] = []
        self._opening = False
        self._outgoing = Outgoing(service, clock)
        self._deferred: dict[str, list[tuple[Any, ...]]] = {}
        self._collected: dict[str, dict[Any, tuple[Any, ...]]] = {}
        self.state: dict[Any, Any] = {}
        self.published = False
        self.enqueued = False

    async def execute(self, sql: str, *args: Any) -> str:
        """Run a statement and return PostgreSQL's tag for it, such as `UPDATE 3`."""
        refuse_lasting(sql)
        connection = self._ready or await self._open()
        with translated():
            return str(await connection.execute(sql, *args))

    async def fetch(self, sql: str, *args: Any) -> list[Any]:
        """Run a query and return its rows, readable by name and by position."""
        return list(await self._read("fetch", sql, args))

    async def fetchrow(self, sql: str, *args: Any) -> Any:
        """Run a query and return its first row, or None."""
        return await self._read("fetchrow", sql, args)

    async def fetchval(self, sql: str, *args: Any) -> Any:
        """Run a query and return the first value of its first row, or None."""
        return await self._read("fetchval", sql, args)

    def defer(self, sql: str, *args: Any) -> None:
        """Run a statement just before the commit, together with all others of the same text.

        One round trip for all of them. Later reads in this transaction do not see its effect, and an error of
        it rolls back everything.
        """
        refuse_lasting(sql)
        self._require_open()
        self._deferred.setdefault(sql, []).append(args)

    def collect(self, function: str, *row: Any, key: Any = None, after: str | None = None) -> None:
        """Have a function of the schema `covey` called just before the commit: once, with an array for each column.

        All such functions are one round trip, after what was deferred and together with the messages, in the order in
        which they were first named. Of several rows with the same `key` the last counts. `after` names a function that
        is called before this one if it is called at all: what it raises is what is told.
        """
        self._require_open()
        if after is not None:
            self._collected.setdefault(after, {})
        rows = self._collected.setdefault(function, {})
        rows[len(rows) if key is None else key] = row

    def precede(self, function: str, *arguments: Any) -> None:
        """Have a function of the schema `covey` called before the next statement of the block, should there be one.

        For locks that must be taken before those of the block's own statements. It is not called when all that comes
        is what is collected.
        """
        self._preceding.append((function, list(arguments)))
        self._ready = None

    def publish(self, message: Message, headers: dict[str, str] | None = None) -> UUID:
        """Publish an event of this service, or send a command, if and when this transaction commits.

        Returns the message's id, which it keeps for ever. Messages of one key are received in the order of
        their commits, and in the order of these calls within one. Raises TooLarge over 900,000 bytes, and
        DefinitionError for an event that belongs to another service.
        """
        self._require_open()
        return self._outgoing.add(message, headers)

    def send(self, envelope: Envelope) -> None:
        """Publish an envelope as it is; for replies and for messages that are made elsewhere. Raises TooLarge."""
        self._require_open()
        self._outgoing.keep(envelope)

    @property
    def plenty(self) -> bool:
        """Tell whether so much is to be published that a batch had better end here."""
        return self._outgoing.plenty

    @property
    def begun(self) -> bool:
        """Tell whether the transaction has begun: with the first statement that needs it, or before the block."""
        return self._connection is not None

    def end(self) -> None:
        """End with the block: who still holds it must not reach the connection, which is lent to somebody else then."""
        self._connection = self._ready = None
        self._over = True

    def _require_open(self) -> None:
        if self._over:
            raise DefinitionError(_ENDED)

    async def flush(self) -> None:
        """Write deferred statements and messages. Called at the end; lock no rows after it (see covey.work.outbox)."""
        await self._write(self._open)

    async def finish(self, alone: Callable[[], Awaitable[Connection]] | None = None) -> None:
        """Flush for the last time and commit; what is written last carries the COMMIT with it.

        What is one statement and nothing before it needs no transaction around it: `alone`, if given, gives it a
        connection without one.
        """
        calls = bool(self._first or self._collected or self._outgoing.envelopes)
        lonely = alone if len(self._deferred) + calls == 1 else None
        committed = await self._write(lonely or self._open, last=True)
        if self._connection is not None and not committed:
            await commit(self._connection)

    async def _write(self, connect: Callable[[], Awaitable[Connection]], *, last: bool = False) -> bool:
        """Write what is to be written at the end; if it is the `last`, True tells that it is committed."""
        outgoing, committed = self._outgoing.take(), False
        if not (self._first or self._deferred or self._collected or outgoing):
            return False
        connection = await self._open() if self._deferred and not self._ready else self._connection or await connect()
        with translated():
            for sql, rows in self._deferred.items():
                if len(rows) == 1:
                    await connection.execute(sql, *rows[0])
                else:
                    await connection.executemany(sql, rows)
            self._deferred.clear()
            calls = [self._first] if self._first else []
            calls += [(function, _columns(rows.values())) for function, rows in self._collected.items() if rows]
            if len(outgoing) == 1:
                calls.append((PUBLISH_ONE, list(row_of(outgoing[0]))))
            elif outgoing:
                calls.append((PUBLISH, _columns(map(row_of, outgoing))))
            if calls:
                committed = await call_all(connection, calls, commit=last and self._connection is not None)
            self._collected.clear()
            self.published = self.published or bool(outgoing)
        return committed

    async def _read(self, method: str, sql: str, args: tuple[Any, ...]) -> Any:
        """Run a query: as it is, if nothing has been done yet and it is nothing but a read; else in the transaction."""
        refuse_lasting(sql)
        if self._ready is None and self._may_look and is_plain_read(sql):
            return await self._looked(method, sql, args)
        connection = self._ready or await self._open()
        with translated():
            return await getattr(connection, method)(sql, *args)

    @property
    def _may_look(self) -> bool:
        return self._look is not None and self._connection is None and not self._preceding

    async def _looked(self, method: str, sql: str, args: tuple[Any, ...]) -> Any:
        self._require_turn()
        assert self._look is not None, "it was asked for by who has seen it"
        self._opening = True
        try:
            return await self._look(method, sql, args)
        finally:
            self._opening = False

    def _require_turn(self) -> None:
        self._require_open()
        if self._opening:
            raise DefinitionError("a Work runs one statement at a time: await each before the next, without gather()")

    async def _open(self) -> Connection:
        """Begin the transaction, now that there is something to do in it, with what is to precede that."""
        self._require_turn()
        self._opening = True
        try:
            if self._connection is None:
                assert self._connect is not None, "a Work without a connection was made with a way to get one"
                self._connection = await self._connect()
                self._first = None
            if self._preceding:
                with translated():
                    await call_all(self._connection, self._preceding)
                self._preceding.clear()
        finally:
            self._opening = False
        self._ready = self._connection
        return self._connection


class Transactions:
    """Where a service's work begins. `on_commit` is told of each work after its commit, and must not fail.

    `resources` is what all works of the service share; whoever runs the service fills it before the first. With a
    `tracer` a transaction is a span, from the wait for its connection to the answer to its COMMIT.
    """

    def __init__(
        self,
        database: Database,
        service: str,
        clock: Clock | None = None,
        on_commit: Callable[[Work], None] | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        self._database = database
        self.tracer = tracer
        self.service = service
        self.clock: Clock = clock or SystemClock()
        self.on_commit = on_commit
        self.resources: dict[Any, Any] = {}

    def begin(self) -> Begun:
        """Begin a transaction: `async with transactions.begin() as work`.

        A connection is taken with the first statement, so that a request which is refused before it needs none
        takes none. Plain reads (covey.work.reading) before any other statement run by themselves, each on a connection
        that is given back at once: in READ COMMITTED they see the same, and a block of these alone is no transaction
        at all. Otherwise it commits when the block ends and rolls back when it raises. When it has ended without an
        error, the commit has been confirmed by PostgreSQL. DatabaseUnavailable raised at the end means that the
        outcome is unknown; PoolExhausted (from the first statement) and Contention that nothing has happened.
        """
        return Begun(self, self._database)

    @asynccontextmanager
    async def joined(self, connection: Connection) -> AsyncIterator[Work]:
        """Take part in a transaction that somebody else has begun on this asyncpg connection, and will end.

        Messages are written at the end of the block. If the transaction commits they are published, if it rolls
        back they never were. Tell `on_commit` yourself, or let the relay find them within a second.
        """
        if not connection.is_in_transaction():
            raise DefinitionError(
                "joined() needs a connection with an open transaction, or messages would be written without their"
                " effect: begin one first (SQLAlchemy begins it with the first statement: `await session.flush()`)"
            )
        work = Work(connection, self.service, self.clock, resources=self.resources)
        try:
            yield work
            await work.flush()
        finally:
            work.end()

    def committed(self, work: Work) -> None:
        """Tell whoever waits for messages that this work has committed."""
        if self.on_commit is not None and (work.published or work.enqueued):
            self.on_commit(work)


class Begun:
    """A transaction as a block; a class, because this is on the path of every request."""

    __slots__ = ("_acquired", "_begun_ns", "_connection", "_database", "_over", "_start_ns", "_transactions", "_work")

    def __init__(self, transactions: Transactions, database: Database) -> None:
        self._transactions = transactions
        self._database = database
        self._over = False
        self._start_ns = 0  # until a connection is needed

    async def __aenter__(self) -> Work:
        self._connection: Connection | None = None
        of = self._transactions
        self._work = Work(None, of.service, of.clock, self._begin, None, of.resources, self._look)
        return self._work

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        committed, failure = False, error
        try:
            if error is None:
                await self._work.finish(self._acquire)  # what is one statement is a transaction by itself
                committed = True
        except BaseException as failed:
            failure = failed
            raise
        finally:
            self._over = True
            self._work.end()
            await self._release(committed)
            if self._start_ns and (tracer := self._transactions.tracer) is not None:
                self._record(tracer, failure)
        if error is None:
            self._transactions.committed(self._work)

    async def _look(self, method: str, sql: str, args: tuple[Any, ...]) -> Any:
        """Run a read by itself; what was cancelled in the midst of it is over before the connection is lent again."""
        async with self._database.acquire() as connection:
            try:
                with translated():
                    return await getattr(connection, method)(sql, *args)
            except BaseException:
                await roll_back(connection)
                raise

    def _record(self, tracer: Tracer, failure: BaseException | None) -> None:
        """Record the span; outside of any request, job or call there is no trace that it could belong to."""
        if (about := active()) is not None and about.trace.sampled:
            trace, end_ns = about.trace, self._start_ns + time.perf_counter_ns() - self._begun_ns
            error = type(failure).__name__ if isinstance(failure, Exception) else None
            tracer.record("transaction", "client", trace.child(), trace.span_id, self._start_ns, end_ns, _SPAN, error)

    async def _acquire(self) -> Connection:
        if not self._start_ns:
            self._start_ns, self._begun_ns = time.time_ns(), time.perf_counter_ns()
        self._acquired: Acquired = self._database.acquire()
        self._connection = await self._acquired.__aenter__()
        return self._connection

    async def _begin(self) -> Connection:
        connection = await self._acquire()
        try:
            if self._over:
                raise DefinitionError(_ENDED)
            await begin(connection)
        except BaseException:
            await self._release(committed=False)
            raise
        return connection

    async def _release(self, committed: bool) -> None:
        """Give the connection back, without a transaction on it whatever has happened."""
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                if not committed:
                    await roll_back(connection)
            finally:
                await self._acquired.__aexit__(None, None, None)


async def begin(connection: Connection) -> None:
    """Open a transaction, with the next statement."""
    with translated():
        await connection.begin_with_next()


async def commit(connection: Connection) -> None:
    """Commit, and make sure that it was one: PostgreSQL answers COMMIT of a failed transaction with ROLLBACK."""
    if connection.pipeline.begins:  # nothing was done in it, but to prepare a statement may have begun one
        await roll_back(connection)
        return
    _require_transaction(connection)
    with translated():
        tag = await connection.execute("COMMIT")
    if tag != "COMMIT":
        raise QueryFailed(
            "the transaction was rolled back: a statement in it had failed and its error was caught."
            " Let the error end the block, or use a statement that does not fail (ON CONFLICT)"
        )


def _require_transaction(connection: Connection) -> None:
    if not is_lost(connection) and not connection.is_in_transaction():
        raise QueryFailed("the transaction was ended by a statement inside it: nobody knows what of it has happened")


async def roll_back(connection: Connection) -> None:
    """End the transaction without effect. If even that fails the connection is cut, so that no lock survives.

    It asks PostgreSQL in any case: after a cancelled statement asyncpg does not know yet whether there is one.
    """
    if is_lost(connection):
        return
    connection.pipeline.forget()
    try:
        with translated():
            await connection.execute("ROLLBACK")
    except (DatabaseUnavailable, QueryFailed):
        _cut(connection)
    except BaseException:
        _cut(connection)
        raise


def _cut(connection: Connection) -> None:
    if not is_lost(connection):
        connection.terminate()


def _columns(rows: Iterable[tuple[Any, ...]]) -> list[Any]:
    """Return rows as an array for each of their columns."""
    return [list(column) for column in zip(*rows, strict=True)]


async def call_all(connection: Connection, calls: list[Call], *, commit: bool = False) -> bool:
    """Call functions in this order, in one statement. If they are to `commit`, True tells that they have."""
    statement = _calling(tuple((function, len(arguments)) for function, arguments in calls))
    arguments = [argument for _, those in calls for argument in those]
    if commit:
        if not connection.pipeline.begins:
            _require_transaction(connection)
        connection.pipeline.commit_with_next(len(arguments))
    try:
        tag = await connection.execute(statement, *arguments)
    finally:
        if commit:
            connection.pipeline.forget()
    return bool(tag == "COMMIT")


@lru_cache(maxsize=256)
def _calling(functions: tuple[tuple[str, int], ...]) -> str:
    numbers = count(1)
    calls = (f"covey.{function}({', '.join(f'${next(numbers)}' for _ in range(n))})" for function, n in functions)
    return f"SELECT {', '.join(calls)}"
