"""Cache-aside with leases: what is found in Valkey is returned, what is not is loaded once and kept there.

Who finds nothing takes a lease in its place, loads, and puts the value in the place of the lease. Who changes the thing
removes whatever is there; a value whose lease is gone is not accepted, since it may be older than the change (Rajesh
Nishtala et al., "Scaling Memcache at Facebook", NSDI 2013, section 3.2.1). The lease is also what lets one process load
at a time. Beyond the paper a change is announced before its commit, so that it is of no consequence who dies after it.

Valkey being away makes a read slower and nothing else.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from typing import Generic, TypeVar
from uuid import UUID

from covey.cache.entries import ABSENT, LEASE, MARK, MARKED, Entries, kind_of
from covey.cache.flights import Flight, Flights
from covey.cache.observation import Observation
from covey.cache.options import CacheOptions
from covey.cache.sessions import Session, Sessions
from covey.errors import ConfigurationError, ValkeyRefused, ValkeyUnavailable
from covey.resilience.bulkhead import Bulkhead
from covey.valkey.script import Script

V = TypeVar("V")

Id = UUID | int
"""What may be asked for: a key holds nothing of a person but an id."""

_LEASE = Script.beside(__name__, "lease.lua")
_FILL = Script.beside(__name__, "fill.lua")
_GIVE_BACK = Script.beside(__name__, "give_back.lua")
_FORGET = Script.beside(__name__, "forget.lua")

_WITHOUT = (ValkeyUnavailable, ValkeyRefused, ConfigurationError)
"""Why Valkey gives no answer. A read goes on without; a mistake in the configuration is counted, and not suffered."""

_FIRST_PAUSE_SECONDS = 0.002
_LONGEST_PAUSE_SECONDS = 0.05
_PATIENCE_LEASES = 2.0
_LEAST_SHARE_OF_TTL = 0.9


class Cache(Generic[V]):
    """One read of a service, in one process; all of its processes share what is kept, under keys of this prefix."""

    def __init__(
        self, prefix: str, entries: Entries[V], options: CacheOptions, sessions: Sessions, observation: Observation
    ) -> None:
        self._prefix = prefix
        self._entries = entries
        self._options = options
        self._sessions = sessions
        self._observed = observation
        self._flights = Flights()
        self._loads = Bulkhead(f"the source of {prefix.rstrip(':')}", options.loads)

    async def get(self, id_: Id, load: Callable[[], Awaitable[V]]) -> V:
        """Return what is kept, or what `load` returns, which is then kept.

        It is no older than the last change that was announced by `changing` and whose transaction had ended before
        this call, whoever asks and dies meanwhile; what holds while a process is cut off from Valkey is told in
        docs/patterns/caching.md. A hit is one round trip. Of those in a process who ask for the same at once, one loads
        and the others share what it brings, the very object. Raises what `load` raises, and BulkheadFull.
        """
        key = self._key(id_)
        session: Session | None = None
        try:
            session = self._sessions.present or await self._sessions.begun()
            entry = await session.connection.call("GET", key)
        except _WITHOUT:
            self._observed.read("away")
            session = None
        else:
            value: V = self._entries.value_in(entry, session.epoch)
            if value is not ABSENT:
                self._observed.read("hit" if value is not None else "negative hit")
                return value
            self._observed.read("miss")
        return await self._missed(key, session, load)

    async def changing(self, *ids: Id) -> None:
        """Announce that these are about to change. Await it inside the transaction, as late as may be.

        From now on nothing of them is found or kept, for `hold`, within which the transaction must have ended. Whether
        it commits does not matter, nor who lives to see it. Where Valkey is away, or refuses it, nothing is raised, and
        this process believes nothing for `hold`, and then only what was loaded since.
        """
        unannounced = [key for key in map(self._key, ids) if not await self._announced(key)]
        if unannounced:
            self._observed.failed("unannounced")
            self._sessions.doubt(self._options.hold)
            self._flights.part(unannounced)

    async def changed(self, *ids: Id) -> None:
        """Forget these, because a change of them was committed: for the handler of the event that tells of it.

        Raises ValkeyUnavailable while Valkey is away or refuses it, so that the event comes again, and until then this
        process does not believe the old value either. Without any it does nothing.
        """
        if not self._sessions.exist:
            return
        keys = [self._key(id_) for id_ in ids]
        try:
            for key in keys:
                await self._sessions.connection.run(_FORGET, [key])
        except _WITHOUT:
            self._sessions.doubt()
            self._flights.part(keys)
            raise

    async def _announced(self, key: str) -> bool:
        """Announce one, and return whether that was done."""
        milliseconds = _milliseconds(self._options.hold)
        try:
            call = self._sessions.connection.call
            # DEL as well, for a server that is full refuses SET.
            await asyncio.gather(call("DEL", key), call("SET", key, MARKED, "PX", milliseconds))
        except _WITHOUT:
            return False
        return True

    async def _missed(self, key: str, session: Session | None, load: Callable[[], Awaitable[V]]) -> V:
        while (flight := self._flights.under_way(key)) is not None:
            self._observed.waited("this process")
            value: V = await flight.brings()
            if value is not ABSENT:
                return value
        if session is not self._sessions.present:
            session = None  # it was left while this waited: what is found over it may be older than a change
        with self._flights.leading(key) as flight:
            value = await (self._loaded(flight, load) if session is None else self._lead(flight, key, session, load))
            flight.land(value)
        return value

    async def _lead(self, flight: Flight, key: str, session: Session, load: Callable[[], Awaitable[V]]) -> V:
        """Return what somebody else has put there meanwhile, or load it and keep it."""
        token = random.randbytes(12).hex()
        try:
            entry = await self._found_or_leased(session, key, token)
        except _WITHOUT:
            self._observed.failed("not leased")
            entry = None
        except BaseException:
            _give_back(session, key, token)  # it may be on its way
            raise
        if entry is None:
            return await self._loaded(flight, load)
        if kind_of(entry) != LEASE:
            flight.accepted = True
            found: V = self._entries.value_in(entry, session.epoch)
            return found
        try:
            value = await self._loaded(flight, load)
        except BaseException:
            _give_back(session, key, token)
            raise
        flight.accepted = await self._kept(session, key, entry, value)
        return value

    async def _found_or_leased(self, session: Session, key: str, token: str) -> bytes | None:
        """Return a value, or our lease, which has this token; None when one must load and cannot keep it.

        Somebody else who loads is waited for: until the value is there or his lease has run out, but not for ever.
        """
        milliseconds = _milliseconds(self._options.lease)
        pause, patience = _FIRST_PAUSE_SECONDS, _PATIENCE_LEASES * milliseconds / 1000
        keys = (key, self._sessions.epoch_key)
        while patience > 0:
            entry = await session.connection.run(_LEASE, keys, session.epoch, self._entries.shape, token, milliseconds)
            if entry is None:
                self._sessions.leave(session)
                return None
            kind = kind_of(entry)
            if kind == MARK:
                return None
            if kind != LEASE:
                if self._entries.value_in(entry, session.epoch) is not ABSENT:
                    return bytes(entry)
                self._observed.failed("unreadable")
                await session.connection.run(_FILL, [key], entry, b"", 0)
                continue
            if entry.endswith(token.encode()):
                return bytes(entry)
            self._observed.waited("another process")
            seconds = pause * random.uniform(0.5, 1.0)
            await asyncio.sleep(seconds)
            patience -= seconds
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
        return None

    def _key(self, id_: Id) -> str:
        return f"{self._prefix}{id_}"

    async def _loaded(self, flight: Flight, load: Callable[[], Awaitable[V]]) -> V:
        """Load, in one's turn, and not before those who ask at the same moment have joined."""
        await asyncio.sleep(0)
        turn = self._loads.take()
        if turn is not None:
            await self._loads.wait(turn)
        flight.begun = True
        try:
            value = await load()
        except Exception:
            self._observed.loaded("failed")
            raise
        finally:
            self._loads.give_back()
        self._observed.loaded("done")
        return value

    async def _kept(self, session: Session, key: str, lease: bytes, value: V) -> bool:
        """Put a value in the place of its lease, and return whether that was still there."""
        span = self._options.negative_ttl if value is None else self._options.ttl
        milliseconds = int(_milliseconds(span) * random.uniform(_LEAST_SHARE_OF_TTL, 1.0))
        try:
            entry = self._entries.entry_of(value, lease)
        except ValueError:
            self._observed.failed("unwritable")
            entry = b""  # the lease goes, and nothing comes
        try:
            accepted = await session.connection.run(_FILL, [key], lease, entry, milliseconds)
        except _WITHOUT:
            self._observed.failed("not kept")
            return False
        if not accepted:
            self._observed.failed("overtaken")
        return bool(accepted)


def _give_back(session: Session, key: str, token: str) -> None:
    """Have a lease removed, and wait for nothing: if it is not, it runs out. EVAL, for the script may be new there."""
    with suppress(*_WITHOUT):
        answer = session.connection.call("EVAL", _GIVE_BACK.text, 1, key, token)
        answer.add_done_callback(lambda done: done.cancelled() or done.exception())


def _milliseconds(span: timedelta) -> int:
    return span // timedelta(milliseconds=1)
