"""What the shop sells."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

import asyncpg

from covey.clock import Clock, SystemClock
from shop.client import ShopClient

PRICES: Mapping[str, int] = {
    "Stoneware mug": 1_250,
    "Cast-iron teapot": 4_900,
    "Linen tea towel": 950,
    "Olive-wood spoon": 700,
}
PIECES = 500


async def seed(client: ShopClient) -> dict[str, UUID]:
    """See to it that the shop sells what it should; products that it has already get a new delivery."""
    known = await client.products()
    products = {name: known.get(name) or await client.sell(name, amount) for name, amount in PRICES.items()}
    for product_id in products.values():
        await client.deliver(product_id, PIECES)
    return products


async def known_to_order(database_url: str, product_ids: set[UUID], clock: Clock | None = None) -> None:
    """Wait until the order service has heard of these products. Until then it refuses them as unknown."""
    clock = clock or SystemClock()
    connection = await asyncpg.connect(database_url)
    try:
        while True:
            rows = await connection.fetch("SELECT id FROM product WHERE id = ANY ($1)", list(product_ids))
            if len(rows) == len(product_ids):
                return
            await clock.sleep(0.02)
    finally:
        await connection.close()
