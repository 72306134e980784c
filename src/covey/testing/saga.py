"""Tests of a saga that read given, when reply, expect: without a database, a broker, or anything to wait for.

    run = given(place_order, PlaceOrder(order_id=order_id, amount=100))
    await run.starts()
    run.expect(ReserveStock)
    await run.when_done()
    run.expect(AuthorizePayment)
    await run.when_refused("declined")
    run.expect(ReleaseStock)
    await run.when_done()
    run.expect_compensated("declined")

It drives the code that drives sagas in a service. Functions of the saga run against a `FakeWork`, which keeps what is
published and what is executed, and answers queries as the test says. After the model of eventuate-tram-sagas.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from covey.clock import Clock
from covey.ids import new_id
from covey.message import Command, Event, Message
from covey.saga.definition import D
from covey.saga.journal import Record
from covey.saga.machine import Cancel, Compensated, Completed, Done, Input, NotDone, Running, Silent
from covey.saga.saga import Saga
from covey.saga.transition import Transition
from covey.testing.clock import FakeClock
from covey.work.inbox import COMMAND_ID
from covey.work.outbox import WITHIN
from covey.work.unit_of_work import Work

C = TypeVar("C", bound=Command)


@dataclass(frozen=True, slots=True)
class Sent:
    """A command that the saga has sent."""

    command: Command
    headers: Mapping[str, str]

    @property
    def command_id(self) -> str:
        """Return what identifies the command through all its sendings."""
        return self.headers[COMMAND_ID]

    @property
    def expires(self) -> bool:
        """Tell whether the command is dropped when its step has timed out."""
        return WITHIN in self.headers


class FakeWork(Work):
    """A transaction that reaches no database. `executed` are the statements with their arguments.

    `answers` gives the rows of a query, by its text and arguments; without it every query finds nothing.
    """

    def __init__(
        self,
        service: str = "test",
        clock: Clock | None = None,
        answers: Callable[[str, tuple[Any, ...]], list[Any]] | None = None,
    ) -> None:
        super().__init__(None, service, clock or FakeClock())
        self.executed: list[tuple[str, tuple[Any, ...]]] = []
        self.messages: list[Message] = []
        self.commands: list[Sent] = []
        self._answers = answers or (lambda sql, args: [])

    async def execute(self, sql: str, *args: Any) -> str:
        """Keep a statement."""
        self.executed.append((sql, args))
        return "FAKE"

    async def fetch(self, sql: str, *args: Any) -> list[Any]:
        """Keep a query and return the rows that the test gives it."""
        self.executed.append((sql, args))
        return self._answers(sql, args)

    async def fetchrow(self, sql: str, *args: Any) -> Any:
        """Keep a query and return the first row that the test gives it."""
        return next(iter(await self.fetch(sql, *args)), None)

    async def fetchval(self, sql: str, *args: Any) -> Any:
        """Keep a query and return the first value that the test gives it."""
        row = await self.fetchrow(sql, *args)
        return None if row is None else row[0]

    def defer(self, sql: str, *args: Any) -> None:
        """Keep a statement that is to run at the end."""
        self.executed.append((sql, args))

    def publish(self, message: Message, headers: dict[str, str] | None = None) -> Any:
        """Keep a message, once it has passed the checks that a real one has to pass."""
        identity = super().publish(message, headers)
        if isinstance(message, Command):
            self.commands.append(Sent(message, headers or {}))
        self.messages.append(message)
        return identity


@dataclass
class SagaRun(Generic[D]):
    """One saga under test. Every `when…` is one thing that happens to it; every `expect…` looks at what followed."""

    saga: Saga[D]
    record: Record
    work: FakeWork
    _expected: int = 0
    _waits: float | None = None

    async def starts(self) -> None:
        """Start it."""
        transition = Transition(self.saga, self.record, self.work)
        await transition.begin()
        self._waits = transition.wait_seconds
        await self._run_functions()

    async def when_done(self, **data: Any) -> None:
        """Have the step that it waits for answer that it is done, with these fields."""
        await self._happens(Done(), data)

    async def when_refused(self, reason: str) -> None:
        """Have the step that it waits for answer no."""
        await self._happens(NotDone(reason))

    async def when_silent(self) -> None:
        """Let the time of the step that it waits for pass without an answer."""
        await self._happens(Silent())

    async def when_cancelled(self, reason: str) -> bool:
        """Cancel it; return whether that was in time."""
        return await self._happens(Cancel(reason))

    async def when_paused(self) -> None:
        """Let the pause pass that follows a refusal which is not the last word."""
        assert self.record.waiting is None and not self.ended, f"it does not pause: {self.record.state}"
        await self._perform()

    def expect(self, command: type[C]) -> C:
        """Check that exactly one command was sent since the last look, of this kind; return it."""
        sent = self._since_the_last_look()
        assert [type(one.command) for one in sent] == [command], f"expected {command.__name__}, it sent {_names(sent)}"
        found = sent[0].command
        assert isinstance(found, command)
        return found

    def expect_nothing(self) -> None:
        """Check that no command was sent since the last look."""
        sent = self._since_the_last_look()
        assert not sent, f"expected no command, it sent {_names(sent)}"

    def expect_completed(self) -> None:
        """Check that it has ended with every step done."""
        self.expect_nothing()
        assert isinstance(self.record.state, Completed), f"it has not completed: {self.record.state}"

    def expect_compensated(self, reason: str) -> None:
        """Check that it has ended with everything undone, for this reason."""
        self.expect_nothing()
        assert self.record.state == Compensated(reason), f"it was not compensated for {reason!r}: {self.record.state}"

    @property
    def ended(self) -> bool:
        """Tell whether it has ended."""
        return isinstance(self.record.state, (Completed, Compensated))

    @property
    def data(self) -> D:
        """Return what it carries now."""
        return self.saga.data.model_validate(self.record.data, strict=False)

    @property
    def last(self) -> Sent:
        """Return the last command that it has sent, with its headers."""
        return self.work.commands[-1]

    @property
    def waits_seconds(self) -> float | None:
        """Return after how long it moves by itself if nothing happens; None is never."""
        return self._waits

    @property
    def published(self) -> list[Event]:
        """Return the events that its functions have published."""
        return [message for message in self.work.messages if isinstance(message, Event)]

    async def _happens(self, given: Input, data: Mapping[str, Any] | None = None) -> bool:
        assert not self.ended, f"it has ended: {self.record.state}"
        if not isinstance(given, Cancel):
            assert self.record.waiting is not None, "it waits for no answer: it pauses, see when_paused"
        transition = Transition(self.saga, self.record, self.work)
        transition.merge(dict(data or {}))
        moved = await transition.give(given, inline=not isinstance(given, Cancel))
        self._waits = transition.wait_seconds
        await self._run_functions()
        return moved

    async def _run_functions(self) -> None:
        """Do what a service does with the message that a saga sends itself: run the function it waits for."""
        if self._waits is None and self.record.waiting is not None and not self.ended:
            await self._perform()

    async def _perform(self) -> None:
        transition = Transition(self.saga, self.record, self.work)
        await transition.perform()
        self._waits = transition.wait_seconds

    def _since_the_last_look(self) -> list[Sent]:
        sent = self.work.commands[self._expected :]
        self._expected = len(self.work.commands)
        return sent


def given(saga: Saga[D], data: D, *, service: str = "test", work: FakeWork | None = None) -> SagaRun[D]:
    """Return a saga that is about to start with this data. `work` is what its functions are given."""
    record = Record(
        id=new_id(),
        name=saga.name,
        version=saga.version,
        state=Running(0),
        waiting=None,
        data=_as_json(data),
    )
    return SagaRun(saga, record, work or FakeWork(service))


def _as_json(data: BaseModel) -> dict[str, Any]:
    dumped: dict[str, Any] = data.model_dump(mode="json")
    return dumped


def _names(sent: list[Sent]) -> str:
    return ", ".join(type(one.command).__name__ for one in sent) or "nothing"
