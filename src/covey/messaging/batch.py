"""A batch: the messages of one attempt at a turn, and what has become of each so far."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID

from covey.database.pool import Connection
from covey.errors import CoveyError, DatabaseUnavailable
from covey.messaging.call import Call
from covey.messaging.delivery import Delivery
from covey.messaging.external import Calls
from covey.messaging.failure import Failure
from covey.messaging.observation import Observation
from covey.work.unit_of_work import Work, roll_back


@dataclass(slots=True)
class Batch:
    """What one attempt at a turn has done so far. `aside` are the keys that are now held.

    It is `given` when each message has been given to its code, or left: what fails from then on fails at the end.
    """

    work: Work
    deliveries: list[Delivery] = field(default_factory=list)
    handled: list[Delivery] = field(default_factory=list)
    given: bool = False
    places: int = 0
    aside: set[str] = field(default_factory=set)
    calls: list[Call] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    begun: list[asyncio.Task[None]] = field(default_factory=list)

    @property
    def ran(self) -> bool:
        """Tell whether the code of any message has come to its end: what the turn then fails with may be its doing."""
        return bool(self.handled or self.calls)

    def park(self, failure: Failure) -> None:
        """Let the key of a message that failed wait, or hold it for good."""
        state = "dead" if failure.dead else "waiting"
        self.hold(failure.delivery, state, failure.after, failure.attempts, error=failure.error)
        self.failures.append(failure)

    def hold(
        self,
        delivery: Delivery,
        state: str,
        after: timedelta | None,
        attempts: int,
        *,
        token: UUID | None = None,
        owner: int | None = None,
        error: str | None = None,
    ) -> None:
        """Hold the key of a message from the end of the turn on, with this message the first of those that wait."""
        key = delivery.envelope.key
        self.work.collect("park", key, delivery.position, state, after, attempts, token, owner, error)
        self.aside.add(key)

    def behind_holds(self) -> list[Delivery]:
        """Return the messages that now wait behind a hold of this attempt, those included that are held."""
        handled = {id(delivery) for delivery in self.handled}
        return [one for one in self.deliveries if one.envelope.key in self.aside and id(one) not in handled]


class Ends:
    """The two ends of an attempt."""

    def __init__(self, calls: Calls, committed: Callable[[Work], None], observation: Observation) -> None:
        self._calls = calls
        self._committed = committed
        self._observation = observation

    async def undo(self, connection: Connection, batch: Batch) -> None:
        """Roll back: nothing of it has happened."""
        batch.work.end()
        self._calls.give_back(batch.places)
        await roll_back(connection)

    async def commit(self, batch: Batch) -> None:
        """Write what is left and commit. If nobody knows of that, keys may be held for calls that never begin."""
        try:
            await batch.work.finish()
        except BaseException as error:
            if not _is_undone(error):
                for call in batch.calls:
                    self._calls.forgo(call)
            raise

    def after_commit(self, batch: Batch) -> None:
        """Tell what has happened, and begin the calls to the outside."""
        batch.work.end()
        self._committed(batch.work)
        for failure in batch.failures:
            self._observation.parked(failure.delivery, failure.error, failure.dead, failure.attempts)
        self._calls.give_back(batch.places)
        batch.begun = [self._calls.start(call) for call in batch.calls]


def _is_undone(error: BaseException) -> bool:
    """Tell whether a commit that ended so has certainly not happened: PostgreSQL, or covey before it, has refused."""
    return isinstance(error, CoveyError) and not isinstance(error, DatabaseUnavailable)


def take_off(work: Work, delivery: Delivery) -> None:
    """Take a message off the queue."""
    work.collect("finish", delivery.lane, delivery.position)


def finish_held(work: Work, delivery: Delivery) -> None:
    """Take a message from behind its hold."""
    work.collect("finish_held", delivery.envelope.key, delivery.position)


def finished(work: Work, delivery: Delivery) -> None:
    """Do nothing: the message never was in the queue."""


def leave_it(work: Work, delivery: Delivery) -> None:
    """Do nothing: the message stays where it is."""


def queue(work: Work, delivery: Delivery) -> None:
    """Put a message that has not been in the queue there."""
    work.collect("queue", delivery.envelope.key, delivery.position)
