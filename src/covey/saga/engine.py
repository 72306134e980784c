"""The saga engine: sagas are rows that messages move.

Each move is one transaction that takes a reply from the inbox, changes the row and puts the next command into the
outbox. Nobody owns a running saga, so nothing has to be recovered after a crash: rows and queues are the state.
One turn moves many sagas: one SELECT … FOR UPDATE, one UPDATE, one INSERT of history, whatever their number.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

import structlog
from pydantic import BaseModel, ValidationError

from covey.context import current
from covey.errors import DefinitionError
from covey.messaging.delivery import IN_REPLY_TO, Delivery
from covey.messaging.failure import ELSEWHERE, Dead, NotHere
from covey.messaging.router import Engine, Router
from covey.messaging.storable import clean
from covey.saga.definition import Definition
from covey.saga.journal import Record, has_ended, load, loaded_in, note, update, written_in
from covey.saga.machine import Done, Input, NotDone, Silent, State
from covey.saga.recent import Recent
from covey.saga.transition import Transition, step_name
from covey.telemetry.telemetry import Telemetry
from covey.work.inbox import COMMAND_ID
from covey.work.unit_of_work import Work

log = structlog.get_logger("covey.saga")


class DefinitionUnknown(NotHere):
    """No definition of that name and version here: a replica that has it will move the saga (H11)."""


class SagaEngine:
    """Moves the sagas of one service."""

    def __init__(self, service: str, sagas: Iterable[Definition[Any]], telemetry: Telemetry) -> None:
        self._service = service
        self._sagas: dict[tuple[str, int], Definition[Any]] = {}
        for saga in sagas:
            if self._sagas.setdefault((saga.name, saga.version), saga) is not saga:
                raise DefinitionError(f"saga {saga.name} version {saga.version} is defined twice: raise the version")
        self.recent = Recent()
        self._tracer = telemetry.tracer
        self._ended = telemetry.metrics.counter("covey_sagas_ended_total", "Sagas that have ended", ("saga", "how"))
        self._unreadable = telemetry.metrics.counter(
            "covey_saga_replies_unreadable_total", "Replies that their saga could not read", ("saga", "step")
        )
        self._steps = telemetry.metrics.histogram(
            "covey_saga_step_seconds", "From asking for a step to its outcome", ("saga", "outcome")
        )

    def router(self) -> Router:
        """Return the handlers of the messages that move sagas: where there are none, too, for the next version may have
        its first one beside this. Replies are read only for sagas that are here.
        """
        router, moves = Router(), _Moves(self)
        router.add(f"{self._service}.reply.v1", Engine(moves, "reply", wanted=bool(self._sagas)))
        router.add(f"{self._service}.saga-step.v1", Engine(moves, "self"))
        router.add(f"{self._service}.saga-timeout.v1", Engine(moves, "self"))
        return router

    async def move(self, delivery: Delivery, record: Record, work: Work) -> None:
        """Move one saga by one message."""
        saga = self._sagas.get((record.name, record.version))
        if saga is None:
            raise DefinitionUnknown(
                f"saga {record.name} version {record.version} has no definition in this process: keep old versions"
                " registered until their last saga has ended",
                retry_after=ELSEWHERE,
            )
        transition = Transition(saga, record, work, failures=delivery.attempts)
        before = record.state
        if await self._apply(saga, transition, delivery, work):
            update(work, record, transition.wait_seconds, moved=transition.moved)
            if transition.moved:
                self._observe(saga, record, before)
        elif record.remembered:
            # Only a guess says that nobody waits for this message, and a lost timeout would strand the saga: written
            # over itself, or Contention tells that it is no longer so, and it is read.
            update(work, record, None, moved=False)

    async def _apply(self, saga: Definition[Any], transition: Transition, delivery: Delivery, work: Work) -> bool:
        """Feed the message to the saga, if it is what the saga waits for; return whether the row changed."""
        record, envelope = transition.record, delivery.envelope
        if envelope.type.endswith(".saga-step.v1"):
            if str(record.waiting) != envelope.headers.get(COMMAND_ID):
                return False
            await transition.perform()
            return True
        timeout = envelope.type.endswith(".saga-timeout.v1")
        if not _awaited(record.waiting, envelope.headers.get(IN_REPLY_TO), nothing=timeout):
            return False  # late: the saga no longer waits for it; undoing the step has covered it
        if timeout:
            if record.waiting is None:
                await transition.perform()
                return True
            await transition.give(Silent(), inline=True, message=envelope.id)
            return True
        given = self._reading(saga, transition, delivery, work)
        if given is not None:
            await transition.give(given, inline=True, message=envelope.id)
        return True

    def _reading(self, saga: Definition[Any], transition: Transition, delivery: Delivery, work: Work) -> Input | None:
        """Read a reply. One that cannot be read leaves the saga waiting for its timeout: it must not strand it."""
        try:
            reply = _Answer.model_validate_json(delivery.envelope.body)
            transition.merge(reply.data)
        except ValidationError as error:
            step = step_name(saga, transition.record.state)
            self._unreadable.add((saga.name, step))
            source = delivery.envelope.source
            log.error("saga_reply_unreadable", saga_id=str(transition.record.id), step=step, source=source)
            note(work, transition.record, "reply", "unreadable", str(error)[:500], delivery.envelope.id)
            return None
        return Done() if reply.outcome == "done" else NotDone(clean(reply.reason or "refused without a reason"))

    def _observe(self, saga: Definition[Any], record: Record, before: State) -> None:
        """Record the step that is over: a span from its asking to its outcome."""
        outcome = type(record.state).__name__.lower()
        spent = max(0.0, record.unmoved_seconds)
        self._steps.observe(spent, (saga.name, outcome))
        if has_ended(record.state) and not has_ended(before):
            self._ended.add((saga.name, outcome))
        context = current()
        end = time.time_ns()
        self._tracer.record(
            f"saga {saga.name}",
            "internal",
            context.trace.child(),
            context.trace.span_id,
            end - int(spent * 1e9),
            end,
            {"covey.saga.id": str(record.id), "covey.saga.state": outcome, "covey.saga.step": step_name(saga, before)},
        )


def _awaited(waiting: UUID | None, in_reply_to: str | None, *, nothing: bool) -> bool:
    """Tell whether a message is what the saga waits for; a saga that pauses waits for `nothing` but its timeout."""
    return nothing and in_reply_to is None if waiting is None else in_reply_to == str(waiting)


class _Answer(BaseModel):
    outcome: Literal["done", "refused"]
    reason: str | None = None
    data: dict[str, Any] = {}


@dataclass(frozen=True, slots=True)
class _Moves:
    """The messages that move sagas, for the messaging engine."""

    engine: SagaEngine

    async def prepare(self, deliveries: list[Delivery], work: Work) -> None:
        """Load the sagas of a whole turn, or remember them. Either way they are locked before what their steps lock."""
        ids = sorted({saga_id for delivery in deliveries if (saga_id := _saga_id(delivery)) is not None})
        if (recent := self.engine.recent.take(ids)) is not None:
            loaded_in(work).update(recent)
            work.precede("lock_sagas", ids)
        work.state[_Moves] = await load(work, ids)

    async def handle(self, delivery: Delivery, work: Work) -> None:
        """Move the saga that the message is keyed by."""
        saga_id = _saga_id(delivery)
        record = work.state[_Moves].get(saga_id)
        if record is None:
            raise Dead(f"there is no saga {delivery.envelope.key}")
        await self.engine.move(delivery, record, work)

    def committed(self, work: Work) -> None:
        """Remember the sagas that were written."""
        self.engine.recent.keep(written_in(work))


def _saga_id(delivery: Delivery) -> UUID | None:
    try:
        return UUID(delivery.envelope.key)
    except ValueError:
        return None
