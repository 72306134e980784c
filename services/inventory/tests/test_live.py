"""Pages of a product that stay open: told of changes by a hint, and without one a little later."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp

from covey.http import live
from covey.ids import new_id
from covey.service import Running
from covey.testing.cable import Cable
from covey.testing.eventually import eventually

LOOKS_AFTER_SECONDS = 10.0
PATIENCE_SECONDS = 30.0

if TYPE_CHECKING:
    from conftest import Shelf

Client = aiohttp.ClientSession


@asynccontextmanager
async def page(http: Client, product_id: str) -> AsyncIterator[aiohttp.ClientResponse]:
    """Have a page open, as a browser asks for it."""
    async with http.get(f"products/{product_id}/live", headers={"Accept": "text/event-stream"}) as response:
        assert (response.status, response.content_type) == (200, "text/event-stream")
        yield response


async def shown(response: aiohttp.ClientResponse) -> dict[str, Any]:
    """Return what a page shows next; signs of life are nothing."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        async for line in response.content:
            if line.startswith(b"data: "):
                product: dict[str, Any] = json.loads(line.removeprefix(b"data: "))
                return product
    raise AssertionError("the page has ended")


async def test_every_open_page_shows_a_change_before_it_would_have_looked(
    http: Client, shelf: Shelf, running: Running
) -> None:
    product_id = await shelf.made()
    async with page(http, product_id) as one, page(http, product_id) as other:
        async with http.get(f"products/{product_id}") as response:
            assert [await shown(one), await shown(other)] == [await response.json()] * 2
        await eventually(lambda: _hears(running))

        began = time.monotonic()
        await shelf.renamed(product_id, "Big mug", 1)

        assert [(await shown(each))["name"] for each in (one, other)] == ["Big mug"] * 2
        assert time.monotonic() - began < LOOKS_AFTER_SECONDS / 2


async def test_a_page_that_hears_nothing_shows_a_change_nevertheless(http: Client, shelf: Shelf, cable: Cable) -> None:
    product_id = await shelf.made()
    cable.cut()
    async with page(http, product_id) as open_page:
        await shown(open_page)
        await shelf.renamed(product_id, "Big mug", 1)

        assert (await shown(open_page))["name"] == "Big mug"


async def test_a_page_that_was_left_is_noticed_and_nobody_listens_any_more(
    http: Client, shelf: Shelf, running: Running
) -> None:
    product_id = await shelf.made()
    async with page(http, product_id) as open_page:
        await shown(open_page)
        assert _pages(running).count == 1

    await eventually(lambda: _pages(running).count == 0)
    assert _pages(running)._listening is None


async def test_pages_end_when_the_service_drains_and_none_is_opened_then(
    http: Client, shelf: Shelf, running: Running
) -> None:
    product_id = await shelf.made()
    async with page(http, product_id) as open_page:
        await shown(open_page)
        running.readiness.drain()

        async with asyncio.timeout(LOOKS_AFTER_SECONDS / 2):
            await open_page.content.read()
    async with http.get(f"products/{product_id}/live") as response:
        assert (response.status, "Retry-After" in response.headers) == (503, True)


async def test_there_is_no_page_of_what_is_not_there_and_head_does_not_wait(http: Client, shelf: Shelf) -> None:
    async with http.get(f"products/{new_id()}/live") as response:
        assert response.status == 404
    async with asyncio.timeout(PATIENCE_SECONDS), http.head(f"products/{await shelf.made()}/live") as response:
        assert response.status == 200


def _pages(running: Running) -> live.Pages:
    pages: live.Pages = running.messaging.transactions.resources[live.Pages]
    return pages


async def _hears(running: Running) -> bool:
    """Tell whether its process is told of hints, by one about nothing."""
    hints = _pages(running)._hints
    return hints is not None and await hints.say_at_most_once("pages", "nothing") > 0
