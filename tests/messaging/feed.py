"""What the tests of messaging share: a service `feed` that tells, and a service `shop` that keeps what it handled."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg

from covey.ids import new_id
from covey.message import Envelope, Event
from covey.messaging.broker import Broker
from covey.messaging.router import Router
from covey.testing.blocking import blocking
from covey.testing.eventually import eventually
from covey.testing.replica import Replica
from covey.work.unit_of_work import Work

PATIENCE = timedelta(seconds=20)

_WAITED = """
CREATE TABLE waited (key text);
CREATE FUNCTION waits() RETURNS trigger LANGUAGE plpgsql
    AS 'BEGIN INSERT INTO waited VALUES (NEW.key); RETURN NULL; END';
CREATE TRIGGER waits AFTER INSERT OR UPDATE ON covey.hold
    FOR EACH ROW WHEN (NEW.state = 'waiting') EXECUTE FUNCTION waits();
"""


class Added(Event, type="feed.added.v1", key="name"):
    """What the shop reads of `feed`."""

    name: str
    n: int


@dataclass(frozen=True)
class Feed:
    """Publishes what a service `feed` would, without being one."""

    broker: Broker

    def envelope(self, key: str, n: int, **changes: Any) -> Envelope:
        """Return the event `feed.added.v1` with the body `{"name": …, "n": …}`, changed as asked."""
        return replace(
            Envelope(
                id=new_id(),
                type="feed.added.v1",
                key=key,
                source="feed",
                time=datetime.now(UTC),
                body=json.dumps({"name": key, "n": n}).encode(),
                stream="feed",
            ),
            **changes,
        )

    async def publish(self, envelopes: Iterable[Envelope]) -> list[Envelope]:
        """Publish in this order, making the streams."""
        published = list(envelopes)
        for stream in {one.stream for one in published}:
            await self.broker.ensure_stream(stream)
        await self.broker.publish(published)
        return published

    async def add(self, key: str, numbers: Sequence[int]) -> list[Envelope]:
        """Publish `feed.added.v1` for each number."""
        return await self.publish([self.envelope(key, n) for n in numbers])


def with_effects(url: str) -> str:
    """Add the table `effect`, in whose `at` the order of handling is seen, to a database; return its URL."""

    async def create() -> None:
        connection = await asyncpg.connect(url)
        await connection.execute(
            "CREATE TABLE effect (at bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, key text, n int, by text)"
        )
        await connection.close()

    blocking(create())
    return url


async def keep(message: Added, work: Work, by: str = "") -> None:
    """Have the effect of a message."""
    await work.execute("INSERT INTO effect (key, n, by) VALUES ($1, $2, $3)", message.name, message.n, by)


def keeping() -> Router:
    """Return a router that keeps everything."""
    router = Router()

    @router.on(Added)
    async def handle(message: Added, work: Work) -> None:
        await keep(message, work)

    return router


async def effects(shop: Replica, key: str | None = None) -> list[int]:
    """Return the numbers that were handled, of a key or of all, in the order of handling."""
    rows = await shop.fetch("SELECT n FROM effect WHERE $1::text IS NULL OR key = $1 ORDER BY at", key)
    return [row["n"] for row in rows]


async def handled(shop: Replica, count: int, within: timedelta = PATIENCE) -> None:
    """Wait until so many effects are there."""

    async def enough() -> bool:
        found = await shop.fetchval("SELECT count(*) FROM effect")
        assert found >= count, f"{found} of {count}"
        return True

    await eventually(enough, within)


async def holds(shop: Replica) -> dict[str, tuple[str, int, str | None]]:
    """Return for each key that does not move its state, attempts and error."""
    rows = await shop.fetch("SELECT key, state, attempts, error FROM covey.hold")
    return {row["key"]: (row["state"], row["attempts"], row["error"]) for row in rows}


async def remember_who_waits(url: str) -> None:
    """Have a database remember which keys were held to wait, however shortly: see `have_waited`."""
    connection = await asyncpg.connect(url)
    await connection.execute(_WAITED)
    await connection.close()


async def have_waited(shop: Replica) -> set[str]:
    """Return the keys that were held to wait since `remember_who_waits`."""
    return {row["key"] for row in await shop.fetch("SELECT key FROM waited")}


async def dead(shop: Replica, count: int = 1) -> dict[str, str]:
    """Wait for so many dead letters and return the reason of each key."""

    async def all_of_them() -> dict[str, str]:
        found = {key: error or "" for key, (state, _, error) in (await holds(shop)).items() if state == "dead"}
        assert len(found) >= count, found
        return found

    return await eventually(all_of_them, PATIENCE)


async def unhandled(shop: Replica) -> int:
    """Return how many messages are stored and not handled."""
    return int(
        await shop.fetchval(
            "SELECT (SELECT count(*) FROM covey.inbox_pending) + (SELECT count(*) FROM covey.inbox_held)"
        )
    )


async def settled(shop: Replica) -> None:
    """Wait until nothing waits, neither ready nor held."""

    async def empty() -> bool:
        left = await unhandled(shop)
        assert left == 0, f"{left} messages wait; holds: {await holds(shop)}"
        return True

    await eventually(empty, PATIENCE)
