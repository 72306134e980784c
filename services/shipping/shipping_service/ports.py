"""What shipping needs of a carrier."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from shipping_service.domain import OrderId


@dataclass(frozen=True, slots=True)
class Parcel:
    """What is carried, and which way. `reference` is our own name for it, so that a lost answer does not lose it."""

    reference: str
    order_id: OrderId
    kind: Literal["shipment", "return"]
    pieces: int


@dataclass(frozen=True, slots=True)
class Booked:
    """The carrier carries it, under this number."""

    tracking_number: str


@dataclass(frozen=True, slots=True)
class Declined:
    """The carrier definitely does not carry it."""

    reason: str


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """What the carrier says of a parcel now, and since when that is so."""

    status: Literal["accepted", "cancelled"]
    since: datetime


class Carrier(Protocol):
    """A carrier of parcels.

    `key` makes a repeated call harmless: the carrier does a thing once for each key, and answers a repeated call as it
    answered the first. Every method raises Unavailable when it is not known whether the thing was done; the
    call is then to be repeated with the same key.
    """

    async def book(self, parcel: Parcel, key: str) -> Booked | Declined:
        """Have a parcel carried. Declined when its reference was cancelled before."""
        ...

    async def cancel(self, parcel: Parcel, key: str) -> None:
        """Take back what was booked under its reference, and decline what would be booked from now on."""
        ...

    async def where_is(self, tracking_number: str) -> Whereabouts | None:
        """Return where a parcel is; None when the carrier knows no such number."""
        ...
