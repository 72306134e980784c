"""The carrier's client: what is definite, what is unknown, and that no call takes longer than it may."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from shipping_service.clients import CarrierMisused, HttpCarrier
from shipping_service.domain import OrderId
from shipping_service.ports import Booked, Carrier, Declined, Parcel

from covey import context
from covey.clock import SystemClock
from covey.errors import DeadlineExceeded, DependencyUnavailable
from covey.ids import new_id

PARCEL = Parcel("shipment-1", OrderId(new_id()), "shipment", 3)
LIMIT = timedelta(seconds=0.3)

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@pytest.fixture
async def carrier(sandbox: str) -> AsyncIterator[Carrier]:
    async with HttpCarrier.open(sandbox, LIMIT) as carrier:
        yield carrier


async def behave(office: aiohttp.ClientSession, **order: Any) -> None:
    async with office.put("/admin/mode", json=order) as response:
        assert response.status == 204


async def test_what_the_carrier_accepts_comes_back_as_a_number(carrier: Carrier) -> None:
    assert await carrier.book(PARCEL, "b") == Booked("SC000000001")


async def test_a_decline_is_an_answer_and_no_error(carrier: Carrier, office: aiohttp.ClientSession) -> None:
    await behave(office, mode="decline")

    assert await carrier.book(PARCEL, "b") == Declined("nothing is carried there")


async def test_what_was_cancelled_is_declined(carrier: Carrier) -> None:
    await carrier.cancel(PARCEL, "c")

    assert await carrier.book(PARCEL, "b") == Declined("the reference was cancelled")


async def test_a_carrier_that_declines_to_cancel_is_a_contradiction(
    carrier: Carrier, office: aiohttp.ClientSession
) -> None:
    await behave(office, mode="decline")

    with pytest.raises(CarrierMisused, match="declines to cancel"):
        await carrier.cancel(PARCEL, "c")


async def test_a_lost_answer_is_had_by_asking_again_with_the_same_key(
    carrier: Carrier, office: aiohttp.ClientSession
) -> None:
    await behave(office, mode="silent", calls=1)
    began = time.monotonic()
    with pytest.raises(DependencyUnavailable):
        await carrier.book(PARCEL, "b")
    assert time.monotonic() - began < 0.6

    assert await carrier.book(PARCEL, "b") == Booked("SC000000001")


async def test_a_call_whose_first_attempt_is_under_way_is_to_be_repeated(
    carrier: Carrier, office: aiohttp.ClientSession
) -> None:
    await behave(office, mode="late")

    for _ in range(2):
        with pytest.raises(DependencyUnavailable):
            await carrier.book(PARCEL, "b")


async def test_a_carrier_that_is_down_is_unavailable(carrier: Carrier, office: aiohttp.ClientSession) -> None:
    await behave(office, mode="down")

    with pytest.raises(DependencyUnavailable, match="503"):
        await carrier.book(PARCEL, "b")


async def test_a_carrier_that_is_not_there_is_unavailable() -> None:
    async with HttpCarrier.open("http://127.0.0.1:1", LIMIT) as carrier:
        with pytest.raises(DependencyUnavailable):
            await carrier.book(PARCEL, "b")


async def test_a_key_used_for_something_else_is_our_mistake(carrier: Carrier) -> None:
    await carrier.book(PARCEL, "b")

    with pytest.raises(CarrierMisused, match="another request"):
        await carrier.book(replace(PARCEL, pieces=4), "b")


async def test_nobody_is_asked_when_the_deadline_is_over(carrier: Carrier, office: aiohttp.ClientSession) -> None:
    over = replace(context.new_context(), deadline=SystemClock().now() - timedelta(seconds=1))

    with context.use(over), pytest.raises(DeadlineExceeded):
        await carrier.book(PARCEL, "b")

    async with office.get("/book") as response:
        assert await response.json() == {"entries": []}


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"tracking": null}'])
async def test_an_answer_that_cannot_be_read_says_nothing_definite(body: bytes) -> None:
    async def garbled(_: web.Request) -> web.StreamResponse:
        return web.Response(status=201, body=body)

    async with answering(garbled) as url, HttpCarrier.open(url, LIMIT) as carrier:
        with pytest.raises(DependencyUnavailable):
            await carrier.book(PARCEL, "b")


async def test_a_redirect_is_not_followed() -> None:
    async def elsewhere(_: web.Request) -> web.StreamResponse:
        raise web.HTTPTemporaryRedirect("http://127.0.0.1:1/")

    async with answering(elsewhere) as url, HttpCarrier.open(url, LIMIT) as carrier:
        with pytest.raises(CarrierMisused, match="307"):
            await carrier.book(PARCEL, "b")


@asynccontextmanager
async def answering(answer: Answer) -> AsyncIterator[str]:
    """A server that answers every request in this way; yields its URL."""
    application = web.Application()
    application.router.add_post("/{path:.*}", answer)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
