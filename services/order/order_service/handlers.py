"""What order does when a product or a shipment has changed: it keeps the newest, so that nobody has to be asked."""

from __future__ import annotations

from covey.messaging.router import Router
from covey.work.unit_of_work import Work
from order_service import storage
from order_service.domain import Product, Shipment
from order_service.messages import ProductChanged, ShipmentChanged

router = Router()


@router.on(ProductChanged)
async def keep_product(event: ProductChanged, work: Work) -> None:
    """Keep the product if it is newer than what is known; an older event that comes late changes nothing."""
    storage.keep_product(work, Product(event.product_id, event.name, event.price, event.version))


@router.on(ShipmentChanged)
async def keep_shipment(event: ShipmentChanged, work: Work) -> None:
    """Keep the shipment if it is newer than what is known; an older event that comes late changes nothing."""
    shipment = Shipment(event.shipment_id, event.order_id, event.status, event.tracking_number, event.version)
    storage.keep_shipment(work, shipment)
