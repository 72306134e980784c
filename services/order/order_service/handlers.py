"""What order does when a product has changed: it keeps the newest, so that no order has to ask inventory."""

from __future__ import annotations

from covey.messaging.router import Router
from covey.work.unit_of_work import Work
from order_service import storage
from order_service.domain import Product
from order_service.messages import ProductChanged

router = Router()


@router.on(ProductChanged)
async def keep_product(event: ProductChanged, work: Work) -> None:
    """Keep the product if it is newer than what is known; an older event that comes late changes nothing."""
    storage.keep_product(work, Product(event.product_id, event.name, event.price, event.version))
