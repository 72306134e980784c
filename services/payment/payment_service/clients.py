"""The payment provider over HTTP.

Every call ends within the limit, all its phases together, and earlier when the work's deadline comes first. It is
attempted once: who handles the command repeats it, with the same key. What it raises says what is known:

    approved, declined (402)                             an answer; definite
    no answer, 5xx, 429, 409 (the same key in progress)  Unavailable; repeat with the same key
    any other status                                     ProviderMisused; we asked wrongly, and repeating is pointless
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from pydantic import BaseModel

from covey.errors import Conflict, Defect, DependencyUnavailable, Rejected
from covey.http.client import HttpClient, HttpClientOptions
from covey.http.connection import Answer
from covey.http.refusals import detail_of
from covey.resilience.policy import PolicyOptions
from covey.resilience.retry import RetryOptions
from payment_service.domain import Money
from payment_service.ports import Approved, Declined, Voided

_DECLINED = 402


class ProviderMisused(Defect):
    """The provider says that our request is wrong: a key used for something else, a field that it does not know."""


class _Approval(BaseModel):
    amount: int


class _Void(BaseModel):
    authorized: int
    amount: int


class HttpProvider:
    """`Provider` over HTTP. Open it with `async with HttpProvider.open(url, limit) as provider`."""

    def __init__(self, client: HttpClient) -> None:
        self.client = client

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, limit: timedelta) -> AsyncIterator[HttpProvider]:
        """Connect when first used; close all connections at the end. `limit` bounds one whole call."""
        policy = PolicyOptions(deadline=limit, timeout=limit, retry=RetryOptions(attempts=1))
        options = HttpClientOptions(policy=policy)
        async with HttpClient.open("payment-provider", url, options, caller="payment") as client:
            yield cls(client)

    async def authorize(self, reference: str, amount: Money, token: str, key: str) -> Approved | Declined:
        """See `Provider`."""
        return await self._approval("/authorizations", {**_money(reference, amount), "token": token}, key)

    async def capture(self, reference: str, amount: Money, key: str) -> Approved | Declined:
        """See `Provider`."""
        return await self._approval("/captures", _money(reference, amount), key)

    async def refund(self, reference: str, amount: Money, key: str) -> Approved | Declined:
        """See `Provider`."""
        return await self._approval("/refunds", _money(reference, amount), key)

    async def void(self, reference: str, key: str) -> Voided:
        """See `Provider`."""
        came = await self._post("/voids", {"reference": reference}, key)
        if came.status == _DECLINED:
            raise ProviderMisused("the provider declines to void, which it may not")
        answer = self.client.read(came, _Void)
        return Voided(answer.authorized, answer.amount)

    async def _approval(self, path: str, body: dict[str, Any], key: str) -> Approved | Declined:
        came = await self._post(path, body, key)
        if came.status == _DECLINED:
            return Declined(detail_of(came) or "no reason given")
        return Approved(self.client.read(came, _Approval).amount)

    async def _post(self, path: str, body: dict[str, Any], key: str) -> Answer:
        """Return an answer that settles the matter; raise for every other."""
        try:
            return await self.client.send("POST", path, body=body, key=key, also={_DECLINED})
        except Conflict as error:
            raise DependencyUnavailable(f"this call is under way already: {error}") from error
        except (Rejected, Defect) as error:
            raise ProviderMisused(str(error)) from error


def _money(reference: str, amount: Money) -> dict[str, Any]:
    return {"reference": reference, "amount": amount.amount, "currency": amount.currency}
