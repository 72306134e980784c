"""What the tests of effects outside share: somebody outside, and commands that ask them for something."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID

from covey.ids import new_id
from covey.message import Command, Envelope, Refused, Reply
from covey.messaging.options import MessagingOptions
from covey.messaging.router import Router
from covey.testing.replica import ReplicaOptions
from covey.work.unit_of_work import Work


class Charge(Command, type="shop.charge.v1", key="cart"):
    cart: str
    n: int


class Charged(Reply):
    receipt: str


async def at_once(command: Charge, key: str) -> str:
    """Answer at once."""
    return f"receipt of {key}"


@dataclass
class Provider:
    """An outside that remembers every call. `answer` is what it does with one."""

    answer: Callable[[Charge, str], Awaitable[str]] = at_once
    calls: list[tuple[int, str]] = field(default_factory=list)
    under_way: int = 0
    most: int = 0

    def router(self) -> Router:
        """Return a router with this effect."""
        router = Router()
        router.external(Charge, self, timeout=timedelta(seconds=10))
        return router

    async def intend(self, message: Charge, work: Work) -> str | Reply:
        """Refuse what is negative, before any call."""
        if message.n < 0:
            return Refused(reason="nothing to charge")
        return f"intent {message.n}"

    async def call(self, message: Charge, intent: str, key: str) -> str:
        """Remember the call and answer it."""
        assert intent == f"intent {message.n}"
        self.calls.append((message.n, key))
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            return await self.answer(message, key)
        finally:
            self.under_way -= 1

    async def settle(self, message: Charge, result: str, work: Work) -> Reply:
        """Keep the answer."""
        await work.execute("INSERT INTO effect (key, n, by) VALUES ($1, $2, $3)", message.cart, message.n, result)
        return Charged(receipt=result)


def charge(cart: str, n: int, command_id: UUID | None = None, **headers: str) -> Envelope:
    """Return a command of the service `feed` that wants an answer."""
    return Envelope(
        id=new_id(),
        type="shop.charge.v1",
        key=cart,
        source="feed",
        time=datetime.now(UTC),
        body=Charge(cart=cart, n=n).model_dump_json().encode(),
        kind="command",
        stream="shop",
        headers={"reply-to": "feed", "command-id": str(command_id or new_id())} | headers,
    )


def quick(**changes: object) -> ReplicaOptions:
    """Options with little patience, changed as asked."""
    given = {
        "backoff": timedelta(milliseconds=5),
        "backoff_cap": timedelta(milliseconds=50),
        "poll": timedelta(milliseconds=20),
    }
    return ReplicaOptions(
        messaging=MessagingOptions(**(given | changes)),  # type: ignore[arg-type]  # spans and counts
        drain=timedelta(milliseconds=200),
    )
