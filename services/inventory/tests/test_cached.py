"""Products that are kept in Valkey: over HTTP, through changes, and through Valkey being away."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import aiohttp

from covey.service import Running
from covey.telemetry.metrics import Counter
from covey.testing.cable import Cable
from covey.testing.eventually import eventually

if TYPE_CHECKING:
    from conftest import Shelf

Client = aiohttp.ClientSession


async def name_of(http: Client, product_id: str) -> str:
    async with http.get(f"products/{product_id}") as response:
        return str((await response.json())["name"])


def read(running: Running, outcome: str) -> float:
    counters = [one for one in running.telemetry.metrics.all() if one.name == "covey_cache_reads_total"]
    return sum(one.value(("product", outcome)) for one in counters if isinstance(one, Counter))


def hit(running: Running, http: Client, product_id: str) -> Callable[[], Awaitable[bool]]:
    async def asked() -> bool:
        before = read(running, "hit")
        await name_of(http, product_id)
        return read(running, "hit") > before

    return asked


async def test_a_product_is_kept_and_a_change_of_it_is_seen_at_once(
    running: Running, http: Client, shelf: Shelf
) -> None:
    product_id = await shelf.made()
    await eventually(hit(running, http, product_id))

    for version, name in enumerate(("Big mug", "Small mug"), start=1):
        await shelf.renamed(product_id, name, version)

        assert await name_of(http, product_id) == name


async def test_a_product_that_there_is_not_is_not_found_from_memory_too(running: Running, http: Client) -> None:
    nowhere = "products/01890a5d-ac96-774b-bcce-b302099a8057"
    for _ in range(3):
        async with http.get(nowhere) as response:
            assert response.status == 404

    assert read(running, "negative hit") == 2


async def test_without_valkey_products_are_read_and_changed_and_no_old_one_comes_back(
    running: Running, http: Client, shelf: Shelf, cable: Cable
) -> None:
    product_id = await shelf.made()
    await eventually(hit(running, http, product_id))
    assert running.valkey is not None
    valkey = running.valkey
    cable.cut()
    await eventually(lambda: not valkey.is_connected)

    assert await name_of(http, product_id) == "Mug"
    await shelf.renamed(product_id, "Big mug", 1)
    assert await name_of(http, product_id) == "Big mug"
    cable.mend()
    await eventually(lambda: valkey.is_connected)

    assert await name_of(http, product_id) == "Big mug"
    await eventually(hit(running, http, product_id))
    assert await name_of(http, product_id) == "Big mug"
