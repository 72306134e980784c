"""Orders of every outcome: what a customer does, how those outside behave meanwhile, and what must come of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from covey.ids import new_id
from shop.client import ShopClient, Unexpected, order_of

Body = dict[str, Any]
Act = Callable[[ShopClient, Body], Awaitable[UUID]]


async def place(client: ShopClient, order: Body) -> UUID:
    """Place the order."""
    return (await client.place(order)).id


async def place_twice(client: ShopClient, order: Body) -> UUID:
    """Submit the order twice under one idempotency key. Raises Unexpected when that makes two orders."""
    key = str(new_id())
    first, second = await client.place(order, key), await client.place(order, key)
    if first.id != second.id:
        raise Unexpected(201, f"one submission made two orders, {first.id} and {second.id}")
    return first.id


async def place_and_cancel(client: ShopClient, order: Body) -> UUID:
    """Place the order, and cancel it while the provider thinks about the authorization."""
    order_id = (await client.place(order)).id
    await client.happened(order_id, "AuthorizePayment asked")
    await client.cancel(order_id, "the customer has changed their mind")
    return order_id


async def place_and_return(client: ShopClient, order: Body) -> UUID:
    """Place the order, and return one piece of each product when it is on its way."""
    order_id = (await client.place(order)).id
    await client.happened(order_id, "ShipOrder done")
    return_id = await client.return_goods(order_id, {UUID(line["product_id"]): 1 for line in order["lines"]})
    await client.returned(order_id, return_id)
    return order_id


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What is done, and the status and the reason that must come of it. `lines` are quantities by product name.

    `mailbox` is that of the customer: the mail server behaves as its name says. `mail`: what must become of the mail.
    `followed`: it is worth to see step by step what was done for it; of others only in short.
    """

    title: str
    lines: Mapping[str, int]
    token: str = "tok_ok"
    act: Act = place
    status: str = "confirmed"
    reason: str = ""
    mailbox: str = "ada"
    wants_mail: bool = True
    mail: str = "sent"
    followed: bool = False

    def order(self, products: Mapping[str, UUID], user_id: UUID | None = None) -> Body:
        """Return the order as the user places it; without one, somebody who has no account."""
        return order_of({products[name]: quantity for name, quantity in self.lines.items()}, self.token, user_id)

    def fulfilled_by(self, order: Body) -> bool:
        """Tell whether an order has come to the end that it should."""
        returns = all(one["status"] == "completed" for one in order["returns"])
        return bool(order["status"] == self.status and self.reason in (order["reason"] or "") and returns)

    def told_by(self, mail: Body | None) -> bool:
        """Tell whether the customer was told as they should be; of an order that came to nothing there is no mail."""
        return (mail["status"] if mail else "") == (self.mail if self.status == "confirmed" else "")


SCENARIOS = (
    Scenario(title="all is well", lines={"Stoneware mug": 2, "Linen tea towel": 1}, followed=True),
    Scenario(
        title="more than there is in stock",
        lines={"Stoneware mug": 1, "Cast-iron teapot": 1_000},
        status="rejected",
        reason="out of stock",
    ),
    Scenario(
        title="the card is declined",
        lines={"Cast-iron teapot": 1},
        token="tok_declined",
        status="rejected",
        reason="declined",
    ),
    Scenario(
        title="the capture is declined",
        lines={"Olive-wood spoon": 3},
        token="tok_capture_declined",
        status="rejected",
        reason="declined",
        followed=True,
    ),
    Scenario(title="the same submission, twice", lines={"Linen tea towel": 4}, act=place_twice),
    Scenario(
        title="cancelled while the money is put aside",
        lines={"Cast-iron teapot": 1},
        token="tok_slow",
        act=place_and_cancel,
        status="cancelled",
        reason="changed their mind",
    ),
    Scenario(
        title="one piece of each is sent back",
        lines={"Stoneware mug": 2, "Olive-wood spoon": 1},
        act=place_and_return,
        followed=True,
    ),
    Scenario(title="the provider is slow", lines={"Stoneware mug": 1}, token="tok_slow"),
    Scenario(title="the provider is down, then back", lines={"Olive-wood spoon": 1}, token="tok_down_3"),
    Scenario(
        title="the provider is down, and stays down",
        lines={"Linen tea towel": 1},
        token="tok_down",
        status="rejected",
        reason="authorizing the payment: no answer in time",
    ),
    Scenario(
        title="the provider goes down before the capture",
        lines={"Olive-wood spoon": 2},
        token="tok_down_capture_3",
    ),
    Scenario(
        title="the provider captures, and does not say so",
        lines={"Cast-iron teapot": 1},
        token="tok_timeout_after_capture",
        followed=True,
    ),
    Scenario(
        title="the provider authorizes, and never says so",
        lines={"Stoneware mug": 1},
        token="tok_timeout_after_charge",
        status="rejected",
        reason="authorizing the payment: no answer in time",
    ),
    Scenario(title="the mail server is busy, then is not", lines={"Linen tea towel": 1}, mailbox="busy-2"),
    Scenario(
        title="the mail is taken, its answer is lost", lines={"Stoneware mug": 1}, mailbox="drop-1", followed=True
    ),
    Scenario(title="there is no such mailbox", lines={"Linen tea towel": 1}, mailbox="refuse", mail="refused"),
    Scenario(title="the customer wants no mail", lines={"Stoneware mug": 1}, wants_mail=False, mail="skipped"),
)
