"""The streams of one system in a Valkey: what is kept for each, and the scripts that change it in one step.

`{<system>:<stream>}:log` is the stream. Its ids are `0-1`, `0-2`, …, given by the server; the second number is the
sequence. Beside it, in the same slot of a cluster, are `:meta` (incarnation, the life of the server in which it was
last looked at, how that syncs, and gaps in the sequences), `:ids` and `:ids-before` (what was stored of late), `:marks`
(what was there when) and `:readers` (how far each has read).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from urllib.parse import parse_qs, urlsplit

from covey.errors import BrokerUnavailable, ConfigurationError, ValkeyRefused, ValkeyUnavailable
from covey.ids import new_id
from covey.messaging.broker import STREAM_MAX_AGE, Extent
from covey.messaging.brokers.valkey_entries import Outgoing
from covey.valkey.client import Valkey
from covey.valkey.script import Script
from covey.valkey.server import ALWAYS, Server, server_of

_SETTLE = Script.beside(__name__, "valkey_settle.lua")
_APPEND = Script.beside(__name__, "valkey_append.lua")
_TRIM = Script.beside(__name__, "valkey_trim.lua")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Keeping:
    """How long a stream keeps a message. All ages are spans of the server's clock.

    None stays longer than `max_age`, read or not: who has not read it by then is told (HistoryLost), and what inboxes
    remember follows from it (H4). What every known reader has read may go earlier, at the age `read`; a reader is known
    by its name from when it first reads, so one that comes later begins with the oldest that is left (H12).
    How old messages are is known to the accuracy of `marks`; a reader tells how far it has come once in `told`.
    When a message is published again its id is recognized for `known`, and for twice as long at most; of `known_ids`
    messages at least, if there are more in that time.
    """

    max_age: timedelta = STREAM_MAX_AGE
    read: timedelta = STREAM_MAX_AGE
    marks: timedelta = timedelta(minutes=10)
    told: timedelta = timedelta(seconds=1)
    known: timedelta = timedelta(minutes=1)
    known_ids: int = 10_000


def keeping_of(url: str) -> Keeping:
    """Return what the address of a broker says of it: `?keep_read_hours=24` is `read`. Raises ConfigurationError."""
    hours = parse_qs(urlsplit(url).query).get("keep_read_hours", ["168"])[-1]
    if not hours.isdecimal():
        raise ConfigurationError("the address of the broker (BROKER_URL) must say ?keep_read_hours= and a number")
    return Keeping(read=timedelta(hours=int(hours)))


class Keys:
    """Where what belongs to a stream is kept."""

    def __init__(self, system: str, stream: str) -> None:
        tag = f"{{{system}:{stream}}}"
        self.log, self.meta, self.marks, self.readers = (f"{tag}:{of}" for of in ("log", "meta", "marks", "readers"))
        self.ids, self.ids_before = f"{tag}:ids", f"{tag}:ids-before"

    @property
    def all(self) -> list[str]:
        """Return all of them, in the order that valkey_settle.lua wants."""
        return [self.log, self.meta, self.ids, self.ids_before, self.marks, self.readers]


class Streams:
    """Asks a Valkey, which a broker has opened, about the streams of its system."""

    def __init__(self, valkey: Valkey, keeping: Keeping) -> None:
        self._valkey = valkey
        self._keeping = keeping
        self._server: Server | None = None
        self._settled: dict[str, bytes] = {}  # the life of the server for which it was settled
        self._seen: dict[str, tuple[bytes, int]] = {}

    async def settle(self, keys: Keys, *, make: bool = False) -> Extent:
        """Return what the stream holds, made if it is missing and `make` says so; raise BrokerUnavailable if not."""
        server = await self._present()
        incarnation, seen = self._seen.get(keys.log, (b"", 0))
        found = await server.connection.run(
            _SETTLE, keys.all, server.life, server.sync, new_id().hex, int(make), incarnation, seen
        )
        if found is None:
            raise BrokerUnavailable(f"there is no stream {keys.log}; ensure_stream makes one")
        self._settled[keys.log] = server.life
        if incarnation not in (b"", found[0]):
            _log.error("the stream %s has lost what it had confirmed, or was deleted: it is another now", keys.log)
            self._seen.pop(keys.log)
        return _extent(*found)

    async def append(self, keys: Keys, messages: Sequence[Outgoing]) -> None:
        """Store the messages, all in one step; those whose ids are known are there already."""
        parts = [part for message in messages for part in message.parts]
        try:
            incarnation, last = await self._append(keys, parts)
        except ValkeyRefused as refused:
            if refused.code != "UNSETTLED":
                raise
            await self.settle(keys)
            incarnation, last = await self._append(keys, parts)
        known, seen = self._seen.get(keys.log, (b"", 0))
        self._seen[keys.log] = (incarnation, max(int(last), seen if known == incarnation else 0))

    async def trim(self, keys: Keys) -> int:
        """Drop what is too old; return the first sequence that stays, 0 when nothing had to go."""
        server, keeping = await self._present(), self._keeping
        if self._settled.get(keys.log) != server.life:
            await self.settle(keys)  # what we have seen confirmed is looked for before gaps are forgotten
        spans = (keeping.max_age, keeping.read, keeping.marks, keeping.known)
        ages = [int(span / timedelta(milliseconds=1)) for span in spans]
        kept = [keys.log, keys.meta, keys.marks, keys.readers, keys.ids, keys.ids_before]
        return int(await server.connection.run(_TRIM, kept, server.life, *ages))

    async def _append(self, keys: Keys, parts: list[str | bytes]) -> tuple[bytes, bytes]:
        server = await self._present()
        if self._settled.get(keys.log) != server.life:
            await self.settle(keys)  # what was confirmed to us may be lost, and others have settled it
        known = self._keeping.known_ids
        incarnation, last = await server.connection.run(_APPEND, keys.all[:4], server.life, known, *parts)
        return incarnation, last

    async def _present(self) -> Server:
        """Return who answers on the present connection."""
        connection = self._valkey.connection
        if self._server is None or self._server.connection is not connection:
            server = await server_of(connection)
            if not server.life:
                raise BrokerUnavailable("this Valkey does not tell its run_id, so its restarts could not be noticed")
            if server.sync != ALWAYS:
                _log.warning(
                    "Valkey may lose what it confirms (appendfsync: %s): after each of its starts readers will be told"
                    " that history may be lost",
                    server.sync,
                )
            self._server = server
        return self._server


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turn every error of Valkey into BrokerUnavailable, which says what was being done."""
    try:
        yield
    except (ValkeyUnavailable, ValkeyRefused, ConfigurationError) as error:
        raise BrokerUnavailable(f"{doing} failed: {error}") from error


def _extent(incarnation: bytes, last: bytes, first: bytes, number: int, gaps: bytes) -> Extent:
    """Read what valkey_settle.lua has returned. A gap before the first message or behind the last one is skipped."""
    spans = [(int(after), int(upto)) for after, _, upto in (gap.partition(b"-") for gap in gaps.split())]
    end = next((after for after, upto in spans if upto == int(last)), int(last))
    begin = next((after + 1 for after, upto in spans if upto + 1 == int(first)), int(first)) if number else end + 1
    return Extent(begin, end, incarnation.decode(), tuple(spans))
