"""An order: what was bought at which price, and what has become of it.

    pending ──→ confirmed
       ├──────→ rejected    (a step was refused, or did not answer in time)
       └──────→ cancelled   (somebody asked for it before the money was taken)

What was bought can be returned, in parts or as a whole:

    requested ──→ completed
        └───────→ refused     (the goods were not accepted, or the money was not returned)

Pure: no I/O and no clock. A change that the present state does not allow raises Conflict.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NewType, assert_never
from uuid import UUID

from covey.errors import Conflict, Invalid

OrderId = NewType("OrderId", UUID)
UserId = NewType("UserId", UUID)
ProductId = NewType("ProductId", UUID)
ReturnId = NewType("ReturnId", UUID)
ShipmentId = NewType("ShipmentId", UUID)

MAX_LINES = 50
MAX_QUANTITY = 1_000
MAX_REFUSED_RETURNS = 20
"""A return that was refused may be asked for again, but not for ever: all of an order's are read each time."""


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


@dataclass(frozen=True, slots=True)
class ReturnRequested:
    """The saga is under way: goods, money and stock are on their way back, and these pieces are spoken for."""


@dataclass(frozen=True, slots=True)
class ReturnCompleted:
    """The goods are back, and so is the money."""


@dataclass(frozen=True, slots=True)
class ReturnRefused:
    """Nothing came back, neither goods nor money: the pieces can be returned another time."""

    reason: str


ReturnState = ReturnRequested | ReturnCompleted | ReturnRefused


@dataclass(frozen=True, slots=True)
class Return:
    """Pieces of an order that come back, for what was paid for them. `reason` is the customer's."""

    id: ReturnId
    lines: tuple[Wanted, ...]
    amount: Money
    reason: str
    state: ReturnState = ReturnRequested()


@dataclass(frozen=True, slots=True)
class Shipment:
    """What order knows of a shipment. Shipping owns it, and counts its changes in `version`."""

    id: ShipmentId
    order_id: OrderId
    status: str
    tracking_number: str | None
    version: int


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


def take_back(
    order: Order, returns: Collection[Return], return_id: ReturnId, wanted: Sequence[Wanted] | None, reason: str
) -> Return:
    """Accept a return of so many pieces (None: of all that are left), at the prices that were paid for them.

    `returns` are all that there are of this order. Raises Conflict when the order is not confirmed, when it has too
    many that were refused, and when more is wanted than was ordered and is neither back nor on its way; Invalid for
    products that are not in the order, naming each line.
    """
    if not isinstance(order.state, Confirmed):
        raise Conflict(f"order {order.id} is {status_of(order.state)}, and only a confirmed one can be returned")
    if sum(isinstance(one.state, ReturnRefused) for one in returns) >= MAX_REFUSED_RETURNS:
        raise Conflict(f"order {order.id}: {MAX_REFUSED_RETURNS} returns were refused; ask customer service")
    left = _left(order, returns)
    if wanted is None:
        wanted = [Wanted(product_id, quantity) for product_id, quantity in left.items() if quantity]
    _require_ordered(wanted, left)
    if not wanted:
        raise Conflict(f"order {order.id}: everything is returned, or on its way back")
    for line in wanted:
        if line.quantity > left[line.product_id]:
            have = f"{left[line.product_id]} of product {line.product_id} can"
            raise Conflict(f"order {order.id}: {line.quantity} cannot be returned, {have}")
    prices = {line.product_id: line.unit_price.amount for line in order.lines}
    amount = sum(line.quantity * prices[line.product_id] for line in wanted)
    return Return(return_id, tuple(wanted), Money(amount, order.total.currency), reason)


def complete_return(one: Return) -> Return:
    """Note that goods and money are back; a return of which that is noted stays as it is."""
    match one.state:
        case ReturnRequested() | ReturnCompleted():
            return replace(one, state=ReturnCompleted())
        case ReturnRefused():
            raise Conflict(f"return {one.id} was refused and cannot be completed")
        case _:
            assert_never(one.state)


def refuse_return(one: Return, reason: str) -> Return:
    """Note that a return has come to nothing; one of which that is noted stays as it is."""
    match one.state:
        case ReturnRequested():
            return replace(one, state=ReturnRefused(reason))
        case ReturnRefused():
            return one
        case ReturnCompleted():
            raise Conflict(f"return {one.id} is completed and cannot be refused")
        case _:
            assert_never(one.state)


def return_status_of(state: ReturnState) -> str:
    """Return the state's name as it is shown and stored."""
    return type(state).__name__.removeprefix("Return").lower()


def status_of(state: State) -> str:
    """Return the state's name as it is shown and stored."""
    return type(state).__name__.lower()


def _require_known(wanted: Sequence[Wanted], catalogue: Mapping[ProductId, Product]) -> None:
    errors = _not_among(wanted, catalogue, "there is no such product", "known_product")
    if errors:
        raise Invalid("a product of this order is unknown", errors)


def _require_ordered(wanted: Sequence[Wanted], ordered: Collection[ProductId]) -> None:
    errors = _not_among(wanted, ordered, "the order has no such product", "ordered_product")
    if errors:
        raise Invalid("a product of this return was not ordered", errors)


def _not_among(wanted: Sequence[Wanted], products: Collection[ProductId], what: str, rule: str) -> list[dict[str, str]]:
    return [
        {"in": "body", "pointer": f"#/lines/{n}/product_id", "what": what, "rule": rule}
        for n, line in enumerate(wanted)
        if line.product_id not in products
    ]


def _left(order: Order, returns: Collection[Return]) -> dict[ProductId, int]:
    """Return how many pieces of each product are neither back nor on their way back."""
    gone: Counter[ProductId] = Counter()
    for one in returns:
        if not isinstance(one.state, ReturnRefused):
            gone.update({line.product_id: line.quantity for line in one.lines})
    return {line.product_id: line.quantity - gone[line.product_id] for line in order.lines}


def _total(lines: Sequence[Line]) -> Money:
    currencies = {line.unit_price.currency for line in lines}
    if len(currencies) > 1:
        raise Invalid(f"an order is paid in one currency, and its products cost {' and '.join(sorted(currencies))}")
    return Money(sum(line.quantity * line.unit_price.amount for line in lines), currencies.pop())


def _contradiction(order: Order, wish: str) -> Conflict:
    return Conflict(f"order {order.id} is {status_of(order.state)} and can no longer be {wish}")
