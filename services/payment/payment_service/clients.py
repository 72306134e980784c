"""The payment provider over HTTP.

Every call ends within the limit, all its phases together, and earlier when the work's deadline comes first.
What it raises says what is known:

    approved, declined (402)                             an answer; definite
    no answer, 5xx, 429, 409 (the same key in progress)  DependencyUnavailable; repeat with the same key
    any other status                                     ProviderMisused; we asked wrongly, and repeating is pointless
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, TypeVar

import aiohttp
from pydantic import BaseModel, ValidationError

from covey.clock import Clock, SystemClock
from covey.context import current
from covey.errors import DeadlineExceeded, Defect, DependencyUnavailable
from payment_service.domain import Money
from payment_service.ports import Approved, Declined, Voided

A = TypeVar("A", bound=BaseModel)

_UNKNOWN = frozenset({408, 409, 425, 429})


class ProviderMisused(Defect):
    """The provider says that our request is wrong: a key used for something else, a field that it does not know."""


class _Approval(BaseModel):
    amount: int


class _Void(BaseModel):
    authorized: int
    amount: int


class _Problem(BaseModel):
    detail: str


class HttpProvider:
    """`Provider` over HTTP. Open it with `async with HttpProvider.open(url, limit) as provider`."""

    def __init__(self, session: aiohttp.ClientSession, limit: timedelta, clock: Clock) -> None:
        self._session = session
        self._limit = limit
        self._clock = clock

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, limit: timedelta, clock: Clock | None = None) -> AsyncIterator[HttpProvider]:
        """Connect when first used; close all connections at the end. `limit` bounds one whole call."""
        async with aiohttp.ClientSession(url, headers={"User-Agent": "covey-payment"}) as session:
            yield cls(session, limit, clock or SystemClock())

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
        status, body = await self._post("/voids", {"reference": reference}, key)
        if status == 402:
            raise ProviderMisused("the provider declines to void, which it may not")
        answer = _read(_Void, body)
        return Voided(answer.authorized, answer.amount)

    async def _approval(self, path: str, body: dict[str, Any], key: str) -> Approved | Declined:
        status, answer = await self._post(path, body, key)
        if status == 402:
            return Declined(_detail(answer))
        return Approved(_read(_Approval, answer).amount)

    async def _post(self, path: str, body: dict[str, Any], key: str) -> tuple[int, bytes]:
        headers = {"Idempotency-Key": key, "traceparent": current().trace.traceparent()}
        try:
            async with self._session.post(
                path, json=body, headers=headers, timeout=self._time_left(), allow_redirects=False
            ) as response:
                return _definite(response.status, await response.read())
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise DependencyUnavailable(f"the payment provider did not answer: {type(error).__name__}") from error

    def _time_left(self) -> aiohttp.ClientTimeout:
        seconds = self._limit.total_seconds()
        deadline = current().deadline
        if deadline is not None:
            seconds = min(seconds, (deadline - self._clock.now()).total_seconds())
        if seconds <= 0:
            raise DeadlineExceeded("no time is left to ask the payment provider")
        return aiohttp.ClientTimeout(total=seconds)


def _money(reference: str, amount: Money) -> dict[str, Any]:
    return {"reference": reference, "amount": amount.amount, "currency": amount.currency}


def _definite(status: int, body: bytes) -> tuple[int, bytes]:
    """Return an answer that settles the matter; raise for every other."""
    if status in (200, 201, 402):
        return status, body
    if status >= 500 or status in _UNKNOWN:
        raise DependencyUnavailable(f"the payment provider answered {status}")
    raise ProviderMisused(f"the payment provider answered {status}: {_detail(body)}")


def _detail(body: bytes) -> str:
    """Return what a problem says, if it can be read: the status alone has settled the matter."""
    try:
        return _Problem.model_validate_json(body).detail
    except ValidationError:
        return "no reason given"


def _read(model: type[A], body: bytes) -> A:
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise DependencyUnavailable("the payment provider's answer cannot be read") from error
