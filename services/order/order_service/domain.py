"""An order: what was bought at which price, and what has become of it.

    pending ──→ confirmed
       ├──────→ rejected    (a step was refused, or did not answer in time)
       └──────→ cancelled   (somebody asked for it before the money was taken)

Pure: no I/O and no clock. A change that the present state does not allow raises Conflict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NewType, assert_never
from uuid import UUID

from covey.errors import Conflict, Invalid

OrderId = NewType("OrderId", UUID)
UserId = NewType("UserId", UUID)
ProductId = NewType("ProductId", UUID)

MAX_LINES = 50
MAX_QUANTITY = 1_000


@dataclass(frozen=True, slots=True)
class Money:
    """An amount in minor units (cents) of an ISO 4217 currency."""

    amount: int
    currency: str


@dataclass(frozen=True, slots=True)
class Product:
    """What order knows of a product. Inventory owns it, and counts its changes in `version`."""

    id: ProductId
    name: str
    price: Money
    version: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a customer asks for."""

    product_id: ProductId
    quantity: int


@dataclass(frozen=True, slots=True)
class Line:
    """What a customer has ordered, at the price of that moment."""

    product_id: ProductId
    quantity: int
    unit_price: Money


@dataclass(frozen=True, slots=True)
class Pending:
    """The saga is under way. `cancelling` is the reason given by who has asked to cancel."""

    cancelling: str | None = None


@dataclass(frozen=True, slots=True)
class Confirmed:
    """Paid for and sold."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """Could not be fulfilled; nothing is charged and nothing reserved."""

    reason: str


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Called off in time; nothing is charged and nothing reserved."""

    reason: str


State = Pending | Confirmed | Rejected | Cancelled


@dataclass(frozen=True, slots=True)
class Order:
    """One order with all of its lines, of which there is one at least."""

    id: OrderId
    user_id: UserId
    lines: tuple[Line, ...]
    total: Money
    state: State = Pending()


def place(
    order_id: OrderId, user_id: UserId, wanted: Sequence[Wanted], catalogue: Mapping[ProductId, Product]
) -> Order:
    """Make a pending order at the prices of `catalogue`.

    Raises Invalid for products that are not in it, naming each line, and for prices in several currencies.
    """
    _require_known(wanted, catalogue)
    lines = tuple(Line(w.product_id, w.quantity, catalogue[w.product_id].price) for w in wanted)
    return Order(order_id, user_id, lines, _total(lines))


def confirm(order: Order) -> Order:
    """Confirm a pending order; a confirmed one stays as it is."""
    match order.state:
        case Pending() | Confirmed():
            return replace(order, state=Confirmed())
        case Rejected() | Cancelled():
            raise _contradiction(order, "confirmed")
        case _:
            assert_never(order.state)


def give_up(order: Order, reason: str) -> Order:
    """End a pending order: cancelled if that was asked for, else rejected. One that was given up stays as it is."""
    match order.state:
        case Pending(cancelling=asked):
            return replace(order, state=Rejected(reason) if asked is None else Cancelled(asked))
        case Rejected() | Cancelled():
            return order
        case Confirmed():
            raise _contradiction(order, "given up")
        case _:
            assert_never(order.state)


def ask_to_cancel(order: Order, reason: str) -> Order:
    """Note that a pending order is to be cancelled; asking again changes nothing."""
    match order.state:
        case Pending(cancelling=None):
            return replace(order, state=Pending(cancelling=reason))
        case Pending() | Cancelled():
            return order
        case Confirmed() | Rejected():
            raise _contradiction(order, "cancelled")
        case _:
            assert_never(order.state)


def status_of(state: State) -> str:
    """Return the state's name as it is shown and stored."""
    return type(state).__name__.lower()


def _require_known(wanted: Sequence[Wanted], catalogue: Mapping[ProductId, Product]) -> None:
    errors = [
        {
            "in": "body",
            "pointer": f"#/lines/{n}/product_id",
            "what": "there is no such product",
            "rule": "known_product",
        }
        for n, line in enumerate(wanted)
        if line.product_id not in catalogue
    ]
    if errors:
        raise Invalid("a product of this order is unknown", errors)


def _total(lines: Sequence[Line]) -> Money:
    currencies = {line.unit_price.currency for line in lines}
    if len(currencies) > 1:
        raise Invalid(f"an order is paid in one currency, and its products cost {' and '.join(sorted(currencies))}")
    return Money(sum(line.quantity * line.unit_price.amount for line in lines), currencies.pop())


def _contradiction(order: Order, wish: str) -> Conflict:
    return Conflict(f"order {order.id} is {status_of(order.state)} and can no longer be {wish}")
