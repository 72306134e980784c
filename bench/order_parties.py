"""The customers of the shop, in a light process of their own: so many orders in flight, each until its saga has ended.

They write HTTP by hand, for a client library would take more of the two cores than some of the services. That an order
is done they read from order's database, all of them in one query some fifty times a second.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg
import orjson

from bench.party import Deed, play
from covey.ids import new_id
from covey.security.principal import DevelopmentTokens
from shop.client import Mint, ShopClient, order_of
from shop.seed import known_to_notification, known_to_order

PRODUCTS, USERS, PIECES = 24, 100, 100_000_000
POLL_SECONDS = 0.02
PATIENCE_SECONDS = 60.0
PAUSE_SECONDS = (0.1, 0.3)
# Of few orders by their ids: no plan for many.
SETTINGS = {"enable_seqscan": "off", "enable_hashjoin": "off", "enable_mergejoin": "off"}
ENDED = """
SELECT o.id, s.status FROM orders o JOIN covey.saga s ON s.id = o.saga_id
WHERE o.id = ANY ($1) AND s.ended_at IS NOT NULL
"""


Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Busy(Exception):
    """Nobody could take the request now: every connection to the database was in use for too long."""


class Customers:
    """Each of them orders, waits until the order is shipped and the mail is sent, and orders again."""

    def __init__(self, url: str, mint: Mint, database: asyncpg.Connection) -> None:
        parts = urlsplit(url)
        self._mint = mint
        self._host, self._port = str(parts.hostname), int(parts.port or 80)
        self._database = database
        self._chance = random.Random(7)
        self._products: list[UUID] = []
        self._users: list[UUID] = []
        self._waiting: dict[UUID, asyncio.Future[str]] = {}
        self._placed: list[UUID] = []
        self._answer_ms: list[float] = []
        self._order_ms: list[float] = []
        self._asked_again = 0
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []

    async def prepare(self, urls: dict[str, str], databases: dict[str, str]) -> list[str]:
        """Sell products and open accounts that want mail; wait until others know of them, and return the users."""
        async with ShopClient.open(urls, self._mint) as client:
            self._products = [await client.sell(f"Thing {number}", 100 + 50 * number) for number in range(PRODUCTS)]
            for product in self._products:
                await client.deliver(product, PIECES)
            self._users = [await client.register() for _ in range(USERS)]
        await known_to_order(databases["order"], set(self._products))
        await known_to_notification(databases["notification"], set(self._users))
        return [str(user) for user in self._users]

    async def start(self, in_flight: int) -> None:
        """Begin to order, and go on until `stop`."""
        self._stopping = False
        self._tasks = [asyncio.create_task(self._order_again()) for _ in range(in_flight)]
        self._tasks.append(asyncio.create_task(self._look()))

    async def mark(self) -> dict[str, Any]:
        """Return the time, and what each order took that has ended since the last mark, and its answer, in ms."""
        self._check()
        taken = {"at": time.monotonic(), "answer_ms": self._answer_ms, "order_ms": self._order_ms}
        taken["asked_again"] = self._asked_again
        self._answer_ms, self._order_ms, self._asked_again = [], [], 0
        return taken

    async def stop(self) -> list[str]:
        """Order no more, wait until every order has ended; return the ids of all that were accepted since `start`."""
        self._stopping = True
        async with asyncio.timeout(PATIENCE_SECONDS):
            await asyncio.gather(*self._tasks)
        placed, self._placed = self._placed, []
        return [str(order_id) for order_id in placed]

    async def read(self, paths: list[str], url: str, in_flight: int, seconds: float) -> dict[str, Any]:
        """Read these paths over and over; return how many reads there were in how many seconds, and their ms."""
        ms: list[float] = []
        begun = time.monotonic()
        readers = (self._read_again(url, paths[n::in_flight], begun + seconds, ms) for n in range(in_flight))
        await asyncio.gather(*readers)
        return {"seconds": time.monotonic() - begun, "ms": ms}

    async def _read_again(self, url: str, paths: list[str], until: float, ms: list[float]) -> None:
        parts, token = urlsplit(url), self._mint("staff:bench", "staff")
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        for path in itertools.cycle(paths):
            begun = time.monotonic()
            head = f"Host: {parts.netloc}\r\nAuthorization: Bearer {token}"
            request = f"GET /api/v1{path} HTTP/1.1\r\n{head}\r\n\r\n"
            await _answer(reader, writer, request.encode(), "200")
            ms.append((time.monotonic() - begun) * 1e3)
            if time.monotonic() > until:
                break
        writer.close()

    async def _order_again(self) -> None:
        connection = await asyncio.open_connection(self._host, self._port)
        while not self._stopping:
            begun, request = time.monotonic(), self._request()
            while (answer := await self._asked(connection, request)) is None:  # as a good customer: with the same key
                self._asked_again += 1
                connection[1].close()
                await asyncio.sleep(self._chance.uniform(*PAUSE_SECONDS))
                connection = await asyncio.open_connection(self._host, self._port)
            order_id = UUID(answer["location"].rpartition("/")[2])
            self._placed.append(order_id)
            self._answer_ms.append((time.monotonic() - begun) * 1e3)
            ended = self._waiting[order_id] = asyncio.get_running_loop().create_future()
            if await ended != "completed":
                raise RuntimeError(f"the saga of order {order_id} ended {ended.result()}")
            self._order_ms.append((time.monotonic() - begun) * 1e3)
        connection[1].close()

    async def _asked(self, connection: Connection, request: bytes) -> dict[str, str] | None:
        """Return the answer to an order; None when the connection was closed, or nobody could take the order now."""
        try:
            return await _answer(*connection, request, "201")
        except (asyncio.IncompleteReadError, ConnectionError, Busy):
            return None

    async def _look(self) -> None:
        while self._waiting or not self._stopping:
            begun = time.monotonic()
            for order_id, status in await self._database.fetch(ENDED, list(self._waiting)):
                self._waiting.pop(order_id).set_result(status)
            await asyncio.sleep(max(0.0, begun + POLL_SECONDS - time.monotonic()))

    def _request(self) -> bytes:
        chosen = self._chance.sample(self._products, self._chance.randint(1, 3))
        lines = {product: self._chance.randint(1, 3) for product in chosen}
        user_id = self._chance.choice(self._users)
        body = orjson.dumps(order_of(lines, "tok_ok", user_id))
        head = (
            f"POST /api/v1/orders HTTP/1.1\r\nHost: {self._host}:{self._port}\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer {self._mint(f'user:{user_id}')}\r\n"
            f"Idempotency-Key: {new_id()}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    def _check(self) -> None:
        for task in self._tasks:
            if task.done() and not self._stopping:
                task.result()


async def _answer(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes, status: str
) -> dict[str, str]:
    """Send a request and return the headers of the answer. Raises Busy, and RuntimeError for any other status."""
    writer.write(request)
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
    body = await reader.readexactly(int(headers["content-length"]))
    if head.startswith("HTTP/1.1 503"):
        raise Busy
    if not head.startswith(f"HTTP/1.1 {status}"):
        raise RuntimeError(f"the answer is {head.splitlines()[0]}: {body.decode()}")
    return headers


@asynccontextmanager
async def customers(settings: dict[str, Any]) -> AsyncIterator[Mapping[str, Deed]]:
    """Be all customers. Settings: `url` and `database_url` of order, and the shop's `development_key`."""
    database = await asyncpg.connect(settings["database_url"], server_settings=SETTINGS)
    all_of_them = Customers(settings["url"], DevelopmentTokens(settings["development_key"]).mint, database)
    yield {
        "prepare": all_of_them.prepare,
        "start": all_of_them.start,
        "mark": all_of_them.mark,
        "stop": all_of_them.stop,
        "read": all_of_them.read,
    }
    await database.close()


if __name__ == "__main__":
    play({"customers": customers})
