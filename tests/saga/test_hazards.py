"""What could move a saga wrongly: foreign replies, functions that never ran, two hands on one saga, old versions."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest
from pydantic import BaseModel, ConfigDict

from covey.clock import SystemClock
from covey.errors import Conflict, Contention
from covey.ids import new_id
from covey.message import Command, Envelope, Event, Reply
from covey.messaging.brokers.memory import MemoryBroker
from covey.messaging.failure import NotHere
from covey.messaging.options import MessagingOptions
from covey.messaging.router import Router
from covey.saga.definition import retriable, step
from covey.saga.engine import DefinitionUnknown
from covey.saga.journal import load, note, update
from covey.saga.machine import Cancel, Compensated, Running, Silent, decide
from covey.saga.saga import Saga
from covey.testing.eventually import eventually
from covey.testing.replica import Replica, ReplicaOptions, replica
from covey.work.inbox import enqueue
from covey.work.unit_of_work import Work

Make = Callable[[Path | None], str]


class Ask(Command, type="stock.ask.v1", key="saga_id"):
    saga_id: UUID


class Unask(Command, type="stock.unask.v1", key="saga_id"):
    saga_id: UUID


class Wish(Event, type="order.wish.v1", key="name"):
    name: str
    saga: UUID


class Data(BaseModel):
    """What the sagas carry."""

    answer: str = ""


class Exact(BaseModel):
    """Data that is validated strictly, as JSON it is not."""

    model_config = ConfigDict(strict=True)
    order: UUID
    within: timedelta


async def do(data: Data, work: Work) -> Reply | None:
    """Succeed."""
    return None


async def undo(data: Data, work: Work) -> None:
    """Undo it."""


async def exact(data: Exact, work: Work) -> None:
    """Read typed data."""
    assert isinstance(data.order, UUID)
    assert data.within == timedelta(minutes=1)


def reply(saga_id: UUID, body: bytes, **headers: str) -> Envelope:
    """Return a reply from somewhere."""
    return Envelope(
        id=new_id(),
        type="order.reply.v1",
        key=str(saga_id),
        source="stock",
        time=SystemClock().now(),
        body=body,
        kind="reply",
        stream="order",
        headers=headers,
    )


async def start(order: Replica, saga: Saga[Data]) -> UUID:
    async with order.transactions.begin() as work:
        return await saga.start(work, Data())


async def row(order: Replica, saga_id: UUID) -> tuple[str, int, UUID | None]:
    (found,) = await order.fetch("SELECT status, step, waiting FROM covey.saga WHERE id = $1", saga_id)
    return found["status"], found["step"], found["waiting"]


async def read_up_to(order: Replica, message: Envelope) -> None:
    """Wait until a message was stored and handled."""

    async def handled() -> bool:
        return bool(
            await order.fetchval(
                "SELECT EXISTS (SELECT FROM covey.inbox i WHERE i.id = $1 AND NOT EXISTS (SELECT FROM"
                " covey.inbox_pending p WHERE p.position = i.position))",
                message.id,
            )
        )

    await eventually(handled)


class TestAReply:
    async def test_that_says_of_no_command_that_it_answers_it_moves_no_saga_that_pauses(
        self, make_database: Make, memory_broker: MemoryBroker
    ) -> None:
        """A forward step was refused and is to be asked later: the saga waits for nothing, and so for no reply."""
        saga = Saga("slow", Data, retriable(Ask, timeout=timedelta(minutes=1)), retriable(do))
        async with replica("order", make_database(None), memory_broker, sagas=[saga]) as order:
            saga_id = await start(order, saga)
            waiting = (await row(order, saga_id))[2]
            async with order.transactions.begin() as work:
                await work.execute(
                    "UPDATE covey.saga SET waiting = NULL, deadline = now() + interval '1 hour' WHERE id = $1", saga_id
                )
            foreign = reply(saga_id, b'{"outcome": "done", "data": {}}')
            await memory_broker.publish([foreign])
            await read_up_to(order, foreign)

            assert waiting is not None
            assert (await row(order, saga_id))[:2] == ("running", 0)

    async def test_with_an_outcome_that_nobody_knows_says_nothing_about_the_step(
        self, make_database: Make, memory_broker: MemoryBroker
    ) -> None:
        """Taken for a refusal, it would leave what the step may have done."""
        saga = Saga("odd", Data, step(Ask, undo=Unask, timeout=timedelta(minutes=1)))
        async with replica("order", make_database(None), memory_broker, sagas=[saga]) as order:
            saga_id = await start(order, saga)
            waiting = (await row(order, saga_id))[2]
            odd = reply(saga_id, b'{"outcome": "banana", "data": {}}', **{"in-reply-to": str(waiting)})
            await memory_broker.publish([odd])
            await read_up_to(order, odd)

            assert await row(order, saga_id) == ("running", 0, waiting)
            assert await order.fetchval("SELECT deadline IS NOT NULL FROM covey.saga WHERE id = $1", saga_id)


class TestAFunction:
    @pytest.mark.parametrize("happening", [Cancel("stop"), Silent()])
    def test_that_has_not_run_is_not_undone(self, happening: Cancel | Silent) -> None:
        """It runs only in the transaction that moves the saga on: while the saga waits for it, it has not happened."""
        saga = Saga("local", Data, step(do, undo=undo))

        after, _ = decide(saga, Running(0), happening)

        assert isinstance(after, Compensated)

    def test_before_a_command_is_undone_when_the_command_is_cancelled(self) -> None:
        saga = Saga("mixed", Data, step(do, undo=undo), step(Ask, undo=Unask))

        after, _ = decide(saga, Running(1), Cancel("stop"))

        assert not isinstance(after, Compensated)

    async def test_reads_data_that_is_validated_strictly(
        self, make_database: Make, memory_broker: MemoryBroker
    ) -> None:
        saga = Saga("exact", Exact, retriable(exact))
        async with replica("order", make_database(None), memory_broker, sagas=[saga]) as order:
            async with order.transactions.begin() as work:
                saga_id = await saga.start(work, Exact(order=new_id(), within=timedelta(minutes=1)))

            await eventually(lambda: _ended(order, saga_id))


class TestTwoHands:
    async def test_that_cancel_one_saga_in_one_transaction_see_each_other(
        self, make_database: Make, memory_broker: MemoryBroker
    ) -> None:
        saga = Saga("twice", Data, step(Ask, undo=Unask, timeout=timedelta(minutes=1)))
        async with replica("order", make_database(None), memory_broker, sagas=[saga]) as order:
            saga_id = await start(order, saga)
            async with order.transactions.begin() as work:
                await work.execute("UPDATE covey.saga SET deadline = NULL WHERE id = $1", saga_id)
                first = await saga.cancel(work, saga_id, "one")
                second = await saga.cancel(work, saga_id, "two")

            assert (first, second) == (True, False)
            assert (await row(order, saga_id))[0] == "compensating"
            assert await order.fetchval("SELECT deadline IS NOT NULL FROM covey.saga WHERE id = $1", saga_id)

    async def test_of_which_one_comes_too_late_in_the_turn_of_the_other_do_not_stop_its_clock(
        self, make_database: Make, memory_broker: MemoryBroker
    ) -> None:
        """The time for a step is up as its answer comes: the answer moves the saga on, which has a new time to keep.

        Should what it asks for next never be answered, because the command expires, nothing else would move it.
        """
        saga = Saga("just-in-time", Data, step(Ask, undo=Unask, timeout=timedelta(minutes=1)), retriable(Ask2))
        async with replica("order", make_database(None), memory_broker, sagas=[saga]) as order:
            for _ in range(3):  # from then on turns are run at once
                await _answered(order, memory_broker, await start(order, saga))
            saga_id = await start(order, saga)
            waiting = (await row(order, saga_id))[2]
            headers = {"in-reply-to": str(waiting)}
            done = reply(saga_id, b'{"outcome": "done", "data": {}}', **headers)
            up = replace(done, id=new_id(), type="order.saga-timeout.v1", kind="event", source="order", body=b"{}")
            async with order.transactions.begin() as work:  # as the timers do
                await work.execute("UPDATE covey.saga SET deadline = NULL WHERE id = $1", saga_id)
                enqueue(work, replace(done, stream="order"))
                enqueue(work, up)
            await read_up_to(order, up)

            assert (await row(order, saga_id))[:2] == ("running", 1)
            assert await order.fetchval("SELECT deadline IS NOT NULL FROM covey.saga WHERE id = $1", saga_id)

    async def test_one_of_which_cancels_in_the_turn_of_the_reply_do_not_undo_each_others_work(
        self, make_database: Make, memory_broker: MemoryBroker
    ) -> None:
        saga = Saga("raced", Data, step(Ask, undo=Unask, timeout=timedelta(minutes=1)), retriable(Ask2))
        router, answers = Router(), list[bool]()

        @router.on(Wish)
        async def cancel(wish: Wish, work: Work) -> None:
            answers.append(await saga.cancel(work, wish.saga, "changed my mind"))

        url = make_database(None)
        async with replica("order", url, memory_broker, sagas=[saga]) as order:
            saga_id = await start(order, saga)
            waiting = (await row(order, saga_id))[2]
        body = json.dumps({"name": "w", "saga": str(saga_id)}).encode()
        wish = Envelope(
            id=new_id(), type="order.wish.v1", key="w", source="order", time=SystemClock().now(), body=body,
            stream="order",
        )  # fmt: skip
        done = reply(saga_id, b'{"outcome": "done", "data": {}}', **{"in-reply-to": str(waiting)})
        await memory_broker.publish([wish, done])
        async with replica("order", url, memory_broker, [router], sagas=[saga]) as order:
            await read_up_to(order, done)
            await read_up_to(order, wish)

            status = (await row(order, saga_id))[0]
            assert answers[-1] is (status == "compensating")

    async def test_in_two_replicas_do_not_write_over_each_other_what_one_of_them_remembers(
        self, make_database: Make, memory_broker: MemoryBroker
    ) -> None:
        """One replica has the replies and remembers the saga that it started; the other one cancels it."""
        saga = Saga("remembered", Data, step(Ask, undo=Unask, timeout=timedelta(minutes=1)), retriable(Ask2))
        url = make_database(None)
        async with (
            replica("order", url, memory_broker, sagas=[saga]) as order,
            replica("order", url, memory_broker, sagas=[saga]) as other,
        ):
            for _ in range(3):  # from then on turns are run at once
                await _answered(order, memory_broker, await start(order, saga))
            mine, theirs = [(await start(replica_, saga)) for replica_ in (order, other)]
            waiting = {saga_id: (await row(order, saga_id))[2] for saga_id in (mine, theirs)}
            for saga_id, canceller in ((mine, other), (theirs, order)):
                async with canceller.transactions.begin() as work:
                    assert await saga.cancel(work, saga_id, "changed my mind")
                await _answered(order, memory_broker, saga_id, waiting[saga_id])

                assert (await row(order, saga_id))[:2] == ("compensating", 0)

    async def test_of_which_one_was_taken_back_by_a_failover_is_not_remembered_against_what_came_in_its_place(
        self, make_database: Make, memory_broker: MemoryBroker
    ) -> None:
        """A standby that had not got the last commits goes on from before them: to the same length of history."""
        saga = Saga("failed-over", Data, step(Ask, undo=Unask, timeout=timedelta(minutes=1)), retriable(Ask2))
        async with replica("order", make_database(None), memory_broker, sagas=[saga]) as order:
            for _ in range(3):
                await _answered(order, memory_broker, await start(order, saga))
            saga_id = await start(order, saga)
            waiting = (await row(order, saga_id))[2]
            async with order.transactions.begin() as work:
                await work.execute(
                    "UPDATE covey.saga SET status = 'compensating', reason = 'late', waiting = $2, token = token + 1"
                    " WHERE id = $1",
                    saga_id,
                    new_id(),
                )
            await _answered(order, memory_broker, saga_id, waiting)

            assert (await row(order, saga_id))[0] == "compensating"

    @pytest.mark.parametrize("starts_another", [False, True])
    async def test_of_which_one_has_written_history_meanwhile_are_contention_and_no_broken_constraint(
        self, make_database: Make, memory_broker: MemoryBroker, starts_another: bool
    ) -> None:
        """Both write the next line of the history; whoever comes second is not to blame, and may try again."""
        saga = Saga("twofold", Data, step(Ask, undo=Unask, timeout=timedelta(minutes=1)))
        async with replica("order", make_database(None), memory_broker, sagas=[saga]) as order:
            saga_id = await start(order, saga)
            async with order.transactions.begin() as work:
                remembered = (await load(work, [saga_id]))[saga_id]
            async with order.transactions.begin() as work:
                assert await saga.cancel(work, saga_id, "changed my mind")

            with pytest.raises(Contention):
                async with order.transactions.begin() as work:
                    if starts_another:
                        await saga.start(work, Data())
                    note(work, remembered, "Ask", "done")
                    update(work, remembered, None)

    async def test_does_not_read_what_it_has_written_itself(
        self, make_database: Make, memory_broker: MemoryBroker
    ) -> None:
        saga = Saga("known", Data, step(Ask, undo=Unask, timeout=timedelta(minutes=1)), retriable(Ask2))
        async with replica("order", make_database(None), memory_broker, sagas=[saga]) as order:
            for _ in range(3):
                await _answered(order, memory_broker, await start(order, saga))
            saga_id = await start(order, saga)
            async with order.transactions.begin() as work:
                await work.execute('UPDATE covey.saga SET data = \'{"answer": "changed"}\' WHERE id = $1', saga_id)
            await _answered(order, memory_broker, saga_id)

            assert (await row(order, saga_id))[:2] == ("running", 1)
            data = await order.fetchval("SELECT data ->> 'answer' FROM covey.saga WHERE id = $1", saga_id)
            assert data == ""

    async def test_of_which_one_cancels_while_a_function_holds_the_subject_do_not_wait_for_each_other(
        self, make_database: Make, memory_broker: MemoryBroker
    ) -> None:
        """Both lock the saga first, also a turn that remembers it; the other way round is a deadlock."""
        runs, subject_locked = list[int](), asyncio.Event()

        async def confirm(data: Data, work: Work) -> None:
            runs.append(len(runs))
            await work.execute("UPDATE covey.reply SET stream = 'seen'")
            subject_locked.set()
            await eventually(lambda: _somebody_waits_for_a_lock(order))

        saga = Saga("subject", Data, retriable(confirm))
        async with replica("order", make_database(None), memory_broker, sagas=[saga]) as order:
            async with order.transactions.begin() as work:
                await work.execute("INSERT INTO covey.reply VALUES ($1, 'subject', '', '')", new_id())
            saga_id = await start(order, saga)
            await subject_locked.wait()
            async with order.transactions.begin() as work:
                assert await saga.cancel(work, saga_id, "too late") is False
                await work.execute("UPDATE covey.reply SET stream = 'asked'")

            assert (await row(order, saga_id))[0] == "completed"
            assert runs == [0]


async def _somebody_waits_for_a_lock(order: Replica) -> bool:
    return bool(
        await order.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            " AND query NOT LIKE '%pg_advisory_lock%'"
        )
    )


async def _answered(order: Replica, broker: MemoryBroker, saga_id: UUID, to: UUID | None = None) -> None:
    """Have the step that a saga waits for, or has waited for, answer that it is done; wait until that was handled."""
    asked = to or (await row(order, saga_id))[2]
    done = reply(saga_id, b'{"outcome": "done", "data": {}}', **{"in-reply-to": str(asked)})
    await broker.publish([done])
    await read_up_to(order, done)


class Ask2(Command, type="stock.ask-again.v1", key="saga_id"):
    saga_id: UUID


class TestAnotherVersion:
    async def test_is_not_called_too_late_to_cancel(self, make_database: Make, memory_broker: MemoryBroker) -> None:
        old = Saga("moving", Data, step(Ask, undo=Unask, timeout=timedelta(minutes=1)), version=1)
        new = Saga("moving", Data, step(Ask, undo=Unask, timeout=timedelta(minutes=1)), version=2)
        async with replica("order", make_database(None), memory_broker, sagas=[old, new]) as order:
            saga_id = await start(order, old)

            with pytest.raises(Conflict, match="version 1"):
                async with order.transactions.begin() as work:
                    await new.cancel(work, saga_id, "stop")
            async with order.transactions.begin() as work:
                assert await old.cancel(work, saga_id, "stop")

    async def test_that_this_replica_lacks_costs_no_attempts(
        self, make_database: Make, memory_broker: MemoryBroker
    ) -> None:
        """Or the replica that has it would take its functions for ones that keep failing, without having tried."""
        saga = Saga("new", Data, step(do, undo=undo), retriable(do_more), version=2)
        other = Saga("other", Data, retriable(do))
        url = make_database(None)
        options = ReplicaOptions(
            messaging=MessagingOptions(backoff=timedelta(milliseconds=1), poll=timedelta(milliseconds=5))
        )
        async with replica("order", url, memory_broker, sagas=[other], options=options) as order:
            saga_id = await start(order, saga)

            async def held() -> bool:
                return bool(await order.fetchval("SELECT count(*) FROM covey.hold WHERE error IS NOT NULL"))

            await eventually(held)
            assert await order.fetchval("SELECT max(attempts) FROM covey.hold") == 0
            async with replica("order", url, memory_broker, sagas=[other, saga]) as newer:
                await eventually(lambda: _ended(newer, saga_id))
                assert (await row(newer, saga_id))[0] == "completed"

    def test_is_told_from_failure_by_its_kind(self) -> None:
        assert issubclass(DefinitionUnknown, NotHere)


async def do_more(data: Data, work: Work) -> Reply | None:
    """Succeed too."""
    return None


async def _ended(order: Replica, saga_id: UUID) -> bool:
    return bool(await order.fetchval("SELECT ended_at IS NOT NULL FROM covey.saga WHERE id = $1", saga_id))
