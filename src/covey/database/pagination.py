"""Lists that are read page by page: each row that stays is seen once, and the last page costs what the first does.

    USERS = Listing(
        "users",
        "SELECT * FROM account WHERE closed_at IS NULL",
        key=Column("id", UUID),
        sorts={"id": (), "name": (Column("name", str),)},
        filters={"email": 'lower(email COLLATE "C") = lower({})', "min_age": "age >= {}"},
    )

    page = await USERS.page(work, Query(sort="-name", filters={"min_age": 18}, cursor=cursor, limit=50))

A page begins after the last row of the one before (keyset pagination: Markus Winand, *SQL Performance Explained*,
chapter 7), so rows that come or go meanwhile shift nothing. What can be sorted and filtered by is declared, in SQL
that the service's author wrote; of a request nothing but values reaches the database. A list with `fields` takes a
condition that the client has written, too (`covey.database.filters`). Each sort needs an index on its columns and the
key; the rest is up to the planner.

A cursor is opaque and signed by the service: it belongs to one list, with one sort and one set of filters, and who
changes it or takes it elsewhere is refused. It holds values of the last row's sort columns, and does not hide them:
sort by nothing that the reader of the list may not see. It does not expire; the key that signs is in the service's
database.
"""

from __future__ import annotations

import hmac
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

import orjson

from covey.database.filters import Fields, condition
from covey.errors import DefinitionError, Invalid, Unreadable

MOST = 200
"""No page has more rows, and no batch more ids, unless a listing says so."""

_NAME = re.compile(r"[a-z_][a-z0-9_]*")
_FORMAT = b"\x01"
_MAC_BYTES = 16
_MOST_CURSOR = 2_000
_ALTERED = "the cursor is of another list, sort or filter, or was changed: begin without one"


class Reader(Protocol):
    """What runs queries: a `Work`."""

    async def fetch(self, sql: str, *args: Any) -> list[Any]:
        """Return the rows of a query."""
        ...

    async def fetchval(self, sql: str, *args: Any) -> Any:
        """Return the first value of a query."""
        ...


@dataclass(frozen=True, slots=True)
class Column:
    """A column that is never null, and what it holds: `int`, `str`, `UUID` or `datetime`."""

    name: str
    kind: type[int] | type[str] | type[UUID] | type[datetime]

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or self.kind not in (int, str, UUID, datetime):
            raise DefinitionError(f"a list cannot be sorted by {self}")

    def dumped(self, value: Any) -> Any:
        """Return a value of this column as JSON has it."""
        return value if self.kind in (int, str) else value.isoformat() if self.kind is datetime else str(value)

    def loaded(self, value: Any) -> Any:
        """Return what was dumped."""
        if self.kind is datetime:
            return datetime.fromisoformat(value)
        return UUID(value) if self.kind is UUID else value


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What is asked of a list. `sort` is the name of one, with `-` before it for the other direction.

    `filters` are values by the names of declared filters, None for none; `condition` is one that the client wrote.
    """

    sort: str | None = None
    filters: Mapping[str, Any] = field(default_factory=dict)
    condition: str = ""
    cursor: str | None = None
    limit: int = 50


@dataclass(frozen=True, slots=True)
class Page:
    """Rows in order. `next` is the cursor of the page after them; None: there is none."""

    rows: list[Any]
    next: str | None


class Listing:
    """One list of a service: a SELECT with a WHERE, its key, what it can be sorted and filtered by.

    The first sort is the one of who asks for none. A filter is a condition in which `{}` stands for its value; `fields`
    are what a condition of the client's may compare. The name and the declaration are what a cursor belongs to: another
    table under an old name needs another name.
    """

    def __init__(
        self,
        name: str,
        select: str,
        *,
        key: Column,
        sorts: Mapping[str, Sequence[Column]],
        filters: Mapping[str, str] | None = None,
        fields: Fields | None = None,
        most: int = MOST,
    ) -> None:
        self._name = name
        self._select = select.strip()
        self._key = key
        self._sorts = {sort: (*columns, key) for sort, columns in sorts.items()}
        self._filters = dict(filters or {})
        self._fields = fields or {}
        self._most = most
        if " where " not in f" {' '.join(self._select.lower().split())} " or not self._sorts or most < 1:
            raise DefinitionError(f"the list {name!r} needs a SELECT with a WHERE (or WHERE true), and a sort")
        for filter_name, sql in self._filters.items():
            if sql.count("{}") != 1:
                raise DefinitionError(f"the filter {filter_name!r} of the list {name!r} needs one {{}} for its value")

    async def page(self, work: Reader, query: Query) -> Page:
        """Return the page that is asked for. Raises Invalid for what was not declared, Unreadable for a cursor."""
        sort, columns, descending = self._sort(query.sort)
        filters = {name: value for name, value in query.filters.items() if value is not None}
        if not 1 <= query.limit <= self._most:
            raise Invalid(f"a page has 1 to {self._most} entries")
        signed_with = _Signature(self._name, sort, columns, descending, filters, query.condition)
        after: list[Any] = []
        key = b""
        if query.cursor is not None:
            key = await _key(work)
            after = _opened(query.cursor, columns, signed_with, key)
        sql, arguments = self._sql(columns, descending, filters, query.condition, after)
        rows = await work.fetch(sql, *arguments, query.limit + 1)
        if len(rows) <= query.limit:
            return Page(rows, None)
        last = rows[query.limit - 1]
        values = [last[column.name] for column in columns]
        return Page(rows[: query.limit], _sealed(values, columns, signed_with, key or await _key(work)))

    async def batch(self, work: Reader, ids: Sequence[Any]) -> list[Any]:
        """Return the rows with these keys in the order of the keys; one that is not there is left out, also twice."""
        if len(ids) > self._most:
            raise Invalid(f"at most {self._most} can be asked for at once")
        rows = await work.fetch(f"{self._select} AND {self._key.name} = ANY($1)", list(dict.fromkeys(ids)))
        found = {row[self._key.name]: row for row in rows}
        return [found[one] for one in dict.fromkeys(ids) if one in found]

    def _sort(self, asked: str | None) -> tuple[str, tuple[Column, ...], bool]:
        descending = asked is not None and asked.startswith("-")
        name = next(iter(self._sorts)) if asked is None else asked.removeprefix("-")
        if name not in self._sorts:
            raise Invalid(
                f"it can be sorted by {', '.join(self._sorts)}, each with - before it for the other direction"
            )
        return name, self._sorts[name], descending

    def _sql(
        self, columns: Sequence[Column], descending: bool, filters: Mapping[str, Any], wanted: str, after: list[Any]
    ) -> tuple[str, list[Any]]:
        parts, arguments = [self._select], []
        for name in sorted(filters):
            if name not in self._filters:
                raise Invalid(f"it can be filtered by {', '.join(self._filters) or 'nothing'}")
            arguments.append(filters[name])
            parts.append(f"AND ({self._filters[name].replace('{}', f'${len(arguments)}')})")
        if wanted:
            chosen = condition(wanted, self._fields, first=len(arguments) + 1)
            arguments += chosen.arguments
            parts.append(f"AND ({chosen.sql})")
        names = ", ".join(column.name for column in columns)
        if after:
            places = ", ".join(f"${len(arguments) + n}" for n in range(1, len(after) + 1))
            arguments += after
            parts.append(f"AND ({names}) {'<' if descending else '>'} ({places})")
        order = ", ".join(f"{column.name} {'DESC' if descending else 'ASC'}" for column in columns)
        parts.append(f"ORDER BY {order} LIMIT ${len(arguments) + 1}")
        return " ".join(parts), arguments


@dataclass(frozen=True, slots=True)
class _Signature:
    """What a cursor is signed with besides its values: where it belongs."""

    listing: str
    sort: str
    columns: Sequence[Column]
    descending: bool
    filters: Mapping[str, Any]
    condition: str

    def of(self, values: bytes, key: bytes) -> bytes:
        filters = sorted((name, str(value)) for name, value in self.filters.items())
        columns = [(column.name, column.kind.__name__) for column in self.columns]
        about = [self.listing, self.sort, columns, self.descending, filters, self.condition]
        return hmac.digest(key, _FORMAT + orjson.dumps(about) + b"\0" + values, "sha256")[:_MAC_BYTES]


def _sealed(values: Sequence[Any], columns: Sequence[Column], signature: _Signature, key: bytes) -> str:
    content = orjson.dumps([column.dumped(value) for column, value in zip(columns, values, strict=True)])
    return urlsafe_b64encode(_FORMAT + signature.of(content, key) + content).rstrip(b"=").decode()


def _opened(cursor: str, columns: Sequence[Column], signature: _Signature, key: bytes) -> list[Any]:
    """Return the values in a cursor. The signature first: what is not ours is not even parsed."""
    try:
        raw = (
            urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4)) if len(cursor) < _MOST_CURSOR else b""
        )
    except ValueError:
        raw = b""
    mac, content = raw[1 : 1 + _MAC_BYTES], raw[1 + _MAC_BYTES :]
    if raw[:1] != _FORMAT or not hmac.compare_digest(mac, signature.of(content, key)):
        raise Unreadable(_ALTERED)
    values = orjson.loads(content)
    return [column.loaded(value) for column, value in zip(columns, values, strict=True)]


async def _key(work: Reader) -> bytes:
    """Return what this service signs with. Read each time: it is one row, and a test's database is another's next."""
    return bytes(await work.fetchval("SELECT key FROM covey.signing_key"))
