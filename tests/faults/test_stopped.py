"""A replica that stands still for longer than its lease, and wakes up in the middle of what others have done by then.

It is stopped with SIGSTOP at the very moment at which it is about to write as an owner, and that write reaches the
database only after another replica has taken over: it must change nothing (H9).
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from datetime import timedelta
from uuid import UUID

import pytest

from covey.testing.eventually import eventually
from tests.faults.conftest import Open, Scene
from tests.harness.outcomes import OUTCOMES
from tests.harness.replica import Replica
from tests.wire.exchange import Exchange, Stage, Statement
from tests.wire.postgres import texts

pytestmark = pytest.mark.asyncio(loop_scope="module")

FENCED = "CV001"
WAIT = timedelta(seconds=40)
ANSWER_SECONDS = 20.0


class Stop:
    """Stops the first replica that asks what is waited for, and holds its question until others have taken over."""

    def __init__(self, is_it: Callable[[Statement], bool]) -> None:
        self._is_it = is_it
        self._go_on = asyncio.Event()
        self.replica: Replica | None = None
        self.question: Statement | None = None
        self._answered = asyncio.Event()

    def of(self, replica: Replica) -> _StopOf:
        """Return a tap for one of the replicas that are to be watched."""
        return _StopOf(self, replica)

    async def answered(self) -> Statement:
        """Let the question through and return it with its answer, which must come; then let the replica go on.

        As if it had been on its way already when the replica was stopped. Who stands still cannot hang up either, as
        one who wakes up and sees how late it is would: so the answer is always seen.
        """
        assert self.replica is not None
        assert self.question is not None
        self._go_on.set()
        async with asyncio.timeout(ANSWER_SECONDS):
            await self._answered.wait()
        self.replica.signal(signal.SIGCONT)
        return self.question

    async def passes(self, replica: Replica, stage: Stage, exchange: Exchange) -> bool:
        """Decide for one replica."""
        if not isinstance(exchange, Statement):
            return True
        if stage is Stage.REQUEST and self.replica is None and self._is_it(exchange):
            self.replica, self.question = replica, exchange
            replica.signal(signal.SIGSTOP)
            await self._go_on.wait()
        if stage is Stage.ANSWER and exchange is self.question:
            self._answered.set()
        return True


class _StopOf:
    def __init__(self, stop: Stop, replica: Replica) -> None:
        self._stop = stop
        self._replica = replica

    async def passes(self, stage: Stage, exchange: Exchange) -> bool:
        """See Tap."""
        return await self._stop.passes(self._replica, stage, exchange)


def stores(message_type: str) -> Callable[[Statement], bool]:
    """Return what recognizes the storing of a message of that type, whether its turn is run at once or with care."""
    types = {"covey.receive(": 8, "covey.accept(": 7}
    return lambda statement: any(
        function in statement.sql and message_type in texts(statement.arguments[0][place])
        for function, place in types.items()
    )


def settles(statement: Statement) -> bool:
    """Recognize that an answer of the provider is about to be recorded."""
    return "covey.resume(" in statement.sql


async def stopped_until_taken_over(scene: Scene, service: str, is_it: Callable[[Statement], bool]) -> Stop:
    """Place an order, stop the replica that does what is waited for, and return when others have finished the order."""
    stop = Stop(is_it)
    for replica in scene.shop.replicas[service]:
        replica.tap(stop.of(replica))
    ordering = asyncio.create_task(scene.crowd.order(1, [one for one in OUTCOMES if one.name == "confirmed"]))
    await eventually(lambda: stop.question, WAIT)
    await ordering

    async def is_finished() -> bool:
        return await order_status(scene, scene.crowd.accepted[0]) != "pending"

    await eventually(is_finished, WAIT)
    return stop


async def order_status(scene: Scene, order_id: UUID) -> str:
    """Return the status of an order."""
    return str(await scene.ledger.pools["order"].fetchval("SELECT status FROM orders WHERE id = $1", order_id))


@pytest.mark.parametrize(
    ("service", "message_type"),
    [
        pytest.param("order", "order.reply.v1", id="replies"),
        pytest.param("inventory", "inventory.reserve-stock.v1", id="commands", marks=pytest.mark.slow),
    ],
)
async def test_a_reader_that_wakes_up_late_stores_nothing(open_scene: Open, service: str, message_type: str) -> None:
    async with open_scene(2) as scene:
        stop = await stopped_until_taken_over(scene, service, stores(message_type))

        question = await stop.answered()
        assert question.error == FENCED
        assert not question.tags, "what it was about to store has been stored"
        await scene.crowd.settle()


@pytest.mark.slow
async def test_an_answer_that_is_recorded_late_is_not_recorded_twice(open_scene: Open) -> None:
    async with open_scene(2) as scene:
        stop = await stopped_until_taken_over(scene, "payment", settles)

        question = await stop.answered()
        assert question.error == ""
        assert [row[1] for row in question.rows] == [b"\x00"], "it was told that the call was still its own"
        await scene.crowd.settle()
