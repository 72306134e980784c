"""The rules of shipments and returns."""

from __future__ import annotations

from dataclasses import replace

import pytest
from shipping_service.domain import (
    Ask,
    Known,
    Line,
    No,
    OrderId,
    ProductId,
    Progress,
    Return,
    ReturnId,
    ReturnStatus,
    Shipment,
    ShipmentId,
    UserId,
    booked,
    cancelled,
    distinct,
    moved_on,
    pieces,
    received,
    refused,
    to_cancel,
    to_receive,
    to_ship,
    with_returns,
)

from covey.errors import Conflict
from covey.ids import new_id

ORDER, USER, MUG, TEAPOT = OrderId(new_id()), UserId(new_id()), ProductId(new_id()), ProductId(new_id())
LINES = (Line(MUG, 2), Line(TEAPOT, 1))
BOOKING = Shipment(ShipmentId(new_id()), ORDER, USER, LINES)
BOOKED = booked(BOOKING, "SC1")
RETURN = ReturnId(new_id())


def coming_back(status: ReturnStatus, *lines: Line, return_id: ReturnId | None = None) -> Return:
    return Return(return_id or ReturnId(new_id()), ORDER, lines or LINES, status)


def test_there_is_one_shipment_for_each_order() -> None:
    assert to_ship(None, BOOKING.id, ORDER, USER, LINES) == Ask(BOOKING)
    assert to_ship(BOOKING, ShipmentId(new_id()), ORDER, USER, LINES) == Ask(BOOKING)
    assert to_ship(BOOKED, ShipmentId(new_id()), ORDER, USER, LINES) == Known(BOOKED)


def test_what_is_booked_has_a_number_and_is_not_booked_again() -> None:
    assert (BOOKED.status, BOOKED.tracking_number, BOOKED.version) == ("booked", "SC1", 1)
    with pytest.raises(Conflict):
        booked(BOOKED, "SC2")


def test_a_shipment_only_goes_on() -> None:
    moving = moved_on(BOOKED, Progress.IN_TRANSIT)
    arrived = moved_on(moving, Progress.DELIVERED)

    assert [(one.status, one.version) for one in (moving, arrived)] == [("in_transit", 2), ("delivered", 3)]
    assert moved_on(arrived, Progress.DELIVERED) == arrived
    assert moved_on(BOOKED, Progress.DELIVERED).progress is Progress.DELIVERED
    with pytest.raises(Conflict, match="cannot go back to in_transit"):
        moved_on(arrived, Progress.IN_TRANSIT)


def test_what_is_not_booked_does_not_move() -> None:
    with pytest.raises(Conflict, match="not booked yet"):
        moved_on(BOOKING, Progress.IN_TRANSIT)


def test_what_was_shipped_can_be_received_in_parts() -> None:
    first = coming_back(ReturnStatus.RECEIVED, Line(MUG, 1))

    decision = to_receive(BOOKED, [first], RETURN, (Line(MUG, 1), Line(TEAPOT, 1)))

    assert decision == Ask(
        coming_back(ReturnStatus.RECEIVING, Line(MUG, 1), Line(TEAPOT, 1), return_id=RETURN),
    )


@pytest.mark.parametrize("shipment", [None, BOOKING], ids=["nothing", "not booked yet"])
def test_what_was_not_shipped_is_not_received(shipment: Shipment | None) -> None:
    assert to_receive(shipment, [], RETURN, LINES) == No("nothing was shipped for this order")


@pytest.mark.parametrize("status", [ReturnStatus.RECEIVING, ReturnStatus.RECEIVED, ReturnStatus.CANCELLING])
def test_pieces_that_are_back_or_may_be_are_not_received_again(status: ReturnStatus) -> None:
    decision = to_receive(BOOKED, [coming_back(status, Line(MUG, 1))], RETURN, (Line(MUG, 2),))

    assert decision == No(f"more than was shipped and can come back: 2 × {MUG}, 1 are")


@pytest.mark.parametrize("status", [ReturnStatus.REFUSED, ReturnStatus.CANCELLED])
def test_pieces_that_are_definitely_not_back_can_be_received(status: ReturnStatus) -> None:
    assert isinstance(to_receive(BOOKED, [coming_back(status)], RETURN, LINES), Ask)


def test_a_product_that_was_not_in_the_order_is_not_received() -> None:
    assert isinstance(to_receive(BOOKED, [], RETURN, (Line(ProductId(new_id()), 1),)), No)


# What each request means for a return in each state: a, ask the carrier; k, known to be done; n, refused.
TABLE = {
    #                         receive  cancel
    ReturnStatus.RECEIVING: ("a", "a"),
    ReturnStatus.RECEIVED: ("k", "a"),
    ReturnStatus.REFUSED: ("n", "k"),
    ReturnStatus.CANCELLING: ("n", "a"),
    ReturnStatus.CANCELLED: ("n", "k"),
}


@pytest.mark.parametrize("status", list(ReturnStatus))
def test_every_request_has_a_meaning_in_every_state(status: ReturnStatus) -> None:
    found = coming_back(status, return_id=RETURN)

    decisions = to_receive(BOOKED, [found], RETURN, LINES), to_cancel(found, RETURN, ORDER)

    assert tuple({Ask: "a", Known: "k", No: "n"}[type(one)] for one in decisions) == TABLE[status]


def test_a_cancellation_that_comes_first_leaves_a_tombstone_that_refuses_the_return() -> None:
    decision = to_cancel(None, RETURN, ORDER)

    assert isinstance(decision, Known)
    assert isinstance(to_receive(BOOKED, [decision.subject], RETURN, LINES), No)


def test_the_answers_of_the_carrier_settle_a_return() -> None:
    asked = coming_back(ReturnStatus.RECEIVING)

    assert received(asked, "SC2").status is ReturnStatus.RECEIVED
    assert refused(asked, "nobody there").reason == "nobody there"
    assert cancelled(replace(asked, status=ReturnStatus.CANCELLING)).status is ReturnStatus.CANCELLED


@pytest.mark.parametrize("status", [s for s in ReturnStatus if s is not ReturnStatus.RECEIVING])
def test_an_answer_that_nobody_waits_for_does_not_undo_a_later_state(status: ReturnStatus) -> None:
    with pytest.raises(Conflict):
        received(coming_back(status), "SC2")
    with pytest.raises(Conflict):
        refused(coming_back(status), "no")


def test_a_shipment_is_returned_while_all_of_it_is_back() -> None:
    some, rest = coming_back(ReturnStatus.RECEIVED, Line(MUG, 2)), coming_back(ReturnStatus.RECEIVED, Line(TEAPOT, 1))

    returned = with_returns(BOOKED, [some, rest])
    again = with_returns(returned, [some, replace(rest, status=ReturnStatus.CANCELLED)])

    assert with_returns(BOOKED, [some]) == BOOKED
    assert (returned.status, returned.version) == ("returned", 2)
    assert (again.status, again.version) == ("booked", 3)


def test_news_of_the_way_there_does_not_hide_that_it_is_back() -> None:
    returned = with_returns(BOOKED, [coming_back(ReturnStatus.RECEIVED)])

    late = moved_on(returned, Progress.DELIVERED)

    assert (late.status, late.version) == ("returned", returned.version)


def test_lines_are_of_different_products_and_at_least_one() -> None:
    assert pieces(distinct(LINES)) == 3
    for lines in ((), (Line(MUG, 1), Line(MUG, 2))):
        with pytest.raises(ValueError):
            distinct(lines)
    with pytest.raises(ValueError):
        Line(MUG, 0)
