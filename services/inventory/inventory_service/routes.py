"""Products, stock and reservations over HTTP."""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import to_json

from covey.database import pagination
from covey.database.pagination import MOST
from covey.errors import NotFound
from covey.http.conditional import IfMatch, require_match, tag
from covey.http.idempotency import IdempotentRoute
from covey.http.lists import Cursor, Limit
from covey.http.shedding import priority
from covey.http.transaction import Transaction, transactions_of
from covey.http.whole import WHOLE
from covey.ids import new_id
from covey.resilience.load_shedding import Priority
from covey.security.access import public, requires
from inventory_service import storage
from inventory_service.domain import (
    MAX_NAME_LENGTH,
    MAX_PRICE,
    MAX_QUANTITY,
    NOT_BLANK,
    Line,
    Money,
    OrderId,
    Product,
    ProductId,
    Reservation,
    Stock,
)
from inventory_service.handlers import product_pages
from inventory_service.messages import ProductChanged

api = APIRouter(prefix="/api/v1", tags=["inventory"], route_class=IdempotentRoute)


CURRENCY = r"^[A-Z]{3}$"

T = TypeVar("T")


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Price(_Request):
    """An amount in minor units (cents) of an ISO 4217 currency."""

    amount: Annotated[int, Field(strict=True, ge=0, le=MAX_PRICE), WHOLE]
    currency: str = Field(pattern=CURRENCY)

    def money(self) -> Money:
        """Return it as the domain knows it."""
        return Money(self.amount, self.currency)


class NewProduct(_Request):
    """A product to be sold from now on."""

    name: str = Field(min_length=1, max_length=MAX_NAME_LENGTH, pattern=NOT_BLANK)
    price: Price


class Delivery(_Request):
    """So many pieces have arrived."""

    quantity: Annotated[int, Field(strict=True, ge=1, le=MAX_QUANTITY), WHOLE]


class Announcement(_Request):
    """Which products to announce: up to `limit` of them, in order of their ids, from the one after `after` on."""

    after: ProductId | None = None
    limit: Annotated[int, Field(strict=True, ge=1, le=500), WHOLE] = 200


class Announced(BaseModel):
    """How many products were announced. `next` is what to pass as `after`; null when these were the last."""

    announced: int
    next: ProductId | None


class ProductList(BaseModel):
    """A page of products. `next` is the cursor of the page after it; null: there is none."""

    products: list[Product]
    next: str | None


@api.post("/products", status_code=201)
@requires("staff")
async def create_product(body: NewProduct, work: Transaction, response: Response) -> Product:
    """Add a product, without stock, and tell others of it. Its `ETag` is what a change asks for."""
    product = Product(ProductId(new_id()), body.name, body.price.money())
    await storage.add_product(work, product)
    _publish(product, work)
    response.headers["Location"] = f"/api/v1/products/{product.id}"
    tag(response, product.version)
    return product


@api.put("/products/{product_id}")
@requires("staff")
async def change_product(
    product_id: ProductId, body: NewProduct, work: Transaction, response: Response, if_match: IfMatch = None
) -> Product:
    """Change name and price, and tell others. Orders that were placed keep the price that they were placed at."""
    found = _exists(await storage.product_to_change(work, product_id), product_id)
    require_match(if_match, found.version)
    product = found.changed(body.name, body.price.money())
    tag(response, product.version)
    await storage.change_product(work, product)
    _publish(product, work)
    return product


@api.get("/products/{product_id}")
@public
@priority(Priority.LOW)
async def get_product(product_id: ProductId, work: Transaction, response: Response) -> Product:
    """Return a product."""
    product = _exists(await storage.product_by_id(work, product_id), product_id)
    tag(response, product.version)
    return product


@api.get("/products/{product_id}/live", response_class=StreamingResponse, include_in_schema=False)
@public
@priority(None)
async def watch_product(product_id: ProductId, request: Request) -> StreamingResponse:
    """Show a product, and again whenever it has changed: a page that stays open."""
    begin = transactions_of(request.scope).begin

    async def look() -> bytes | None:
        async with begin() as work:
            product = await storage.product_by_id(work, product_id)
        return None if product is None else to_json(product)

    return await product_pages.answer(request, product_id, look)


@api.get("/products")
@public
@priority(Priority.LOW)
async def list_products(
    work: Transaction,
    ids: Annotated[list[ProductId] | None, Query(max_length=MOST)] = None,
    name: Annotated[str | None, Query(max_length=MAX_NAME_LENGTH)] = None,
    currency: Annotated[str | None, Query(pattern=CURRENCY)] = None,
    max_price: Annotated[int | None, Query(ge=0, le=MAX_PRICE)] = None,
    sort: Literal["id", "-id", "name", "-name", "price", "-price"] = "id",
    cursor: Cursor = None,
    limit: Limit = 50,
) -> ProductList:
    """Return a page of products, or those with these `ids` in their order: then nothing else is looked at."""
    if ids is not None:
        return ProductList(products=await storage.products_by_ids(work, ids), next=None)
    filters = {"name": name, "currency": currency, "max_price": max_price}
    asked = pagination.Query(sort=sort, filters=filters, cursor=cursor, limit=limit)
    products, following = await storage.products_page(work, asked)
    return ProductList(products=products, next=following)


@api.post("/products/announcements", status_code=202)
@requires("staff")
async def announce_products(body: Announcement, work: Transaction) -> Announced:
    """Publish products again as they are now: a snapshot for a reader that came too late for the events.

    A reader that knows a product already drops what is not newer, so this harms nobody.
    """
    products = await storage.products_after(work, body.after, body.limit)
    for product in products:
        _publish(product, work)
    return Announced(announced=len(products), next=products[-1].id if len(products) == body.limit else None)


@api.post("/products/{product_id}/deliveries", status_code=201)
@requires("staff")
async def receive_delivery(product_id: ProductId, body: Delivery, work: Transaction, response: Response) -> Stock:
    """Book a delivery, and return the stock after it, which is all that is kept of it."""
    stock = _exists(await storage.receive(work, Line(product_id, body.quantity)), product_id)
    response.headers["Location"] = f"/api/v1/products/{product_id}/stock"
    return stock


@api.get("/products/{product_id}/stock")
async def get_stock(product_id: ProductId, work: Transaction) -> Stock:
    """Return where the pieces of a product are."""
    return _exists(await storage.stock_of(work, product_id), product_id)


@api.get("/reservations/{order_id}")
@requires("staff")
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
