"""Many customers at once, with orders of several outcomes, and the audit of all that came of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import cycle, islice
from uuid import UUID

from shop.auditor import audit
from tests.harness.customer import Customer
from tests.harness.ledger import Ledger
from tests.harness.outcomes import OUTCOMES, Outcome
from tests.harness.shop import Shop

QUICK = tuple(
    one
    for one in OUTCOMES
    if not (one.overdue or one.busy or one.cancels or one.returns or one.registers or one.carrier)
    and not (one.mail_down or one.stranger or one.unsubscribes or one.gives_up)
)
"""The outcomes that need nobody but the customer."""

AT_ONCE = 8


class Crowd:
    """Customers of one shop. `accepted` are the orders that were answered with 201."""

    def __init__(self, shop: Shop, ledger: Ledger) -> None:
        self._shop = shop
        self._ledger = ledger
        self._customers: list[Customer] = []
        self.accepted: list[UUID] = []

    async def order(self, number: int, outcomes: Sequence[Outcome] = QUICK) -> None:
        """Place so many orders, a few at a time, of all these outcomes in turn; return when all are accepted.

        Everybody opens an account before the first one orders.
        """
        customers = [Customer(self._shop, self._ledger, outcome) for outcome in islice(cycle(outcomes), number)]
        self._customers += customers
        places = asyncio.Semaphore(AT_ONCE)
        await asyncio.gather(*(self._register(customer, places) for customer in customers))
        await asyncio.gather(*(self._order(customer, places) for customer in customers))

    async def settle(self, within_seconds: float | None = None) -> None:
        """Wait until every order is settled and nothing moves; raise AssertionError if anything is not as it should be.

        The wait suits the crowd: 30 s, and a second for every five orders. An order may have been rejected where it
        would have been confirmed, if a step of it has run out of time.
        """
        patience = within_seconds or 30.0 + len(self._customers) / 5
        found = await audit(self._shop.sources, self.accepted, within_seconds=patience)
        assert not found.violations, "\n".join([*found.summary(), *found.violations])
        assert len(found.books.orders) == len(self._customers)
        for customer in self._customers:
            order = await self._ledger.order_of(customer.user_id)
            assert order is not None
            late = order.status == "rejected" and "in time" in (order.reason or "")
            assert late or customer.expects(order), f"order {order.id} is {order.status} ({order.reason})"

    async def _register(self, customer: Customer, places: asyncio.Semaphore) -> None:
        async with places:
            await customer.register()

    async def _order(self, customer: Customer, places: asyncio.Semaphore) -> None:
        async with places:
            self.accepted.append(await customer.place())
