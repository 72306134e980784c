"""Products and their stock: every piece is free, reserved for an order, or sold.

    received = free + reserved + sold

A reservation is for one order, and takes all of its lines or none. It is held until the order is confirmed
(then it is sold) or given up (then it is released). Pieces that were sold and come back are free again; the reservation
stays sold. Pure: no I/O and no clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NewType, assert_never
from uuid import UUID

from covey.errors import Invalid

ProductId = NewType("ProductId", UUID)
OrderId = NewType("OrderId", UUID)

MAX_PRICE = 10**12
MAX_NAME_LENGTH = 200

NOT_BLANK = r"[^\s\x1c-\x1f\x85]"
"""A character that is a space in none of the dialects of patterns: OpenAPI's, pydantic's, Python's."""

MAX_QUANTITY = 10**9


@dataclass(frozen=True, slots=True)
class Money:
    """An amount in minor units (cents) of an ISO 4217 currency."""

    amount: int
    currency: str

    def __post_init__(self) -> None:
        if not 0 <= self.amount <= MAX_PRICE:
            raise ValueError(f"an amount is between 0 and {MAX_PRICE} minor units")
        if not (len(self.currency) == 3 and self.currency.isascii() and self.currency.isupper()):
            raise ValueError("a currency is three capital letters (ISO 4217), such as EUR")


@dataclass(frozen=True, slots=True)
class Product:
    """What is sold. `version` counts its changes, so that a reader can tell an older state from a newer one."""

    id: ProductId
    name: str
    price: Money
    version: int = 1

    def __post_init__(self) -> None:
        if not self.name.strip() or len(self.name) > MAX_NAME_LENGTH:
            raise Invalid(f"a product's name has 1 to {MAX_NAME_LENGTH} characters and is not blank")

    def changed(self, name: str, price: Money) -> Product:
        """Return the next version."""
        return replace(self, name=name, price=price, version=self.version + 1)


@dataclass(frozen=True, slots=True)
class Line:
    """A product and how many pieces of it: at least one."""

    product_id: ProductId
    quantity: int

    def __post_init__(self) -> None:
        if not 1 <= self.quantity <= MAX_QUANTITY:
            raise ValueError(f"a quantity is between 1 and {MAX_QUANTITY}")


@dataclass(frozen=True, slots=True)
class Stock:
    """Where the pieces of a product are."""

    product_id: ProductId
    received: int
    free: int
    reserved: int
    sold: int


class ReservationStatus(StrEnum):
    """What has become of a reservation. Only `HELD` can still change, into `SOLD` or `RELEASED`."""

    HELD = "held"
    SOLD = "sold"
    RELEASED = "released"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Reservation:
    """The pieces set aside for an order. Released without lines: it was given up before it was made (a tombstone)."""

    order_id: OrderId
    status: ReservationStatus
    reason: str | None = None
    lines: tuple[Line, ...] = ()


def distinct(lines: tuple[Line, ...]) -> tuple[Line, ...]:
    """Return the lines, of which there is one at least; raises ValueError when two are of the same product."""
    if not lines:
        raise ValueError("there are no lines")
    if len({line.product_id for line in lines}) < len(lines):
        raise ValueError("two lines are of the same product; add their quantities")
    return lines


def refusal_of_repeated(found: Reservation) -> str | None:
    """Say why a request is refused in view of the reservation that exists; None: that one stands, all is done."""
    match found.status:
        case ReservationStatus.HELD | ReservationStatus.SOLD:
            return None
        case ReservationStatus.RELEASED:
            return "the reservation was given up before it was made"
        case ReservationStatus.REFUSED:
            return found.reason
        case _:
            assert_never(found.status)


def shortage(lines: Sequence[Line], known: Mapping[ProductId, tuple[str, int]]) -> str:
    """Say which lines could not be reserved. `known` gives the name and the free pieces of each product there is."""
    missing = [_missing(line, known.get(line.product_id)) for line in lines]
    return "out of stock: " + "; ".join(text for text in missing if text)


def _missing(line: Line, known: tuple[str, int] | None) -> str | None:
    if known is None:
        return f"there is no product {line.product_id}"
    name, free = known
    return f"{line.quantity} × {name} wanted, {free} free" if free < line.quantity else None
