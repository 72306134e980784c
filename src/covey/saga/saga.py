"""Start a saga with its subject, and end it while it can still be ended."""

from __future__ import annotations

from uuid import UUID

from covey.errors import Conflict, NotFound
from covey.ids import new_id
from covey.saga.definition import D, Definition
from covey.saga.journal import Record, insert, load, update
from covey.saga.machine import Cancel, Running
from covey.saga.transition import Transition
from covey.work.unit_of_work import Work


class Saga(Definition[D]):
    """A saga that a service can start: a definition, and the ways into it and out of it."""

    async def start(self, work: Work, data: D, saga_id: UUID | None = None) -> UUID:
        """Start one in the transaction that creates its subject; return its id.

        Its first command leaves when `work` commits; if that rolls back there never was a saga.
        """
        record = Record(
            id=saga_id or new_id(),
            name=self.name,
            version=self.version,
            state=Running(0),
            waiting=None,
            data=data.model_dump(mode="json"),
        )
        transition = Transition(self, record, work)
        await transition.begin()
        insert(work, record, transition.wait_seconds)
        return record.id

    async def cancel(self, work: Work, saga_id: UUID, reason: str) -> bool:
        """End one without effect, if its pivot has not been asked for; return whether that was so.

        The answer is definite: when it is True and `work` commits, the saga compensates. Call it before changing
        other rows in this transaction, since the saga's own turns lock the saga first. Raises NotFound,
        and Conflict for a saga that was started with another version of the definition.
        """
        record = (await load(work, [saga_id])).get(saga_id)
        if record is None or record.name != self.name:
            raise NotFound(f"there is no {self.name} {saga_id}")
        if record.version != self.version:
            raise Conflict(
                f"{self.name} {saga_id} was started with version {record.version}: cancel it through that definition"
            )
        transition = Transition(self, record, work)
        moved = await transition.give(Cancel(reason), inline=False)
        update(work, record, transition.wait_seconds, moved=moved)
        return moved
