"""A shipment: the goods of one order on their way to the customer; and returns: goods of it that come back.

    shipment   booking ──→ booked ──→ in_transit ──→ delivered      and `returned` once all of it is back
    return     receiving ──→ received ──→ cancelling ──→ cancelled
                   ├──────→ refused           ↑
                   └──────────────────────────┘

The states in -ing are intents: committed before the carrier is asked, and left only with its definite answer.
Each `to_…` function says what a request means in the present state; the others apply the carrier's answer.
Pure: no I/O and no clock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import chain
from typing import Generic, NewType, TypeVar, assert_never
from uuid import UUID

from covey.errors import Conflict

OrderId = NewType("OrderId", UUID)
UserId = NewType("UserId", UUID)
ProductId = NewType("ProductId", UUID)
ShipmentId = NewType("ShipmentId", UUID)
ReturnId = NewType("ReturnId", UUID)

MAX_QUANTITY = 10**9

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Line:
    """A product and how many pieces of it: at least one."""

    product_id: ProductId
    quantity: int

    def __post_init__(self) -> None:
        if not 1 <= self.quantity <= MAX_QUANTITY:
            raise ValueError(f"a quantity is between 1 and {MAX_QUANTITY}")


class Progress(StrEnum):
    """How far a shipment has come. It only ever goes on, in this order; the carrier may leave one out."""

    BOOKING = "booking"
    BOOKED = "booked"
    IN_TRANSIT = "in_transit"
    DELIVERED = "delivered"


@dataclass(frozen=True, slots=True)
class Shipment:
    """The goods of one order. `version` counts the changes of its status; `returned`: all of it has come back."""

    id: ShipmentId
    order_id: OrderId
    user_id: UserId
    lines: tuple[Line, ...]
    progress: Progress = Progress.BOOKING
    tracking_number: str | None = None
    returned: bool = False
    version: int = 0

    @property
    def status(self) -> str:
        """Return what is shown of it."""
        return "returned" if self.returned else self.progress


class ReturnStatus(StrEnum):
    """Where a return stands."""

    RECEIVING = "receiving"
    RECEIVED = "received"
    REFUSED = "refused"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Return:
    """Goods of an order that come back. Cancelled without lines: it was given up before it was asked for."""

    id: ReturnId
    order_id: OrderId
    lines: tuple[Line, ...]
    status: ReturnStatus
    tracking_number: str | None = None
    reason: str | None = None

    @property
    def claims(self) -> bool:
        """Tell whether its pieces are back or may be: until they definitely are not, nobody else can return them."""
        return self.status in (ReturnStatus.RECEIVING, ReturnStatus.RECEIVED, ReturnStatus.CANCELLING)


@dataclass(frozen=True, slots=True)
class Ask(Generic[T]):
    """Commit this, then ask the carrier."""

    subject: T


@dataclass(frozen=True, slots=True)
class Known(Generic[T]):
    """It is done, and the carrier need not be asked."""

    subject: T


@dataclass(frozen=True, slots=True)
class No:
    """It will not be done."""

    reason: str


def pieces(lines: Collection[Line]) -> int:
    """Return how many pieces these lines are together."""
    return sum(line.quantity for line in lines)


def distinct(lines: tuple[Line, ...]) -> tuple[Line, ...]:
    """Return the lines, of which there is one at least; raises ValueError when two are of the same product."""
    if not lines:
        raise ValueError("there are no lines")
    if len({line.product_id for line in lines}) < len(lines):
        raise ValueError("two lines are of the same product; add their quantities")
    return lines


def to_ship(
    found: Shipment | None, shipment_id: ShipmentId, order_id: OrderId, user_id: UserId, lines: tuple[Line, ...]
) -> Ask[Shipment] | Known[Shipment]:
    """Have the goods of an order carried: there is one shipment for each order."""
    if found is None:
        return Ask(Shipment(shipment_id, order_id, user_id, lines))
    return Ask(found) if found.progress is Progress.BOOKING else Known(found)


def booked(shipment: Shipment, tracking_number: str) -> Shipment:
    """The carrier will carry it."""
    if shipment.progress is not Progress.BOOKING:
        raise Conflict(f"the shipment of order {shipment.order_id} is {shipment.status}, and was to be booked")
    return replace(shipment, progress=Progress.BOOKED, tracking_number=tracking_number, version=shipment.version + 1)


def moved_on(shipment: Shipment, progress: Progress) -> Shipment:
    """The carrier says how far it is. The same news again changes nothing; Conflict if it would go backwards."""
    stages = list(Progress)
    if shipment.progress is Progress.BOOKING:
        raise Conflict(f"shipment {shipment.id} is not booked yet, so it cannot be {progress}")
    if stages.index(progress) < stages.index(shipment.progress):
        raise Conflict(f"shipment {shipment.id} is {shipment.progress} and cannot go back to {progress}")
    return _counted(shipment, replace(shipment, progress=progress))


def with_returns(shipment: Shipment, returns: Collection[Return]) -> Shipment:
    """Return the shipment in view of its returns: it is returned as a whole while all of its pieces are back."""
    back = _sum(one.lines for one in returns if one.status is ReturnStatus.RECEIVED)
    whole = all(back[line.product_id] == line.quantity for line in shipment.lines)
    return _counted(shipment, replace(shipment, returned=whole))


def to_receive(
    shipment: Shipment | None, returns: Collection[Return], return_id: ReturnId, wanted: tuple[Line, ...]
) -> Ask[Return] | Known[Return] | No:
    """Take goods back: no more than was shipped and is not on its way back, or back, already.

    `returns` are all of the order, this one too if it was asked for before.
    """
    found = next((one for one in returns if one.id == return_id), None)
    if found is not None:
        return _to_receive_again(found)
    if shipment is None or shipment.progress is Progress.BOOKING:
        return No("nothing was shipped for this order")
    there = _sum([shipment.lines]) - _sum(one.lines for one in returns if one.claims)
    missing = [line for line in wanted if line.quantity > there[line.product_id]]
    if missing:
        said = "; ".join(f"{line.quantity} × {line.product_id}, {there[line.product_id]} are" for line in missing)
        return No(f"more than was shipped and can come back: {said}")
    return Ask(Return(return_id, shipment.order_id, wanted, ReturnStatus.RECEIVING))


def to_cancel(found: Return | None, return_id: ReturnId, order_id: OrderId) -> Ask[Return] | Known[Return]:
    """Give up a return that was received, may have been, or ever will be. Never refused.

    One that was never asked for leaves a tombstone, which refuses a request that comes later.
    """
    if found is None:
        return Known(Return(return_id, order_id, (), ReturnStatus.CANCELLED))
    match found.status:
        case ReturnStatus.RECEIVING | ReturnStatus.RECEIVED | ReturnStatus.CANCELLING:
            return Ask(replace(found, status=ReturnStatus.CANCELLING))
        case ReturnStatus.REFUSED | ReturnStatus.CANCELLED:
            return Known(found)
        case _:
            assert_never(found.status)


def received(one: Return, tracking_number: str) -> Return:
    """The carrier has brought the goods back."""
    _require(one, ReturnStatus.RECEIVING)
    return replace(one, status=ReturnStatus.RECEIVED, tracking_number=tracking_number)


def refused(one: Return, reason: str) -> Return:
    """The carrier does not bring the goods back."""
    _require(one, ReturnStatus.RECEIVING)
    return replace(one, status=ReturnStatus.REFUSED, reason=reason)


def cancelled(one: Return) -> Return:
    """The goods are, or stay, with the customer."""
    _require(one, ReturnStatus.CANCELLING)
    return replace(one, status=ReturnStatus.CANCELLED)


def _to_receive_again(found: Return) -> Ask[Return] | Known[Return] | No:
    match found.status:
        case ReturnStatus.RECEIVING:
            return Ask(found)
        case ReturnStatus.RECEIVED:
            return Known(found)
        case ReturnStatus.REFUSED:
            return No(found.reason or "refused")
        case ReturnStatus.CANCELLING | ReturnStatus.CANCELLED:
            return No("the return was given up before the goods were received")
        case _:
            assert_never(found.status)


def _counted(before: Shipment, after: Shipment) -> Shipment:
    """Count a change of what is shown."""
    return after if after.status == before.status else replace(after, version=before.version + 1)


def _sum(several: Iterable[tuple[Line, ...]]) -> Counter[ProductId]:
    """Add up lines by product."""
    sums: Counter[ProductId] = Counter()
    for line in chain.from_iterable(several):
        sums[line.product_id] += line.quantity
    return sums


def _require(one: Return, waiting: ReturnStatus) -> None:
    """Raise unless the return waits for this answer: an answer that nobody waits for must not undo a later state."""
    if one.status is not waiting:
        raise Conflict(f"return {one.id} is {one.status}, and was to be {waiting}")
