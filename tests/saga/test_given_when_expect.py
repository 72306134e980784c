"""A saga tested by what it is told and what it asks, with nothing running: the module's own example first."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import pytest
from pydantic import BaseModel

from covey.message import Command, Event, Refused, Reply
from covey.saga.definition import pivot, retriable, step
from covey.saga.saga import Saga
from covey.testing.saga import FakeWork, given
from covey.work.unit_of_work import Work


class ReserveStock(Command, type="inventory.reserve-stock.v1", key="saga_id"):
    saga_id: UUID
    pieces: int


class ReleaseStock(Command, type="inventory.release-stock.v1", key="saga_id"):
    saga_id: UUID


class AuthorizePayment(Command, type="payment.authorize.v1", key="saga_id"):
    saga_id: UUID


class VoidAuthorization(Command, type="payment.void.v1", key="saga_id"):
    saga_id: UUID
    number: str


class CapturePayment(Command, type="payment.capture.v1", key="saga_id"):
    saga_id: UUID


class Confirmed(Event, type="order.confirmed.v1", key="number"):
    number: str


class PlaceOrder(BaseModel):
    """What the saga carries."""

    pieces: int
    number: str = ""


async def confirm(data: PlaceOrder, work: Work) -> Reply | None:
    """Tell the world, unless it cannot be told yet."""
    if await work.fetchval("SELECT closed FROM shop"):
        return Refused(reason="closed")
    work.publish(Confirmed(number=data.number))
    return None


async def reject(data: PlaceOrder, reason: str, work: Work) -> None:
    """Note the end."""
    await work.execute("UPDATE orders SET reason = $1", reason)


place_order = Saga(
    "place-order",
    PlaceOrder,
    step(ReserveStock, undo=ReleaseStock, timeout=timedelta(seconds=10)),
    step(AuthorizePayment, undo=VoidAuthorization, timeout=timedelta(seconds=20)),
    pivot(CapturePayment, timeout=timedelta(seconds=30)),
    retriable(confirm),
    compensated=reject,
)


async def test_an_order_whose_steps_are_done_is_confirmed() -> None:
    run = given(place_order, PlaceOrder(pieces=3), service="order")

    await run.starts()
    assert run.expect(ReserveStock).pieces == 3
    await run.when_done()
    run.expect(AuthorizePayment)
    await run.when_done(number="A-7")
    run.expect(CapturePayment)
    await run.when_done()

    run.expect_completed()
    assert run.published == [Confirmed(number="A-7")]


async def test_a_declined_payment_gives_the_stock_back() -> None:
    run = given(place_order, PlaceOrder(pieces=3))

    await run.starts()
    run.expect(ReserveStock)
    await run.when_done()
    run.expect(AuthorizePayment)
    await run.when_refused("declined")
    run.expect(ReleaseStock)
    await run.when_done()

    run.expect_compensated("declined")
    assert run.work.executed[-1] == ("UPDATE orders SET reason = $1", ("declined",))


async def test_an_authorization_that_nobody_answered_is_voided_too() -> None:
    run = given(place_order, PlaceOrder(pieces=1))

    await run.starts()
    await run.when_done()
    assert run.waits_seconds == 20
    assert run.last.expires
    await run.when_silent()

    assert isinstance(run.last.command, VoidAuthorization)
    assert not run.last.expires


async def test_the_reason_of_a_silence_says_in_words_which_step_it_was() -> None:
    run = given(place_order, PlaceOrder(pieces=1))
    await run.starts()
    await run.when_done()
    await run.when_silent()
    await run.when_done()
    await run.when_done()

    assert run.work.executed[-1] == ("UPDATE orders SET reason = $1", ("authorize payment: no answer in time",))


async def test_a_capture_that_nobody_answered_is_asked_again_under_its_id_and_never_undone() -> None:
    run = given(place_order, PlaceOrder(pieces=1))
    await run.starts()
    await run.when_done()
    await run.when_done()
    first = run.last

    await run.when_silent()

    assert isinstance(run.last.command, CapturePayment)
    assert run.last.command_id == first.command_id
    assert not await run.when_cancelled("too late")


async def test_cancelling_before_the_pivot_undoes_what_may_have_happened() -> None:
    run = given(place_order, PlaceOrder(pieces=1))
    await run.starts()
    run.expect(ReserveStock)

    assert await run.when_cancelled("changed my mind")

    run.expect(ReleaseStock)
    await run.when_done()
    run.expect_compensated("changed my mind")


async def test_a_function_that_is_refused_pauses_and_is_tried_again() -> None:
    closed = [True]
    work = FakeWork("order", answers=lambda sql, args: [(closed[0],)])
    run = given(place_order, PlaceOrder(pieces=1), work=work)
    await run.starts()
    for _ in range(3):
        await run.when_done()
    assert not run.ended
    assert run.waits_seconds is not None

    closed[0] = False
    await run.when_paused()

    assert run.ended


async def test_what_was_expected_and_did_not_come_is_named() -> None:
    run = given(place_order, PlaceOrder(pieces=1))
    await run.starts()

    with pytest.raises(AssertionError, match="expected CapturePayment, it sent ReserveStock"):
        run.expect(CapturePayment)
    with pytest.raises(AssertionError, match="it has not completed"):
        run.expect_completed()
    with pytest.raises(AssertionError, match="it does not pause"):
        await run.when_paused()


async def test_what_stays_silent_is_asked_again_at_longer_and_longer_intervals() -> None:
    quick = Saga(
        "quick", PlaceOrder, step(ReserveStock, undo=None), pivot(CapturePayment, timeout=timedelta(seconds=5))
    )
    run = given(quick, PlaceOrder(pieces=1))
    await run.starts()
    await run.when_done()

    waits = [run.waits_seconds]
    for _ in range(5):
        await run.when_silent()
        waits.append(run.waits_seconds)

    assert waits == [5, 10, 20, 30, 30, 30]
