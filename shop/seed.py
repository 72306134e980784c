"""What the shop sells."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

import asyncpg

from shop.client import ShopClient
from shop.waiting import until

PRICES: Mapping[str, int] = {
    "Stoneware mug": 1_250,
    "Cast-iron teapot": 4_900,
    "Linen tea towel": 950,
    "Olive-wood spoon": 700,
}
PIECES = 500


async def seed(client: ShopClient) -> dict[str, UUID]:
    """See to it that the shop sells what it should, and has at least so many pieces of each as are needed."""
    known = await client.products()
    products = {name: known.get(name) or await client.sell(name, amount) for name, amount in PRICES.items()}
    for product_id in products.values():
        free = (await client.get("inventory", f"/products/{product_id}/stock"))["free"]
        if free < PIECES:  # no more than that, or one day there is enough for an order that must be refused
            await client.deliver(product_id, PIECES - free)
    return products


async def known_to_order(database_url: str, product_ids: set[UUID], within_seconds: float = 10.0) -> None:
    """Wait until the order service has heard of these products; until then it refuses them as unknown.

    Raises DeadlineExceeded.
    """
    connection = await asyncpg.connect(database_url)

    async def known() -> bool:
        query = "SELECT count(*) FROM product WHERE id = ANY ($1)"
        return bool(await connection.fetchval(query, list(product_ids)) == len(product_ids))

    try:
        await until(known, within_seconds, "order has not heard of the products")
    finally:
        await connection.close()
