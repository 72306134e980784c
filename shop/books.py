"""What the shop's services have on their books, and who is outside on theirs. `shop.reading` reads them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from uuid import UUID

SERVICES = ("order", "inventory", "payment", "shipping", "user", "notification")

# Who handles which event; commands and replies go to the service whose stream they are in.
SUBSCRIBERS = {
    "order.confirmed.v1": "inventory",
    "inventory.product-changed.v1": "order",
    "shipping.shipment-changed.v1": "order",
    "user.changed.v1": "notification",
}


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Where the books are: the URL of each service's database, and those of provider, carrier and mail server, which
    all show theirs over HTTP.
    """

    databases: dict[str, str]
    provider: str
    carrier: str
    mail: str


@dataclass(frozen=True, kw_only=True)
class Order:
    """An order, the status of its saga, and how often each type of event was published about it.

    The outbox forgets after a week: `remembered` tells whether it still has all events about this order. `shipped`: its
    saga is of a version that ships, and writes to the customer.
    """

    id: UUID
    user_id: UUID
    status: str
    reason: str | None
    total: int
    currency: str
    lines: dict[UUID, int]
    saga: str | None
    shipped: bool = True
    remembered: bool = True
    events: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, kw_only=True)
class Money:
    """What was moved for one order, in minor units, and in how many movements each."""

    authorized: int = 0
    captured: int = 0
    voided: int = 0
    refunded: int = 0
    captures: int = 0


@dataclass(frozen=True, kw_only=True)
class Refund:
    """Money that payment has returned, or was asked to."""

    order_id: UUID
    amount: int
    status: str


@dataclass(frozen=True, kw_only=True)
class Invoice:
    """What payment has invoiced for an order, and what its credit notes come to."""

    amount: int
    credited: int


@dataclass(frozen=True, kw_only=True)
class Return:
    """A return as a service has it: order, that somebody wants it; shipping, that the goods came; inventory, that they
    are free again. `saga` and `amount` are known to order alone.
    """

    order_id: UUID
    lines: dict[UUID, int]
    status: str = ""
    amount: int = 0
    saga: str | None = None


@dataclass(frozen=True, kw_only=True)
class Carried:
    """What the carrier has booked for one order and not cancelled: parcels to the customer, and pieces either way."""

    shipments: int = 0
    shipped: int = 0
    returned: int = 0


@dataclass(frozen=True, kw_only=True)
class Reservation:
    """What inventory has set aside for an order, and how much of it was sold and came back."""

    status: str
    lines: dict[UUID, int]
    restocked: dict[UUID, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Stock:
    """Where the pieces of a product are."""

    received: int
    free: int
    reserved: int
    sold: int


@dataclass(frozen=True, kw_only=True)
class User:
    """A user: as the user service has them, or notification's copy. `address` is None when the account is closed."""

    version: int
    address: str | None = field(repr=False)
    wants_order_mail: bool


@dataclass(frozen=True, kw_only=True)
class Confirmation:
    """The mail about an order as notification has it; `attempts` is how often it may have been handed over."""

    id: UUID
    status: str
    reason: str | None
    attempts: int


@dataclass(frozen=True, kw_only=True)
class Letter:
    """A mail as it has arrived at the mail server. `sent_as` is the id in its Message-ID."""

    sent_as: str
    to: str = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Hold:
    """A key in a service that does not move."""

    service: str
    key: str
    state: str
    error: str | None


@dataclass(frozen=True, kw_only=True)
class Books:
    """Everything, at about one moment: certain only when nothing moves any more.

    Returns, refunds, goods that came back and restocks are by the return's id, users and `recipients`, which are
    notification's copy of them, by the user's, all else by that of the order (or product). `shipments` are the statuses
    that shipping knows. `accepted` are orders that were answered with 201, as the client remembers them.
    """

    orders: dict[UUID, Order]
    payments: dict[UUID, Money]
    provider: dict[str, Money]
    reservations: dict[UUID, Reservation]
    stocks: dict[UUID, Stock]
    shipments: dict[UUID, str]
    carrier: dict[str, Carried]
    returns: dict[UUID, Return]
    goods: dict[UUID, Return]
    refunds: dict[UUID, Refund]
    restocks: dict[UUID, Return]
    invoices: dict[UUID, Invoice]
    users: dict[UUID, User]
    recipients: dict[UUID, User]
    confirmations: dict[UUID, list[Confirmation]]
    letters: dict[str, list[Letter]]
    waiting: dict[str, int]
    holds: list[Hold]
    undelivered: dict[str, int]
    accepted: frozenset[UUID] = frozenset()
