"""The carrier over HTTP.

Every call ends within the limit, all its phases together, and earlier when the work's deadline comes first.
What it raises says what is known:

    booked, declined (403)                               an answer; definite
    no answer, 5xx, 429, 409 (the same key in progress)  DependencyUnavailable; repeat with the same key
    any other status                                     CarrierMisused; we asked wrongly, and repeating is pointless
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TypeVar

import aiohttp
from pydantic import BaseModel, ValidationError

from covey.clock import Clock, SystemClock
from covey.context import current
from covey.errors import DeadlineExceeded, Defect, DependencyUnavailable
from shipping_service.ports import Booked, Declined, Parcel

A = TypeVar("A", bound=BaseModel)

_DECLINED = 403
_UNKNOWN = frozenset({408, 409, 425, 429})


class CarrierMisused(Defect):
    """The carrier says that our request is wrong: a key used for something else, a field that it does not know."""


class _Booking(BaseModel):
    tracking: str


class _Problem(BaseModel):
    detail: str


class HttpCarrier:
    """`Carrier` over HTTP. Open it with `async with HttpCarrier.open(url, limit) as carrier`."""

    def __init__(self, session: aiohttp.ClientSession, limit: timedelta, clock: Clock) -> None:
        self._session = session
        self._limit = limit
        self._clock = clock

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, limit: timedelta, clock: Clock | None = None) -> AsyncIterator[HttpCarrier]:
        """Connect when first used; close all connections at the end. `limit` bounds one whole call."""
        async with aiohttp.ClientSession(url, headers={"User-Agent": "covey-shipping"}) as session:
            yield cls(session, limit, clock or SystemClock())

    async def book(self, parcel: Parcel, key: str) -> Booked | Declined:
        """See `Carrier`."""
        status, body = await self._post("/bookings", parcel, key)
        return Declined(_detail(body)) if status == _DECLINED else Booked(_read(_Booking, body).tracking)

    async def cancel(self, parcel: Parcel, key: str) -> None:
        """See `Carrier`."""
        status, body = await self._post("/cancellations", parcel, key)
        if status == _DECLINED:
            raise CarrierMisused(f"the carrier declines to cancel, which it may not: {_detail(body)}")

    async def _post(self, path: str, parcel: Parcel, key: str) -> tuple[int, bytes]:
        headers = {"Idempotency-Key": key, "traceparent": current().trace.traceparent()}
        body = {
            "reference": parcel.reference,
            "order": str(parcel.order_id),
            "kind": parcel.kind,
            "pieces": parcel.pieces,
        }
        try:
            async with self._session.post(
                path, json=body, headers=headers, timeout=self._time_left(), allow_redirects=False
            ) as response:
                return _definite(response.status, await response.read())
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise DependencyUnavailable(f"the carrier did not answer: {type(error).__name__}") from error

    def _time_left(self) -> aiohttp.ClientTimeout:
        seconds = self._limit.total_seconds()
        deadline = current().deadline
        if deadline is not None:
            seconds = min(seconds, (deadline - self._clock.now()).total_seconds())
        if seconds <= 0:
            raise DeadlineExceeded("no time is left to ask the carrier")
        return aiohttp.ClientTimeout(total=seconds)


def _definite(status: int, body: bytes) -> tuple[int, bytes]:
    """Return an answer that settles the matter; raise for every other."""
    if status in (200, 201, _DECLINED):
        return status, body
    if status >= 500 or status in _UNKNOWN:
        raise DependencyUnavailable(f"the carrier answered {status}")
    raise CarrierMisused(f"the carrier answered {status}: {_detail(body)}")


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
        raise DependencyUnavailable("the carrier's answer cannot be read") from error
