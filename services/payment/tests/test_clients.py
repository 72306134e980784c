"""The provider's client: what is definite, what is unknown, and that no call takes longer than it may."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta

import pytest
from aiohttp import web
from payment_service.clients import HttpProvider, ProviderMisused
from payment_service.domain import Money
from payment_service.ports import Approved, Declined, Provider, Voided

from covey import context
from covey.clock import SystemClock
from covey.errors import DeadlineExceeded, DependencyUnavailable

PRICE = Money(4_900, "EUR")
LIMIT = timedelta(seconds=1)

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@pytest.fixture
async def provider(sandbox: str) -> AsyncIterator[Provider]:
    async with HttpProvider.open(sandbox, LIMIT) as provider:
        yield provider


async def test_what_the_provider_approves_comes_back_as_an_amount(provider: Provider) -> None:
    assert await provider.authorize("order-1", PRICE, "tok_ok", "a") == Approved(4_900)
    assert await provider.capture("order-1", PRICE, "c") == Approved(4_900)
    assert await provider.refund("order-1", PRICE, "r") == Approved(4_900)


async def test_a_void_tells_what_there_was(provider: Provider) -> None:
    await provider.authorize("order-1", PRICE, "tok_ok", "a")

    assert await provider.void("order-1", "v") == Voided(authorized=4_900, amount=4_900)
    assert await provider.void("order-2", "w") == Voided(authorized=0, amount=0)


async def test_a_decline_is_an_answer_and_no_error(provider: Provider) -> None:
    answer = await provider.authorize("order-1", PRICE, "tok_declined", "a")

    assert answer == Declined("the card was declined")


async def test_silence_ends_at_the_limit_with_an_unknown_outcome(provider: Provider) -> None:
    began = time.monotonic()

    with pytest.raises(DependencyUnavailable):
        await provider.authorize("order-1", PRICE, "tok_timeout_after_charge", "a")

    assert time.monotonic() - began < 2


async def test_a_lost_answer_is_had_by_asking_again_with_the_same_key(provider: Provider) -> None:
    await provider.authorize("order-1", PRICE, "tok_timeout_after_capture", "a")
    with pytest.raises(DependencyUnavailable):
        await provider.capture("order-1", PRICE, "c")

    assert await provider.capture("order-1", PRICE, "c") == Approved(4_900)


async def test_a_call_whose_first_attempt_is_under_way_is_to_be_repeated(provider: Provider) -> None:
    for _ in range(2):
        with pytest.raises(DependencyUnavailable):
            await provider.authorize("order-1", PRICE, "tok_late", "a")


async def test_a_provider_that_is_down_is_unavailable(provider: Provider) -> None:
    with pytest.raises(DependencyUnavailable, match="503"):
        await provider.authorize("order-1", PRICE, "tok_down_1", "a")


async def test_a_failure_that_the_provider_reports_is_not_believed(provider: Provider) -> None:
    for _ in range(2):
        with pytest.raises(DependencyUnavailable, match="500"):
            await provider.authorize("order-1", PRICE, "tok_lies", "a")

    assert await provider.authorize("order-1", PRICE, "tok_lies", "a") == Approved(4_900)
    assert await provider.void("order-1", "v") == Voided(authorized=4_900, amount=4_900)


async def test_a_provider_that_is_not_there_is_unavailable() -> None:
    async with HttpProvider.open("http://127.0.0.1:1", LIMIT) as provider:
        with pytest.raises(DependencyUnavailable):
            await provider.authorize("order-1", PRICE, "tok_ok", "a")


async def test_a_key_used_for_something_else_is_our_mistake(provider: Provider) -> None:
    await provider.authorize("order-1", PRICE, "tok_ok", "a")

    with pytest.raises(ProviderMisused, match="another request"):
        await provider.authorize("order-1", Money(1, "EUR"), "tok_ok", "a")


async def test_the_deadline_of_the_work_comes_before_the_limit(sandbox: str) -> None:
    soon = replace(context.new_context(), deadline=SystemClock().now() + timedelta(seconds=0.2))
    async with HttpProvider.open(sandbox, timedelta(seconds=30)) as provider:
        began = time.monotonic()

        with context.use(soon), pytest.raises(DeadlineExceeded):
            await provider.authorize("order-1", PRICE, "tok_timeout_after_charge", "a")

        assert time.monotonic() - began < 0.9


async def test_nobody_is_asked_when_the_deadline_is_over(provider: Provider) -> None:
    over = replace(context.new_context(), deadline=SystemClock().now() - timedelta(seconds=1))

    with context.use(over), pytest.raises(DeadlineExceeded):
        await provider.authorize("order-1", PRICE, "tok_ok", "a")


async def test_a_server_that_trickles_its_answer_does_not_outlast_the_limit() -> None:
    async def trickle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=201)
        await response.prepare(request)
        while True:
            await response.write(b" ")
            await asyncio.sleep(0.05)

    async with answering(trickle) as url, HttpProvider.open(url, LIMIT) as provider:
        began = time.monotonic()

        with pytest.raises(DependencyUnavailable):
            await provider.authorize("order-1", PRICE, "tok_ok", "a")

        assert time.monotonic() - began < 2


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"amount": null}'])
async def test_an_answer_that_cannot_be_read_says_nothing_definite(body: bytes) -> None:
    async def garbled(_: web.Request) -> web.StreamResponse:
        return web.Response(status=201, body=body)

    async with answering(garbled) as url, HttpProvider.open(url, LIMIT) as provider:
        with pytest.raises(DependencyUnavailable):
            await provider.authorize("order-1", PRICE, "tok_ok", "a")


async def test_a_redirect_is_not_followed() -> None:
    async def elsewhere(_: web.Request) -> web.StreamResponse:
        raise web.HTTPTemporaryRedirect("http://127.0.0.1:1/")

    async with answering(elsewhere) as url, HttpProvider.open(url, LIMIT) as provider:
        with pytest.raises(ProviderMisused, match="307"):
            await provider.authorize("order-1", PRICE, "tok_ok", "a")


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
