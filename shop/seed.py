"""What the shop sells, and who has heard of what."""

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
    await _known(database_url, "product", product_ids, within_seconds, "order has not heard of the products")


async def known_to_notification(database_url: str, user_ids: set[UUID], within_seconds: float = 10.0) -> None:
    """Wait until notification has heard of these users; until then a mail to them waits, some seconds long.

    Raises DeadlineExceeded.
    """
    await _known(database_url, "recipient", user_ids, within_seconds, "notification has not heard of the users")


async def _known(database_url: str, table: str, ids: set[UUID], within_seconds: float, otherwise: str) -> None:
    connection = await asyncpg.connect(database_url)

    async def known() -> bool:
        query = f"SELECT count(*) FROM {table} WHERE id = ANY ($1)"
        return bool(await connection.fetchval(query, list(ids)) == len(ids))

    try:
        await until(known, within_seconds, otherwise)
    finally:
        await connection.close()
