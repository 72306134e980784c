"""Many customers at once, with orders of several outcomes, and the audit of all that came of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from itertools import cycle, islice
from uuid import UUID

from covey.testing.eventually import eventually
from shop.auditor import audit
from tests.harness.customer import Customer
from tests.harness.ledger import Found, Ledger
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

TERMINAL_SECONDS = 30.0
"""So long after all is well again every order has ended, once those before it have."""

ENDED_A_SECOND = 20
"""So many orders end in a second where three shops and their tests share two cores; one alone ends thrice that."""


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

    async def settle(self, within_seconds: float = TERMINAL_SECONDS) -> None:
        """Wait until every order is settled and nothing moves; raise AssertionError if anything is not as it should be.

        To be asked when whatever has disturbed the shop is over: every order has ended within `within_seconds` of that
        and the time that so many take. An order that was under way meanwhile may have been rejected where it would
        have been confirmed, if a step of it has run out of its time: how many depends on the machine, but not all. Of
        those that come afterwards, one of each outcome, none may. For all that follows (the parcel, the mail, what
        others hear) the wait suits the crowd: a second more for every five.
        """
        await self._all_have_ended(within_seconds)
        disturbed = list(self._customers)
        await self.order(len(QUICK))
        await self._all_have_ended(within_seconds)
        patience = within_seconds + len(self._customers) / 5
        found = await audit(self._shop.sources, self.accepted, within_seconds=patience)
        assert not found.violations, "\n".join([*found.summary(), *found.violations])
        assert len(found.books.orders) == len(self._customers)
        late = [order for customer in disturbed if _is_late(order := await self._ended(customer))]
        for customer in self._customers:
            order = await self._ended(customer)
            assert order in late or customer.expects(order), f"order {order.id} is {order.status} ({order.reason})"
        assert len(late) < len(disturbed), "every order has run out of time"

    async def _all_have_ended(self, within_seconds: float) -> None:
        within_seconds += len(self._customers) / ENDED_A_SECOND

        async def ended() -> bool:
            left = await self._ledger.pools["order"].fetchval("SELECT count(*) FROM orders WHERE status = 'pending'")
            assert left == 0, f"{left} of {len(self._customers)} orders have not ended in {within_seconds:g} s"
            return True

        await eventually(ended, timedelta(seconds=within_seconds))

    async def _ended(self, customer: Customer) -> Found:
        order = await self._ledger.order_of(customer.user_id)
        assert order is not None
        return order

    async def _register(self, customer: Customer, places: asyncio.Semaphore) -> None:
        async with places:
            await customer.register()

    async def _order(self, customer: Customer, places: asyncio.Semaphore) -> None:
        async with places:
            self.accepted.append(await customer.place())


def _is_late(order: Found) -> bool:
    return order.status == "rejected" and (order.reason or "").endswith("no answer in time")
