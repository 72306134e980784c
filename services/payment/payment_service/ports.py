"""What payment needs of a payment provider."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from payment_service.domain import Money


@dataclass(frozen=True, slots=True)
class Approved:
    """The provider has done it. `amount` is in minor units."""

    amount: int


@dataclass(frozen=True, slots=True)
class Voided:
    """The provider has given up `amount`; `authorized` is all that it had put aside under the reference."""

    authorized: int
    amount: int


@dataclass(frozen=True, slots=True)
class Declined:
    """The provider has definitely not done it, and will not."""

    reason: str


class Provider(Protocol):
    """A payment provider.

    `reference` is our name for a payment. `key` makes a repeated call harmless: the provider does a thing once for
    each key, and answers a repeated call as it answered the first. Every method raises Unavailable when
    it is not known whether the thing was done; the call is then to be repeated with the same key.
    """

    async def authorize(self, reference: str, amount: Money, token: str, key: str) -> Approved | Declined:
        """Put an amount aside. Declined when the reference was voided before."""
        ...

    async def capture(self, reference: str, amount: Money, key: str) -> Approved | Declined:
        """Take an amount that was put aside."""
        ...

    async def void(self, reference: str, key: str) -> Voided:
        """Give up what is put aside, and decline what would be authorized under this reference from now on."""
        ...

    async def refund(self, reference: str, amount: Money, key: str) -> Approved | Declined:
        """Return an amount of what was taken, all of it or a part."""
        ...
