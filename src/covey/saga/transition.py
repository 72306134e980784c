"""One move of one saga inside a transaction: the machine's decision made into rows and messages."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from covey.ids import derived_id, new_id
from covey.message import Command, Envelope, Refused, Reply
from covey.messaging.storable import clean, cleaned
from covey.saga.definition import SAGA_ID, Action, Definition, Step, is_command, name_of_action
from covey.saga.journal import Record, note
from covey.saga.machine import (
    Again,
    Cancel,
    Compensated,
    Compensating,
    Completed,
    Done,
    Input,
    Later,
    NotDone,
    Nothing,
    Perform,
    Running,
    Silent,
    State,
    decide,
)
from covey.work.inbox import COMMAND_ID, REPLY_TO, enqueue
from covey.work.outbox import WITHIN
from covey.work.unit_of_work import Work

BACKOFF = timedelta(milliseconds=250)
BACKOFF_CAP = timedelta(seconds=30)
EXHAUSTED_AFTER = 5


class Transition:
    """Moves one saga, in the transaction of `work`. `moved` tells whether it did, and `wait_seconds` when it moves
    by itself if nothing comes; what does not move it leaves that as it is.

    `failures`: so often has this move been rolled back. A function that has failed too often and can be undone then
    counts as refused, while one that only goes forward is tried for ever. Which function it was that failed, of those
    that run one after the other, was rolled back too: so in the last attempt before that only one runs.
    """

    def __init__(self, saga: Definition[Any], record: Record, work: Work, *, failures: int = 0) -> None:
        self._failures = failures
        self._saga = saga
        self._work = work
        self.record = record
        self.moved = False
        self.wait_seconds: float | None = None

    async def begin(self) -> None:
        """Do the first step."""
        note(self._work, self.record, self._saga.name, "started")
        await self._perform(inline=False)

    async def give(self, given: Input, *, inline: bool, message: UUID | None = None) -> bool:
        """Feed one input and do what follows; return whether the saga moved.

        With `inline`, steps that are functions run here and now, one after the other; without it they are left to
        the saga's own message, so that a caller's transaction does not grow.
        """
        after, decision = decide(self._saga, self.record.state, given)
        self._note_input(given, message)
        match decision:
            case Nothing(why):
                note(self._work, self.record, step_name(self._saga, self.record.state), "unchanged", why)
            case Later():
                self.record.state, self.record.waiting = after, None
                self.wait_seconds, self.moved = self._pause(after), True
            case Again() | Perform():
                self.record.state = after
                await self._perform(inline=inline)
        return self.moved

    async def perform(self) -> None:
        """Do what the present state waits for; the saga's own message asks for it."""
        await self._perform(inline=True)

    def merge(self, fields: dict[str, Any]) -> None:
        """Keep from a reply what the saga's data has a place for. Raises ValidationError when it does not fit.

        What PostgreSQL cannot hold is replaced: a reply that could not be stored would strand the saga.
        """
        known = {name: cleaned(value) for name, value in fields.items() if name in self._saga.data.model_fields}
        if known:
            data = self._saga.data.model_validate(self.record.data | known, strict=False)
            self.record.data = data.model_dump(mode="json")

    async def _perform(self, *, inline: bool) -> None:
        """Enter the present state: send its command, run its function, or end."""
        self.moved = True
        while True:
            state = self.record.state
            match state:
                case Running(step, attempts, _):
                    declared = self._saga.steps[step]
                    action: Action | None = declared.action
                    deadline = declared.timeout if declared.kind == "compensatable" else None
                case Compensating(step, _, attempts, _):
                    declared = self._saga.steps[step]
                    action, deadline = declared.undo, None
                case Completed():
                    return self._end("completed", None)
                case Compensated(reason):
                    if self._saga.compensated is not None:
                        await self._saga.compensated(self._data(), reason, self._work)
                    return self._end("compensated", reason)
            assert action is not None
            if is_command(action):
                return self._send(action, declared.timeout, deadline, attempts)
            if not inline:
                return self._ask_self()
            given = await self._run(action, declared)
            inline = self._failures < EXHAUSTED_AFTER - 1
            after, decision = decide(self._saga, state, given)
            self._note_input(given, None)
            self.record.state = after
            if isinstance(decision, Later):
                self.record.waiting, self.wait_seconds = None, self._pause(after)
                return None

    async def _run(self, action: Any, declared: Step) -> Input:
        can_undo = isinstance(self.record.state, Running) and declared.kind == "compensatable"
        if can_undo and self._failures >= EXHAUSTED_AFTER:
            return NotDone(f"{declared.label}: it kept failing")
        result = await action(self._data(), self._work)
        if isinstance(result, Refused):
            return NotDone(clean(result.reason))
        if isinstance(result, Reply):
            self.merge(result.model_dump(mode="json"))
        return Done()

    def _send(self, command: type[Command], timeout: timedelta, deadline: timedelta | None, attempts: int) -> None:
        """Send the command of the present state. Sent again, it keeps the command id and gets a new message id."""
        record = self.record
        record.waiting = self._action_id()
        headers = {REPLY_TO: self._work.service, COMMAND_ID: str(record.waiting)}
        if deadline is not None:
            headers[WITHIN] = str(deadline.total_seconds())
        message = self._work.publish(command.model_validate(record.data | {SAGA_ID: record.id}), headers)
        self.wait_seconds = timeout.total_seconds() if attempts == 0 else self._pause(record.state, timeout)
        what = "asked" if attempts == 0 else "asked again"
        note(self._work, record, name_of_action(command), what, None, message)

    def _ask_self(self) -> None:
        """Leave a function to the saga's own turn."""
        record = self.record
        record.waiting = self._action_id()
        self.wait_seconds = None
        service = self._work.service
        enqueue(
            self._work,
            Envelope(
                id=new_id(),
                type=f"{service}.saga-step.v1",
                key=str(record.id),
                source=service,
                time=self._work.clock.now(),
                body=b"{}",
                kind="event",
                stream=service,
                headers={COMMAND_ID: str(record.waiting)},
            ),
        )

    def _end(self, how: str, reason: str | None) -> None:
        self.record.waiting = None
        self.wait_seconds = None
        note(self._work, self.record, self._saga.name, how, reason)

    def _action_id(self) -> UUID:
        """Return the id of what the present state asks for: the same however often it is asked."""
        state = self.record.state
        assert isinstance(state, (Running, Compensating))
        direction = "do" if isinstance(state, Running) else "undo"
        return derived_id(self.record.id, direction, state.step, state.refusals)

    def _data(self) -> BaseModel:
        # Kept as JSON, which has neither ids nor instants: a strict model would refuse its own data.
        data: BaseModel = self._saga.data.model_validate(self.record.data, strict=False)
        return data

    def _pause(self, state: State, first: timedelta = BACKOFF) -> float:
        """Return how long to wait after so many tries: twice as long each time, or asking would feed an overload."""
        tries = state.attempts + state.refusals if isinstance(state, (Running, Compensating)) else 0
        pause: timedelta = min(first * 2 ** min(tries, 16), max(first, BACKOFF_CAP))
        return pause.total_seconds()

    def _note_input(self, given: Input, message: UUID | None) -> None:
        name = step_name(self._saga, self.record.state)
        match given:
            case Done():
                note(self._work, self.record, name, "done", None, message)
            case NotDone(reason):
                note(self._work, self.record, name, "refused", reason, message)
            case Silent():
                note(self._work, self.record, name, "silent", "no answer in time: the outcome is unknown", message)
            case Cancel(reason):
                note(self._work, self.record, name, "cancel asked", reason, message)


def step_name(saga: Definition[Any], state: State) -> str:
    """Return what a state waits for, as the history calls it; of an ended saga its own name."""
    match state:
        case Running(step):
            return name_of_action(saga.steps[step].action)
        case Compensating(step):
            return name_of_action(saga.steps[step].undo or saga.steps[step].action)
        case _:
            return saga.name
