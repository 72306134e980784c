"""Sagas on real databases: whatever the participants do, every one ends, and what was done is undone or completed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from math import inf
from pathlib import Path
from uuid import UUID

import pytest

from covey.clock import SystemClock
from covey.errors import NotFound
from covey.ids import new_id
from covey.message import Envelope, Refused, Reply
from covey.messaging.broker import Extent, Reader, Topic
from covey.messaging.brokers.memory import MemoryBroker
from covey.messaging.options import MessagingOptions
from covey.saga.definition import retriable, step
from covey.saga.saga import Saga
from covey.testing.eventually import eventually
from covey.testing.replica import Replica, ReplicaOptions, replica
from covey.work.unit_of_work import Transactions, Work
from tests.saga.stage import Data, Stage, hasty, hasty_hold, on_stage, place

HASTY = MessagingOptions(backoff=timedelta(milliseconds=10), backoff_cap=timedelta(milliseconds=50))
FORWARD = ["Reserve", "Hold", "Take", "Ship"]


async def test_a_saga_whose_steps_are_done_completes_and_carries_what_the_replies_said(stage: Stage) -> None:
    saga_id = await stage.start()

    assert await stage.end_of(saga_id) == "completed"
    assert await stage.effects(saga_id) == FORWARD
    assert await stage.endings() == [("noted", "7")]


async def test_an_answer_that_no_database_stores_as_it_is_strands_no_saga(stage: Stage) -> None:
    stage.participant.script = {"Hold": ["garble"], "Take": ["garble"]}

    saga_id = await stage.start()

    assert await stage.end_of(saga_id) == "compensated"
    assert await stage.effects(saga_id) == ["Reserve", "Unhold", "Release"]
    assert await stage.endings() == [("given up", "no Take␀")]


async def test_numbers_that_json_has_no_word_for_are_carried_too(stage: Stage) -> None:
    saga_id = await stage.start(Data(weight=inf))

    assert await stage.end_of(saga_id) == "completed"


async def test_the_history_of_a_saga_tells_every_step(stage: Stage) -> None:
    stage.participant.script = {"Take": ["refuse"]}

    saga_id = await stage.start()

    assert await stage.end_of(saga_id) == "compensated"
    assert await stage.history(saga_id) == [
        "place started",
        "Reserve asked",
        "Reserve done",
        "Hold asked",
        "Hold done",
        "Take asked",
        "Take refused",
        "Unhold asked",
        "Unhold done",
        "Release asked",
        "Release done",
        "place compensated",
    ]


@pytest.mark.parametrize(
    ("refused", "effects"),
    [
        ("Reserve", []),
        ("Hold", ["Reserve", "Release"]),
        ("Take", ["Reserve", "Hold", "Unhold", "Release"]),
    ],
)
async def test_a_refusal_up_to_the_pivot_undoes_what_came_before(
    stage: Stage, refused: str, effects: list[str]
) -> None:
    stage.participant.script = {refused: ["refuse"]}

    saga_id = await stage.start()

    assert await stage.end_of(saga_id) == "compensated"
    assert await stage.effects(saga_id) == effects
    assert await stage.endings() == [("given up", f"no {refused}")]


@pytest.mark.parametrize(
    ("silent", "effects"),
    [("Reserve", ["Release"]), ("Hold", ["Reserve", "Unhold", "Release"])],
)
async def test_a_compensatable_step_that_stays_silent_counts_as_done_and_is_undone(
    stage: Stage, silent: str, effects: list[str]
) -> None:
    stage.participant.script = {silent: ["mute"] * 1_000}

    saga_id = await stage.start(saga=hasty)

    assert await stage.end_of(saga_id) == "compensated"
    assert await stage.effects(saga_id) == effects


async def test_a_step_that_succeeds_too_late_is_undone_behind_it(stage: Stage) -> None:
    stage.participant.script = {"Hold": ["late"]}

    saga_id = await stage.start(saga=hasty_hold)

    assert await stage.end_of(saga_id) == "compensated"
    assert await stage.effects(saga_id) == ["Reserve", "Hold", "Unhold", "Release"]


@pytest.mark.parametrize("silent", ["Take", "Ship"])
async def test_a_silent_pivot_or_forward_step_is_asked_until_it_is_done_and_done_once(
    stage: Stage, silent: str
) -> None:
    stage.participant.script = {silent: ["late"]}

    saga_id = await stage.start()

    assert await stage.end_of(saga_id) == "completed"
    assert await stage.effects(saga_id) == FORWARD
    assert f"{silent} asked again" in await stage.history(saga_id)


@pytest.mark.parametrize("stubborn", ["Unhold", "Release"])
async def test_a_compensation_that_fails_or_refuses_is_repeated_until_it_succeeds(stage: Stage, stubborn: str) -> None:
    stage.participant.script = {"Take": ["refuse"], stubborn: ["mute", "mute", "refuse", "poison", "mute"]}

    saga_id = await stage.start(saga=hasty)

    assert await stage.end_of(saga_id) == "compensated"
    assert await stage.effects(saga_id) == ["Reserve", "Hold", "Unhold", "Release"]


async def test_a_refused_forward_step_is_asked_again_under_a_new_id(stage: Stage) -> None:
    stage.participant.script = {"Ship": ["refuse", "refuse"]}

    saga_id = await stage.start()

    assert await stage.end_of(saga_id) == "completed"
    assert (await stage.history(saga_id)).count("Ship refused") == 2


async def test_a_poisoned_compensatable_step_does_not_strand_its_saga(stage: Stage) -> None:
    stage.participant.script = {"Hold": ["poison"] * 1_000}

    saga_id = await stage.start(saga=hasty_hold)

    assert await stage.end_of(saga_id) == "compensated"
    assert await stage.effects(saga_id) == ["Reserve", "Unhold", "Release"]
    log = await stage.stock.fetch("SELECT what FROM covey.dead_letter_log ORDER BY n")
    assert [row["what"] for row in log][-1] == "expired"


@pytest.mark.parametrize("at", ["Reserve", "Hold"])
async def test_cancelling_before_the_pivot_is_definite_and_undoes(stage: Stage, at: str) -> None:
    stage.participant.script = {at: ["late"]}
    saga_id = await stage.start()
    await _asked(stage, saga_id, at)

    async with stage.order.transactions.begin() as work:
        cancelled = await place.cancel(work, saga_id, "changed my mind")

    assert cancelled
    assert await stage.end_of(saga_id) == "compensated"
    assert await stage.endings() == [("given up", "changed my mind")]
    done = await stage.effects(saga_id)
    assert "Take" not in done
    assert ("Unhold" in done) is (at == "Hold")
    assert done[-1] == "Release"


async def test_a_timeout_is_not_lost_on_a_replica_that_remembers_the_saga_as_it_was(stage: Stage) -> None:
    stage.participant.script = {"Hold": ["mute"] * 1_000, "Unhold": ["mute"] * 1_000}
    saga_id = await stage.start(saga=hasty)
    await _asked(stage, saga_id, "Hold")
    another_replica = Transactions(stage.order.database, "order")
    async with another_replica.begin() as work:
        await hasty.cancel(work, saga_id, "changed my mind")

    async def has_been_asked_again() -> bool:
        return "Unhold asked again" in await stage.history(saga_id)

    await eventually(has_been_asked_again)
    stage.participant.script = {}
    assert await stage.end_of(saga_id) == "compensated"


async def test_cancelling_at_the_pivot_is_refused_and_changes_nothing(stage: Stage) -> None:
    stage.participant.script = {"Take": ["late"]}
    saga_id = await stage.start()
    await _asked(stage, saga_id, "Take")

    async with stage.order.transactions.begin() as work:
        cancelled = await place.cancel(work, saga_id, "changed my mind")

    assert not cancelled
    assert await stage.order.fetchval("SELECT deadline FROM covey.saga WHERE id = $1", saga_id) is not None
    assert await stage.end_of(saga_id) == "completed"


async def test_cancelling_what_does_not_exist_says_so(stage: Stage) -> None:
    with pytest.raises(NotFound):
        async with stage.order.transactions.begin() as work:
            await place.cancel(work, new_id(), "nothing there")


async def test_a_saga_whose_work_rolls_back_never_was(stage: Stage) -> None:
    with pytest.raises(RuntimeError):
        async with stage.order.transactions.begin() as work:
            await place.start(work, Data())
            raise RuntimeError("the subject could not be created")

    assert await stage.order.fetchval("SELECT count(*) FROM covey.saga") == 0
    assert await stage.order.fetchval("SELECT count(*) FROM covey.outbox") == 0


async def test_a_reply_that_cannot_be_read_is_seen_and_does_not_strand_the_saga(stage: Stage) -> None:
    stage.participant.script = {"Reserve": ["mute"] * 1_000}
    saga_id = await stage.start(saga=hasty)
    waiting = await stage.order.fetchval("SELECT waiting FROM covey.saga WHERE id = $1", saga_id)

    await stage.broker.publish([_reply(saga_id, waiting, b"{not json")])

    assert await stage.end_of(saga_id) == "compensated"
    assert "reply unreadable" in await stage.history(saga_id)
    unreadable = stage.order.telemetry.metrics.counter("covey_saga_replies_unreadable_total", "", ("saga", "step"))
    assert unreadable.value(("hasty", "Reserve")) == 1


async def test_a_late_reply_changes_nothing(stage: Stage) -> None:
    saga_id = await stage.start()
    assert await stage.end_of(saga_id) == "completed"
    before = await stage.history(saga_id)

    await stage.broker.publish([_reply(saga_id, new_id(), b'{"outcome": "refused", "reason": "late", "data": {}}')])
    await eventually(lambda: _handled_all(stage))

    assert await stage.history(saga_id) == before


async def test_many_sagas_with_every_message_duplicated_delayed_and_two_replicas_all_end_right(
    make_database: Callable[[Path | None], str],
) -> None:
    unfaithful = Unfaithful(MemoryBroker())
    async with on_stage(make_database(None), make_database(None), unfaithful) as stage:
        ids = [new_id() for _ in range(40)]
        stage.participant.refused = {"Take": set(ids[:10]), "Hold": set(ids[10:20])}
        async with (
            replica("order", stage.order_url, unfaithful, sagas=[place, hasty]),
            replica("stock", stage.stock_url, unfaithful, [stage.participant.router()]),
        ):
            for saga_id in ids:
                await stage.start(saga_id=saga_id)
            ends = [await stage.end_of(saga_id) for saga_id in ids]

        assert ends == ["compensated"] * 20 + ["completed"] * 20
        for saga_id, end in zip(ids, ends, strict=True):
            done = await stage.effects(saga_id)
            if end == "completed":
                assert done == FORWARD
            else:
                assert done in (["Reserve", "Release"], ["Reserve", "Hold", "Unhold", "Release"])
        assert len(await stage.endings()) == 40


async def test_functions_of_a_saga_run_in_its_own_transaction_and_are_undone(
    make_database: Callable[[Path | None], str],
) -> None:
    local = Saga(
        "local",
        Data,
        step(first, undo=unfirst),
        step(second, undo=None),
        compensated=over,
    )
    async with replica("order", make_database(None), MemoryBroker(), sagas=[local]) as order:
        await _make_ending(order)
        async with order.transactions.begin() as work:
            await local.start(work, Data(pieces=3))

        await eventually(lambda: _endings(order, ["first 3", "unfirst", "over: second says no"]))


async def test_a_function_that_keeps_failing_is_undone_up_to_it(make_database: Callable[[Path | None], str]) -> None:
    failing = Saga("failing", Data, step(first, undo=unfirst), step(explode), compensated=over)
    async with replica("order", make_database(None), MemoryBroker(), sagas=[failing]) as order:
        await _make_ending(order)
        async with order.transactions.begin() as work:
            saga_id = await failing.start(work, Data())

        async def compensated() -> bool:
            return bool(await order.fetchval("SELECT status = 'compensated' FROM covey.saga WHERE id = $1", saga_id))

        await eventually(compensated)
        assert any("kept failing" in line for line in await _lines(order))


async def test_a_function_is_not_blamed_for_the_failures_of_one_behind_it(
    make_database: Callable[[Path | None], str],
) -> None:
    """Both run in one transaction, in which the first succeeds each time; the second only goes forward."""
    failures = 7

    async def at_last(data: Data, work: Work) -> Reply | None:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise ValueError("not yet")
        await work.execute("INSERT INTO ending (how) VALUES ('at last')")
        return None

    stubborn = Saga("stubborn", Data, step(first, undo=unfirst), retriable(at_last), compensated=over)
    async with replica(
        "order", make_database(None), MemoryBroker(), sagas=[stubborn], options=ReplicaOptions(messaging=HASTY)
    ) as order:
        await _make_ending(order)
        async with order.transactions.begin() as work:
            await stubborn.start(work, Data(pieces=1))

        await eventually(lambda: _endings(order, ["first 1", "at last"]))


async def test_a_saga_of_an_unknown_version_waits_for_a_replica_that_knows_it(
    make_database: Callable[[Path | None], str],
) -> None:
    url, broker = make_database(None), MemoryBroker()
    old = Saga("upgraded", Data, retriable(first), version=1)
    new = Saga("upgraded", Data, retriable(unfirst), version=2)
    async with replica("order", url, broker, sagas=[new]) as order:
        await _make_ending(order)
        async with order.transactions.begin() as work:
            saga_id = await old.start(work, Data(pieces=1))
        await eventually(lambda: _held(order), because="this replica has no definition of version 1")
        assert await order.fetchval("SELECT status FROM covey.saga WHERE id = $1", saga_id) == "running"

        async with replica("order", url, broker, sagas=[old, new]):
            await eventually(lambda: _endings(order, ["first 1"]))


class Unfaithful:
    """A broker that stores everything twice and lets it wait; order within a stream stays, as a broker promises."""

    def __init__(self, inner: MemoryBroker) -> None:
        self._inner = inner
        self._turn = asyncio.Lock()
        self._late = 0

    async def ensure_stream(self, stream: str) -> None:
        """See Broker."""
        await self._inner.ensure_stream(stream)

    async def publish(self, envelopes: Sequence[Envelope]) -> None:
        """Store everything twice, some of it after a while."""
        async with self._turn:
            self._late = (self._late + 1) % 7
            await asyncio.sleep(0.002 * self._late)
            await self._inner.publish(envelopes)
            await self._inner.publish(envelopes)

    def read(self, stream: str, topics: Collection[Topic], after: int) -> AbstractAsyncContextManager[Reader]:
        """See Broker."""
        return self._inner.read(stream, topics, after)

    async def extent(self, stream: str) -> Extent:
        """See Broker."""
        return await self._inner.extent(stream)

    async def close(self) -> None:
        """See Broker."""
        await self._inner.close()


async def first(data: Data, work: Work) -> Reply | None:
    await work.execute("INSERT INTO ending (how) VALUES ($1)", f"first {data.pieces}")
    return None


async def unfirst(data: Data, work: Work) -> Reply | None:
    await work.execute("INSERT INTO ending (how) VALUES ('unfirst')")
    return None


async def second(data: Data, work: Work) -> Reply | None:
    return Refused(reason="second says no")


async def explode(data: Data, work: Work) -> Reply | None:
    raise ValueError("a defect")


async def over(data: Data, reason: str, work: Work) -> None:
    await work.execute("INSERT INTO ending (how) VALUES ($1)", f"over: {reason}")


async def _make_ending(order: Replica) -> None:
    async with order.transactions.begin() as work:
        await work.execute("CREATE TABLE ending (n bigint GENERATED ALWAYS AS IDENTITY, how text)")


async def _lines(order: Replica) -> list[str]:
    rows = await order.fetch("SELECT how FROM ending ORDER BY n")
    return [row["how"] for row in rows]


async def _endings(order: Replica, expected: list[str]) -> bool:
    assert await _lines(order) == expected
    return True


async def _held(order: Replica) -> bool:
    found = await order.fetchval("SELECT count(*) FROM covey.hold WHERE error LIKE 'DefinitionUnknown%'")
    return bool(found)


async def _asked(stage: Stage, saga_id: UUID, step_name: str) -> None:
    async def asked() -> bool:
        return f"{step_name} asked" in await stage.history(saga_id)

    await eventually(asked)


async def _handled_all(stage: Stage) -> bool:
    late = await stage.order.fetchval("SELECT count(*) FROM covey.inbox WHERE source = 'late'")
    return late == 1 and await stage.order.fetchval("SELECT count(*) FROM covey.inbox_pending") == 0


def _reply(saga_id: UUID, command_id: UUID, body: bytes) -> Envelope:
    return Envelope(
        id=new_id(),
        type="order.reply.v1",
        key=str(saga_id),
        source="late",
        time=SystemClock().now(),
        body=body,
        kind="reply",
        stream="order",
        headers={"in-reply-to": str(command_id)},
    )
