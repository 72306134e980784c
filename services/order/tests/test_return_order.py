"""The saga that takes goods back: told what happens, with nothing running; and its ends, on a real database."""

from __future__ import annotations

from typing import Any

import pytest
from order_service import storage
from order_service.domain import (
    Confirmed,
    Money,
    Order,
    OrderId,
    Product,
    ProductId,
    Return,
    ReturnCompleted,
    ReturnId,
    ReturnRefused,
    ReturnState,
    UserId,
    Wanted,
    place,
    take_back,
)
from order_service.messages import CancelReturn, ReceiveReturn, RefundPayment, Restock
from order_service.saga.return_order import ReturnOrder, note_return, return_order, turn_return_down

from covey.errors import Conflict
from covey.ids import new_id
from covey.testing.saga import FakeWork, SagaRun, given
from covey.work.unit_of_work import Transactions

MUG = Product(ProductId(new_id()), "Mug", Money(1_250, "EUR"), 1)
LINES = (Wanted(MUG.id, 1),)
DATA = ReturnOrder(order_id=OrderId(new_id()), return_id=ReturnId(new_id()), lines=LINES, amount=Money(1_250, "EUR"))


def row() -> dict[str, Any]:
    """A return that was requested, as its tables have it."""
    return {
        "id": DATA.return_id,
        "status": "requested",
        "reason": "too small",
        "refusal": None,
        "amount": 1_250,
        "currency": "EUR",
        "requested_at": None,
        "settled_at": None,
        "product_id": MUG.id,
        "quantity": 1,
    }


def a_run() -> SagaRun[ReturnOrder]:
    return given(return_order, DATA, work=FakeWork("order", answers=lambda sql, args: [row()]))


def settled(run: SagaRun[ReturnOrder]) -> tuple[Any, ...]:
    """What was last written: the return, its status, and why it was refused."""
    return run.work.executed[-1][1]


async def test_goods_come_back_then_the_money_then_the_pieces_are_free_again() -> None:
    run = a_run()

    await run.starts()
    receiving = run.expect(ReceiveReturn)
    assert (receiving.saga_id, receiving.order_id, receiving.lines) == (run.record.id, DATA.order_id, LINES)
    await run.when_done(return_id=str(DATA.return_id))
    refund = run.expect(RefundPayment)
    assert (refund.order_id, refund.amount) == (DATA.order_id, DATA.amount)
    await run.when_done()
    assert run.expect(Restock).lines == LINES
    await run.when_done()

    run.expect_completed()
    assert settled(run) == (DATA.return_id, "completed", None)


async def test_goods_that_are_not_taken_back_are_not_paid_for() -> None:
    run = a_run()
    await run.starts()
    run.expect(ReceiveReturn)

    await run.when_refused("nothing was shipped for this order")

    run.expect_compensated("nothing was shipped for this order")
    assert settled(run) == (DATA.return_id, "refused", "nothing was shipped for this order")


async def test_goods_of_which_nobody_knows_whether_they_are_back_are_given_back_and_not_paid_for() -> None:
    run = a_run()
    await run.starts()
    run.expect(ReceiveReturn)
    assert run.last.expires

    await run.when_silent()

    run.expect(CancelReturn)
    await run.when_done()
    run.expect_compensated("receiving the goods: no answer in time")


async def test_a_refund_that_is_declined_gives_the_goods_back() -> None:
    run = a_run()
    await run.starts()
    await run.when_done()
    await run.when_refused("the account is closed")

    assert isinstance(run.last.command, CancelReturn)
    await run.when_silent()
    assert isinstance(run.last.command, CancelReturn)
    await run.when_done()

    assert settled(run) == (DATA.return_id, "refused", "the account is closed")


async def test_a_refund_that_nobody_answered_is_asked_again_under_its_id_and_never_undone() -> None:
    run = a_run()
    await run.starts()
    await run.when_done()
    first = run.last

    await run.when_silent()

    assert isinstance(run.last.command, RefundPayment)
    assert run.last.command_id == first.command_id
    assert not await run.when_cancelled("too late")


async def test_pieces_that_are_not_sold_yet_are_restocked_later() -> None:
    run = a_run()
    await run.starts()
    await run.when_done()
    await run.when_done()

    await run.when_refused("the pieces are not sold yet")
    await run.when_paused()
    await run.when_done()

    assert run.ended
    assert settled(run)[1] == "completed"


@pytest.fixture
async def order(transactions: Transactions) -> Order:
    """A confirmed order of two mugs, of which one is on its way back."""
    placed = place(OrderId(new_id()), UserId(new_id()), [Wanted(MUG.id, 2)], {MUG.id: MUG})
    async with transactions.begin() as work:
        await storage.add_order(work, placed, new_id())
        storage.settle(work, placed.id, Confirmed())
    async with transactions.begin() as work:
        stored = await storage.order_by_id(work, placed.id)
        assert stored is not None
        one = take_back(stored.order, [], DATA.return_id, LINES, "too small")
        await storage.add_return(work, placed.id, one)
    return stored.order


async def the_return(transactions: Transactions, order: Order) -> tuple[Return, int]:
    """The return, and how many pieces of the order are claimed."""
    async with transactions.begin() as work:
        (found,) = await storage.returns_of(work, order.id)
        claimed = await work.fetchval("SELECT returned FROM order_line WHERE order_id = $1", order.id)
        return found.one, claimed


async def state(transactions: Transactions, order: Order) -> tuple[ReturnState, int]:
    one, claimed = await the_return(transactions, order)
    return one.state, claimed


async def test_a_return_that_is_completed_keeps_its_claim(transactions: Transactions, order: Order) -> None:
    for _ in range(2):
        async with transactions.begin() as work:
            await note_return(DATA, work)

    assert await state(transactions, order) == (ReturnCompleted(), 1)


async def test_a_return_that_comes_to_nothing_lets_go_of_its_pieces_once(
    transactions: Transactions, order: Order
) -> None:
    for reason in ("nothing was shipped", "something else"):
        async with transactions.begin() as work:
            await turn_return_down(DATA, reason, work)

    assert await state(transactions, order) == (ReturnRefused("nothing was shipped"), 0)


async def test_a_return_is_never_both_completed_and_refused(transactions: Transactions, order: Order) -> None:
    async with transactions.begin() as work:
        await note_return(DATA, work)

    with pytest.raises(Conflict):
        async with transactions.begin() as work:
            await turn_return_down(DATA, "late", work)
    assert await state(transactions, order) == (ReturnCompleted(), 1)
