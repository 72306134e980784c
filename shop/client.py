"""The shop as its customers and its keepers use it: over HTTP."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

import aiohttp

from covey.errors import CoveyError, DependencyUnavailable
from covey.ids import new_id
from shop.waiting import until

SETTLING_SECONDS = 60.0


class Mint(Protocol):
    """Makes tokens: `RunningSystem.token` does."""

    def __call__(self, subject: str, *roles: str) -> str:
        """Return a token with which the services know a subject of these roles."""
        ...


def bearing(token: str) -> dict[str, str]:
    """Return the header of a request that says who makes it."""
    return {"Authorization": f"Bearer {token}"}


class Unexpected(CoveyError):
    """The shop gave another answer than the one that was needed here."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status}: {text}")
        self.status = status


@dataclass(frozen=True, kw_only=True)
class Placed:
    """An order that was accepted, and how long the answer took."""

    id: UUID
    seconds: float


def order_of(lines: Mapping[UUID, int], token: str = "tok_ok", user_id: UUID | None = None) -> dict[str, Any]:
    """Return an order as it is placed: how many of which product, the means of payment, and whose it is.

    Without a user it is somebody's who has no account, and gets no mail.
    """
    wanted = [{"product_id": str(product_id), "quantity": quantity} for product_id, quantity in lines.items()]
    return {"user_id": str(user_id or new_id()), "lines": wanted, "payment_token": token}


class ShopClient:
    """Talks to the services at these URLs: orders for the customer whose order it is, all else for the staff.

    Open it with `async with ShopClient.open(urls, system.token) as client`.
    """

    def __init__(self, http: aiohttp.ClientSession, urls: Mapping[str, str], mint: Mint) -> None:
        self._http = http
        self._urls = urls
        self._mint = mint
        self._staff = mint("staff:shop", "staff")

    @classmethod
    @asynccontextmanager
    async def open(cls, urls: Mapping[str, str], mint: Mint) -> AsyncIterator[ShopClient]:
        """Connect when first used. `urls` has one for each service that is asked."""
        # Services close a connection that has rested for 5 s, which may be the moment in which it would be used again.
        connector = aiohttp.TCPConnector(keepalive_timeout=2)
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=10)) as http:
            yield cls(http, urls, mint)

    async def products(self) -> dict[str, UUID]:
        """Return the ids of all products by name."""
        found: dict[str, UUID] = {}
        cursor = ""
        while cursor is not None:
            page = await self.get("inventory", f"/products?limit=200{cursor and f'&cursor={cursor}'}")
            found |= {product["name"]: UUID(product["id"]) for product in page["products"]}
            cursor = page["next"]
        return found

    async def sell(self, name: str, amount: int, currency: str = "EUR") -> UUID:
        """Sell a new product from now on, at a price in minor units."""
        body = {"name": name, "price": {"amount": amount, "currency": currency}}
        return UUID((await self.post("inventory", "/products", body))["id"])

    async def deliver(self, product_id: UUID, quantity: int) -> None:
        """Let so many pieces of a product arrive."""
        await self.post("inventory", f"/products/{product_id}/deliveries", {"quantity": quantity})

    async def reprice(self, product_id: UUID, amount: int) -> None:
        """Sell a product at another price, in minor units, from now on."""
        product = await self.get("inventory", f"/products/{product_id}")
        price = {"amount": amount, "currency": product["price"]["currency"]}
        body, headers = {"name": product["name"], "price": price}, {"If-Match": f'"{product["version"]}"'}
        await self._asked("PUT", "inventory", f"/products/{product_id}", json=body, headers=headers)

    async def register(self, mailbox: str = "ada", *, wants_mail: bool = True, key: str | None = None) -> UUID:
        """Open an account for somebody new and return its id. The first part of the address is the mailbox.

        The mail sink treats a mailbox as its name says, such as `busy-2`: see there.
        """
        email = f"{mailbox}+{key or new_id()}@example.org"
        preferences = {"order_mail": wants_mail, "marketing_mail": False, "locale": "en"}
        body = {"name": "Ada", "email": email, "preferences": preferences}
        return UUID((await self.post("user", "/users", body, key))["id"])

    async def change(self, account: str, version: int, change: Mapping[str, Any], key: str | None = None) -> int:
        """Change a part of what is at an address of an account, which is at this version; return the one after it.

        Raises Unexpected with status 412 when it is at another.
        """
        headers = {"If-Match": f'"{version}"', "Content-Type": "application/merge-patch+json"}
        headers |= {"Idempotency-Key": key} if key else {}
        return int((await self._asked("PATCH", "user", account, json=dict(change), headers=headers))["version"])

    async def close_account(self, user_id: UUID) -> None:
        """Close an account: what is personal of it is erased everywhere."""
        await self._asked("DELETE", "user", f"/users/{user_id}")

    async def place(self, order: Mapping[str, Any], key: str | None = None) -> Placed:
        """Place an order. Under the same key again it is the same order. Raises Unexpected when it is not accepted."""
        began = time.perf_counter()
        customer = self._mint(f"user:{order['user_id']}")
        placed = await self.post("order", "/orders", order, key, customer)
        return Placed(id=UUID(placed["id"]), seconds=time.perf_counter() - began)

    async def cancel(self, order_id: UUID, reason: str) -> None:
        """Ask for an order to be cancelled. Raises Unexpected with status 409 when it is too late."""
        await self.post("order", f"/orders/{order_id}/cancel", {"reason": reason})

    async def return_goods(
        self, order_id: UUID, lines: Mapping[UUID, int] | None = None, key: str | None = None
    ) -> UUID:
        """Return pieces of an order, or all of it, and return the id of the return. Raises Unexpected when refused."""
        wanted = lines and [{"product_id": str(product), "quantity": quantity} for product, quantity in lines.items()]
        return UUID((await self.post("order", f"/orders/{order_id}/returns", {"lines": wanted}, key))["id"])

    async def returned(
        self, order_id: UUID, return_id: UUID, within_seconds: float = SETTLING_SECONDS
    ) -> dict[str, Any]:
        """Wait until a return has come to its end, and return it as it is then. Raises DeadlineExceeded."""

        async def ended() -> dict[str, Any] | None:
            found: dict[str, Any] = await self.get("order", f"/orders/{order_id}/returns/{return_id}")
            return found if found["status"] != "requested" else None

        found = await until(ended, within_seconds, f"return {return_id} has not come to its end")
        assert found is not None  # `until` returns nothing that is false
        return found

    async def order(self, order_id: UUID) -> dict[str, Any]:
        """Return an order."""
        order: dict[str, Any] = await self.get("order", f"/orders/{order_id}")
        return order

    async def settled(self, order_id: UUID, within_seconds: float = SETTLING_SECONDS) -> dict[str, Any]:
        """Wait until an order is no longer pending, and return it as it is then. Raises DeadlineExceeded."""

        async def order() -> dict[str, Any] | None:
            found = await self.order(order_id)
            return found if found["status"] != "pending" else None

        found = await until(order, within_seconds, f"order {order_id} was not settled")
        assert found is not None  # `until` returns nothing that is false
        return found

    async def mail(self, order_id: UUID) -> dict[str, Any] | None:
        """Return what has become of the mail about an order; None when there is none yet."""
        found = (await self.get("notification", f"/notifications?order_id={order_id}"))["notifications"]
        return found[0] if found else None

    async def happened(self, order_id: UUID, what: str, within_seconds: float = SETTLING_SECONDS) -> None:
        """Wait until this stands in an order's history. Raises DeadlineExceeded."""

        async def stands_there() -> bool:
            history = await self.get("order", f"/orders/{order_id}/history")
            return any(entry["what"] == what for entry in history["entries"])

        await until(stands_there, within_seconds, f"{what!r} did not happen to order {order_id}")

    async def get(self, service: str, path: str) -> Any:
        """GET from a service and return the answer. Raises Unexpected when it is no success, DependencyUnavailable."""
        return await self._asked("GET", service, path)

    async def post(
        self, service: str, path: str, body: Any = None, key: str | None = None, token: str | None = None
    ) -> Any:
        """POST to a service, as the staff or whose token it is, and return the answer. Raises as `get` does."""
        headers = {"Idempotency-Key": key} if key else {}
        return await self._asked("POST", service, path, token, json=body, headers=headers)

    async def _asked(self, method: str, service: str, path: str, token: str | None = None, **request: Any) -> Any:
        url, headers = f"{self._urls[service]}/api/v1{path}", bearing(token or self._staff)
        request["headers"] = {**headers, **request.get("headers", {})}
        try:
            async with self._http.request(method, url, **request) as response:
                if response.status >= 300:
                    raise Unexpected(response.status, await response.text())
                return await response.json() if response.status != 204 else None
        except (aiohttp.ClientError, TimeoutError) as error:
            raise DependencyUnavailable(f"no answer: {type(error).__name__} {error}") from error
