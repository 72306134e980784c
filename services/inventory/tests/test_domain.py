"""The rules of products and reservations."""

from __future__ import annotations

import pytest
from inventory_service.domain import (
    Line,
    Money,
    OrderId,
    Product,
    ProductId,
    Reservation,
    ReservationStatus,
    distinct,
    refusal_of_repeated,
    shortage,
)

from covey.errors import Invalid
from covey.ids import new_id

MUG = Product(ProductId(new_id()), "Mug", Money(1_250, "EUR"))


def reservation(status: ReservationStatus, reason: str | None = None) -> Reservation:
    return Reservation(OrderId(new_id()), status, reason)


def test_a_change_counts_the_version_up() -> None:
    changed = MUG.changed("Big mug", Money(1_500, "EUR"))

    assert (changed.id, changed.name, changed.price.amount, changed.version) == (MUG.id, "Big mug", 1_500, 2)


def test_a_blank_name_is_refused() -> None:
    with pytest.raises(Invalid):
        Product(ProductId(new_id()), "   ", Money(1, "EUR"))


@pytest.mark.parametrize(("amount", "currency"), [(-1, "EUR"), (10**12 + 1, "EUR"), (1, "eur"), (1, "EURO")])
def test_money_is_not_negative_and_has_a_currency(amount: int, currency: str) -> None:
    with pytest.raises(ValueError):
        Money(amount, currency)


@pytest.mark.parametrize("quantity", [0, -1, 10**9 + 1])
def test_a_quantity_is_at_least_one_and_within_reason(quantity: int) -> None:
    with pytest.raises(ValueError):
        Line(MUG.id, quantity)


def test_lines_of_one_product_are_not_taken_for_two() -> None:
    with pytest.raises(ValueError, match="same product"):
        distinct((Line(MUG.id, 1), Line(MUG.id, 2)))


def test_a_reservation_has_at_least_one_line() -> None:
    with pytest.raises(ValueError, match="no lines"):
        distinct(())


def test_a_request_that_is_repeated_is_answered_as_the_first_was() -> None:
    assert refusal_of_repeated(reservation(ReservationStatus.HELD)) is None
    assert refusal_of_repeated(reservation(ReservationStatus.SOLD)) is None
    assert refusal_of_repeated(reservation(ReservationStatus.REFUSED, "out of stock")) == "out of stock"


def test_a_request_that_comes_after_its_release_is_refused() -> None:
    assert refusal_of_repeated(reservation(ReservationStatus.RELEASED)) is not None


def test_the_reason_of_a_shortage_names_what_is_short_and_nothing_else() -> None:
    unknown, teapot = ProductId(new_id()), ProductId(new_id())
    lines = [Line(MUG.id, 2), Line(teapot, 3), Line(unknown, 1)]

    reason = shortage(lines, {MUG.id: ("Mug", 5), teapot: ("Teapot", 1)})

    assert reason == f"out of stock: 3 × Teapot wanted, 1 free; there is no product {unknown}"
