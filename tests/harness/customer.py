"""A customer who opens an account, or has none, and wants one thing of the shop; asks again, under the same key, when
no answer comes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TypeVar
from uuid import UUID

from covey.errors import DependencyUnavailable, Unavailable
from covey.ids import new_id
from covey.testing.eventually import eventually
from shop.client import Unexpected, order_of
from tests.harness.ledger import Found, Ledger
from tests.harness.outcomes import Outcome
from tests.harness.shop import Shop

T = TypeVar("T")

PATIENCE_SECONDS = 30.0
_PAUSE_SECONDS = 0.02


class Customer:
    """Places one order of an outcome, with all that belongs to it. A stranger has a `user_id` that belongs to nobody;
    who is yet to open an account has none.
    """

    def __init__(self, shop: Shop, ledger: Ledger, outcome: Outcome) -> None:
        self._shop = shop
        self._ledger = ledger
        self._outcome = outcome
        self.user_id: UUID | None = new_id() if outcome.stranger else None
        self.cancelled = False

    async def register(self) -> None:
        """Open an account, until the answer is 201, and wait until notification has heard of it.

        Who orders at once is served as well, but their mail waits for the address, and goes another way each time.
        """
        key, outcome, register = str(new_id()), self._outcome, self._shop.client.register
        self.user_id = await self._insisting(lambda: register(outcome.mailbox, wants_mail=outcome.wants_mail, key=key))
        await self._known(version=1)

    async def unsubscribe(self) -> None:
        """Want no mail about orders any more, until the answer is 200, and wait until notification has heard of it."""
        key, user_id = str(new_id()), self.user_id
        assert user_id is not None
        wish, change = f"/users/{user_id}/preferences", self._shop.client.change
        await self._insisting(lambda: change(wish, 1, {"order_mail": False}, key))
        await self._known(version=2)

    async def place(self) -> UUID:
        """Place the order, until the answer is 201."""
        key = str(new_id())
        product = self._shop.scarce if self._outcome.scarce else self._shop.product
        order = order_of({product: 2}, self._outcome.token, self.user_id)
        return (await self._insisting(lambda: self._shop.client.place(order, key))).id

    async def cancel(self, order_id: UUID) -> None:
        """Cancel the order, until the answer is definite; 409 means that it is too late."""
        try:
            await self._insisting(lambda: self._shop.client.cancel(order_id, "changed their mind"), definite=409)
            self.cancelled = True
        except Unexpected:
            self.cancelled = False

    async def await_goods(self, order_id: UUID) -> None:
        """Ask for the order until its goods are on their way."""
        await self._insisting(lambda: self._shipped(order_id))

    async def send_back(self, order_id: UUID) -> None:
        """Return one piece of goods that are on their way, until the answer is 202."""
        key = str(new_id())
        await self._insisting(lambda: self._shop.client.return_goods(order_id, {self._shop.product: 1}, key))

    async def _known(self, version: int) -> None:
        user_id = self.user_id
        assert user_id is not None
        await eventually(lambda: self._ledger.knows(user_id, version), timedelta(seconds=PATIENCE_SECONDS))

    async def _shipped(self, order_id: UUID) -> None:
        if (await self._shop.client.order(order_id))["shipment"] is None:
            raise DependencyUnavailable("not yet")

    async def let_time_pass(self) -> None:
        """Wait until the provider has booked the authorization, and let the time of the step be over then."""
        while True:
            order = await self._ledger.order_of(self.user_id)
            if order is not None and await self._ledger.booked(str(order.id)):
                return await self._ledger.let_time_pass(order)
            await asyncio.sleep(_PAUSE_SECONDS)

    def expects(self, order: Found) -> bool:
        """Tell whether the order has ended as it must."""
        if list(order.returns.values()) != ([self._outcome.returns] if self._outcome.returns else []):
            return False
        if self._outcome.cancels and not self.cancelled:
            return order.status == "confirmed"
        return order.status == self._outcome.status

    def expects_mail(self, order: Found, mails: list[str]) -> bool:
        """Tell whether this is what must have become of the mail about the order, if there is to be one."""
        return mails == [self._outcome.mail] * (order.status == "confirmed")

    async def _insisting(self, ask: Callable[[], Awaitable[T]], definite: int = 0) -> T:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                try:
                    return await ask()
                except Unavailable:
                    pass
                except Unexpected as answer:
                    if answer.status == definite or answer.status not in (409, 503, 504):
                        raise
                await asyncio.sleep(_PAUSE_SECONDS)
