"""Watches every call of one service on the wire, and kills the process at the point that it is told.

It is the tap of all proxies of one process. What it is asked about is held by the proxy meanwhile. So at the moment of
the kill exactly that has happened which the point says, and what the process has sent elsewhere in this moment is cut
off with it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from covey.messaging.ingest import LONG_TURN_SECONDS, REST
from tests.crash.logbook import DIRECT, INGEST, Logbook, Sighting
from tests.crash.points import Point
from tests.crash.seams import ACCEPT, BEGIN, LATE, READ, STORE, TAKE_DUE, When, ends
from tests.harness.lanes import Lanes
from tests.wire.exchange import Arrival, Call, Exchange, Mailing, Publication, Stage, Statement

_SIDES: dict[type, dict[Stage, When]] = {
    Statement: {Stage.REQUEST: "before", Stage.ANSWER: "after"},
    Publication: {Stage.REQUEST: "before", Stage.ANSWER: "after", Stage.DELIVERED: "delivered"},
    Arrival: {Stage.ANSWER: "before", Stage.DELIVERED: "after"},
    Call: {Stage.REQUEST: "before", Stage.ANSWER: "after", Stage.DELIVERED: "delivered"},
    Mailing: {Stage.REQUEST: "before", Stage.ANSWER: "after", Stage.DELIVERED: "delivered"},
}

Foresee = Callable[[Point, Statement], Awaitable[bool]]
"""Given a point and a statement of its kind: does the database hold the work that this point is about?"""

OnCall = Callable[[Call], Awaitable[None]]
OnBooking = Callable[[Call | Mailing], Awaitable[None]]
OnRetry = Callable[[], Awaitable[None]]


async def _nothing(*_: object) -> None:
    return None


class Watcher:
    """Watches one service of one system, through all lives of its process.

    `strike` is called in the very moment, to kill the process and cut its wires.
    """

    def __init__(self, strike: Callable[[], None], foresee: Foresee) -> None:
        self._strike = strike
        self._foresee = foresee
        self.calling: OnCall = _nothing
        """Waits until a call to the provider may go on."""
        self.booked: OnBooking = _nothing
        """Waits until somebody outside has booked a call, or taken a mail."""
        self.retrying: OnRetry = _nothing
        """Is called before the process looks for what it is to try again."""
        self.busy: Lanes | None = None
        """Lanes that are busy whenever something arrives, and free again once it is stored."""
        self._accepted: set[str] = set()
        self._rests_until = 0.0
        self.watch(None)

    async def rested(self) -> None:
        """Wait until the process handles again at once what arrives; after a slow turn it leaves it to workers."""
        await asyncio.sleep(self._rests_until - time.monotonic())

    def watch(self, point: Point | None) -> None:
        """Begin a new logbook, and look out for this point."""
        self.logbook = Logbook(self._accepted)
        self.struck = asyncio.Event()
        self.worked_at: float | None = None
        self._point = point
        self._waiting: set[asyncio.Task[None]] = set()

    def born(self) -> None:
        """Note that a new process begins: `worked_at` will be when it first does work."""
        self.worked_at = None

    async def passes(self, stage: Stage, exchange: Exchange) -> bool:
        """See Tap."""
        sightings = self._enter(stage, exchange)
        if self.worked_at is None and any(one.number for one in sightings):
            self.worked_at = time.monotonic()
        if stage is Stage.REQUEST:
            if isinstance(exchange, Call):
                await self.calling(exchange)
            if any(one.call == TAKE_DUE for one in sightings):
                await self.retrying()
            for sighting in sightings:
                await self._look_ahead(exchange, sighting)
        if self.busy and stage is Stage.ANSWER and _takes_in(exchange, sightings):
            await self.busy.free()
        when = _SIDES[type(exchange)].get(stage)
        if when is not None and any(self._is_there(sighting, when) for sighting in sightings):
            self._kill()
            return False
        if isinstance(exchange, Call | Mailing) and self._is_to_be_booked(stage, sightings):
            self._waiting.add(asyncio.create_task(self._kill_once_booked(exchange)))
        if self.busy and stage is Stage.REQUEST and _takes_in(exchange, sightings):
            await self.busy.hold()
        return True

    def _enter(self, stage: Stage, exchange: Exchange) -> list[Sighting]:
        match stage:
            case Stage.REQUEST:
                return self.logbook.asked(exchange)
            case Stage.ANSWER:
                sightings = self.logbook.answered(exchange)
                self._time(sightings)
                return sightings
            case Stage.DELIVERED:
                return self.logbook.delivered(exchange)

    def _time(self, sightings: list[Sighting]) -> None:
        """Note how long a direct turn has taken, when it commits."""
        for sighting in sightings:
            if ends(sighting.call) and sighting.about.startswith(DIRECT):
                spent = time.monotonic() - sighting.transaction.began_at
                if spent > LONG_TURN_SECONDS:
                    self._rests_until = sighting.transaction.began_at + REST * spent

    async def _look_ahead(self, exchange: Exchange, sighting: Sighting) -> None:
        """Ask the database about a call that would be the point if it finds what the point is about."""
        point = self._point
        if point is None or sighting.number or not isinstance(exchange, Statement):
            return
        name = READ if point.call.startswith(READ) else point.call
        is_next = self.logbook.next_number(point.about, point.call) == point.number
        if sighting.call == name and name in LATE and is_next and await self._foresee(point, exchange):
            sighting.foreseen = point.about

    def _is_there(self, sighting: Sighting, when: When) -> bool:
        point = self._point
        if point is None or self.struck.is_set() or when != point.when:
            return False
        if sighting.number:
            return (sighting.about, sighting.call, sighting.number) == (point.about, point.call, point.number)
        return bool(sighting.foreseen) and (when == "before" or sighting.call == BEGIN)

    def _is_to_be_booked(self, stage: Stage, sightings: list[Sighting]) -> bool:
        return stage is Stage.REQUEST and any(self._is_there(sighting, "booked") for sighting in sightings)

    async def _kill_once_booked(self, call: Call | Mailing) -> None:
        await self.booked(call)
        if not self.struck.is_set():
            self._kill()

    def _kill(self) -> None:
        self.struck.set()
        self._strike()


def _takes_in(exchange: Exchange, sightings: list[Sighting]) -> bool:
    """Tell whether this statement handles or stores what has arrived, and takes a look at the lanes for that."""
    takers = (ACCEPT, STORE)
    return (
        isinstance(exchange, Statement)
        and exchange.session.role.startswith(INGEST)
        and any(one.call.startswith(takers) for one in sightings)
    )
