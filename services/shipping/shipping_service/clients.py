"""The carrier over HTTP.

Every call ends within the limit, all its phases together, and earlier when the work's deadline comes first. It is
attempted once: who handles the command repeats it, with the same key. What it raises says what is known:

    booked, declined (403)                               an answer; definite
    no answer, 5xx, 429, 409 (the same key in progress)  Unavailable; repeat with the same key
    any other status                                     CarrierMisused; we asked wrongly, and repeating is pointless
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from pydantic import BaseModel

from covey.errors import Conflict, Defect, DependencyUnavailable, NotFound, Rejected
from covey.http.client import HttpClient, HttpClientOptions, segment
from covey.http.connection import Answer
from covey.http.refusals import detail_of
from covey.resilience.policy import PolicyOptions
from covey.resilience.retry import RetryOptions
from shipping_service.ports import Booked, Declined, Parcel, Whereabouts

_DECLINED = 403


class CarrierMisused(Defect):
    """The carrier says that our request is wrong: a key used for something else, a field that it does not know."""


class _Booking(BaseModel):
    tracking: str


class HttpCarrier:
    """`Carrier` over HTTP. Open it with `async with HttpCarrier.open(url, limit) as carrier`."""

    def __init__(self, client: HttpClient) -> None:
        self.client = client

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, limit: timedelta) -> AsyncIterator[HttpCarrier]:
        """Connect when first used; close all connections at the end. `limit` bounds one whole call."""
        policy = PolicyOptions(deadline=limit, timeout=limit, retry=RetryOptions(attempts=1))
        options = HttpClientOptions(policy=policy)
        async with HttpClient.open("carrier", url, options, caller="shipping") as client:
            yield cls(client)

    async def book(self, parcel: Parcel, key: str) -> Booked | Declined:
        """See `Carrier`."""
        came = await self._post("/bookings", parcel, key)
        if came.status == _DECLINED:
            return Declined(_reason(came))
        return Booked(self.client.read(came, _Booking).tracking)

    async def cancel(self, parcel: Parcel, key: str) -> None:
        """See `Carrier`."""
        came = await self._post("/cancellations", parcel, key)
        if came.status == _DECLINED:
            raise CarrierMisused(f"the carrier declines to cancel, which it may not: {_reason(came)}")

    async def where_is(self, tracking_number: str) -> Whereabouts | None:
        """See `Carrier`."""
        try:
            return await self.client.ask("GET", f"/parcels/{segment(tracking_number)}", Whereabouts)
        except NotFound:
            return None
        except (Rejected, Defect) as error:
            raise CarrierMisused(str(error)) from error

    async def _post(self, path: str, parcel: Parcel, key: str) -> Answer:
        """Return an answer that settles the matter; raise for every other."""
        body = {
            "reference": parcel.reference,
            "order": str(parcel.order_id),
            "kind": parcel.kind,
            "pieces": parcel.pieces,
        }
        try:
            return await self.client.send("POST", path, body=body, key=key, also={_DECLINED})
        except Conflict as error:
            raise DependencyUnavailable(f"this call is under way already: {error}") from error
        except (Rejected, Defect) as error:
            raise CarrierMisused(str(error)) from error


def _reason(came: Answer) -> str:
    return detail_of(came) or "no reason given"
