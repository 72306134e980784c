"""Products, stock and reservations over HTTP."""

from __future__ import annotations

from typing import Annotated, TypeVar

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from covey.errors import NotFound
from covey.http.idempotency import IdempotentRoute
from covey.http.transaction import Transaction
from covey.ids import new_id
from inventory_service import storage
from inventory_service.domain import (
    MAX_NAME_LENGTH,
    MAX_PRICE,
    MAX_QUANTITY,
    Line,
    Money,
    OrderId,
    Product,
    ProductId,
    Reservation,
    Stock,
)
from inventory_service.messages import ProductChanged

api = APIRouter(prefix="/api/v1", tags=["inventory"], route_class=IdempotentRoute)


T = TypeVar("T")


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Price(_Request):
    """An amount in minor units (cents) of an ISO 4217 currency."""

    amount: int = Field(strict=True, ge=0, le=MAX_PRICE)
    currency: str = Field(pattern=r"^[A-Z]{3}$")

    def money(self) -> Money:
        """Return it as the domain knows it."""
        return Money(self.amount, self.currency)


class NewProduct(_Request):
    """A product to be sold from now on."""

    name: str = Field(min_length=1, max_length=MAX_NAME_LENGTH)
    price: Price


class ChangedProduct(NewProduct):
    """A product as it shall be. `version` is the one that the caller has read: 409 when another is current."""

    version: int = Field(strict=True, ge=1)


class Delivery(_Request):
    """So many pieces have arrived."""

    quantity: int = Field(strict=True, ge=1, le=MAX_QUANTITY)


class Announcement(_Request):
    """Which products to announce: up to `limit` of them, in order of their ids, from the one after `after` on."""

    after: ProductId | None = None
    limit: int = Field(default=200, strict=True, ge=1, le=500)


class Announced(BaseModel):
    """How many products were announced. `next` is what to pass as `after`; null when these were the last."""

    announced: int
    next: ProductId | None


class ProductList(BaseModel):
    """A page of products in order of their ids. `next` is what to pass as `after`; null at the end."""

    products: list[Product]
    next: ProductId | None


@api.post("/products", status_code=201)
async def create_product(body: NewProduct, work: Transaction, response: Response) -> Product:
    """Add a product, without stock, and tell others of it."""
    product = Product(ProductId(new_id()), body.name, body.price.money())
    await storage.add_product(work, product)
    _publish(product, work)
    response.headers["Location"] = f"/api/v1/products/{product.id}"
    return product


@api.put("/products/{product_id}")
async def change_product(product_id: ProductId, body: ChangedProduct, work: Transaction) -> Product:
    """Change name and price, and tell others. Orders that were placed keep the price that they were placed at."""
    found = await storage.product_to_change(work, product_id)
    product = _exists(found, product_id).changed(body.name, body.price.money(), body.version)
    await storage.change_product(work, product)
    _publish(product, work)
    return product


@api.get("/products/{product_id}")
async def get_product(product_id: ProductId, work: Transaction) -> Product:
    """Return a product."""
    return _exists(await storage.product_by_id(work, product_id), product_id)


@api.get("/products")
async def list_products(
    work: Transaction, after: ProductId | None = None, limit: Annotated[int, Query(ge=1, le=200)] = 50
) -> ProductList:
    """Return products in order of their ids, from the one after `after` on."""
    products = await storage.products_after(work, after, limit)
    return ProductList(products=products, next=products[-1].id if len(products) == limit else None)


@api.post("/products/announcements", status_code=202)
async def announce_products(body: Announcement, work: Transaction) -> Announced:
    """Publish products again as they are now: a snapshot for a reader that came too late for the events.

    A reader that knows a product already drops what is not newer, so this harms nobody.
    """
    products = await storage.products_after(work, body.after, body.limit)
    for product in products:
        _publish(product, work)
    return Announced(announced=len(products), next=products[-1].id if len(products) == body.limit else None)


@api.post("/products/{product_id}/deliveries", status_code=201)
async def receive_delivery(product_id: ProductId, body: Delivery, work: Transaction) -> Stock:
    """Book a delivery, and return the stock after it."""
    return _exists(await storage.receive(work, Line(product_id, body.quantity)), product_id)


@api.get("/products/{product_id}/stock")
async def get_stock(product_id: ProductId, work: Transaction) -> Stock:
    """Return where the pieces of a product are."""
    return _exists(await storage.stock_of(work, product_id), product_id)


@api.get("/reservations/{order_id}")
async def get_reservation(order_id: OrderId, work: Transaction) -> Reservation:
    """Return what is, or was, reserved for an order."""
    reservation = await storage.reservation_of(work, order_id)
    if reservation is None:
        raise NotFound(f"nothing was ever reserved for order {order_id}")
    return reservation


def _publish(product: Product, work: Transaction) -> None:
    work.publish(ProductChanged(product_id=product.id, name=product.name, price=product.price, version=product.version))


def _exists(found: T | None, product_id: ProductId) -> T:
    if found is None:
        raise NotFound(f"there is no product {product_id}")
    return found
