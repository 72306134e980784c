"""The shop in a drill: customers, those outside, who misbehave, and the auditor. `covey drill` runs it.

Beside the books it holds the shop to what each customer was told: an order that was accepted exists and can be seen,
one whose cancellation was accepted ends cancelled, a return and a change of an account that were accepted are there,
and a submission makes one order, however often it is repeated.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

import aiohttp
import asyncpg

from covey.database.errors import DRIVER_ERRORS
from covey.errors import DatabaseUnavailable, DependencyUnavailable
from covey.local.running import RunningSystem
from covey.testing.drill.drilled import Notes, OwnFault, Verdict
from shop.auditor import audit
from shop.books import Sources
from shop.client import ShopClient
from shop.customers import ATTEMPT_SECONDS, Customers, Promises, Range
from shop.seed import known_to_notification, known_to_order
from shop.showing import sources_of

_PRODUCTS = 24
_USERS, _RESTLESS = 200, 50
_PLENTY, _SCARCE = 10_000_000, 400
_ANSWER_SECONDS = 2.0
_MISBEHAVIOUR = {
    "provider is slow": ("provider", "slow"),
    "provider says nothing": ("provider", "silent"),
    "provider books late": ("provider", "late"),
    "provider is down": ("provider", "down"),
    "provider lies": ("provider", "lie"),
    "carrier says nothing": ("carrier", "silent"),
    "carrier books late": ("carrier", "late"),
    "carrier is down": ("carrier", "down"),
    "mail server takes mail and cuts": ("mail", "drop"),
    "mail server is down": ("mail", "down"),
}
_NORMAL = {"provider": "answer", "carrier": "answer", "mail": "accept"}

Rules = dict[str, list[str]]


class ShopDrill:
    """`Drilled` for the shop."""

    def __init__(self, clients: Sequence[ShopClient], http: aiohttp.ClientSession, sources: Sources) -> None:
        self._clients = clients
        self._http = http
        self._sources = sources
        self.customers: Customers

    @property
    def faults(self) -> Sequence[OwnFault]:
        """See Drilled. Those outside take their orders through their administrator's door."""
        return [
            OwnFault(name=name, begin=partial(self._tell, whom, mode), end=partial(self._tell, whom, _NORMAL[whom]))
            for name, (whom, mode) in _MISBEHAVIOUR.items()
        ]

    async def prepare(self) -> None:
        """See Drilled: sell products, open accounts, and wait until others have heard of them."""
        client = self._clients[0]
        products = [await client.sell(f"Thing {number}", 100 + 50 * number) for number in range(_PRODUCTS)]
        for product in products:
            await client.deliver(product, _SCARCE if product == products[-1] else _PLENTY)
        users = [await client.register(wants_mail=number % 5 > 0) for number in range(_USERS)]
        await known_to_order(self._sources.databases["order"], set(products))
        await known_to_notification(self._sources.databases["notification"], set(users))
        restless = users[:: _USERS // _RESTLESS]
        offered = Range(plenty=products[:-1], scarce=products[-1], users=users, restless=restless)
        self.customers = Customers(self._clients, offered)

    async def arrive(self, chance: random.Random, notes: Notes) -> None:
        """See Drilled."""
        await self.customers.arrive(chance, notes)

    async def completed(self) -> int:
        """See Drilled: count the orders that are settled."""
        return int(await self._asked("SELECT count(*) FROM orders WHERE status <> 'pending'", "fetchval"))

    async def audit(self, within_seconds: float) -> Verdict:
        """See Drilled."""
        promises = self.customers.promises
        found = await audit(self._sources, promises.accepted, within_seconds=within_seconds)
        rules: Rules = {rule: list(violations) for rule, violations in found.findings.items()}
        users = await self._asked("SELECT user_id, count(*) FROM orders GROUP BY user_id", "fetch")
        books = found.books
        told = Told(
            status={order.id: order.status for order in books.orders.values()},
            orders_of=dict(users),
            returns=books.returns.keys(),
            versions={user_id: user.version for user_id, user in books.users.items()},
        )
        return Verdict(rules=rules | kept(promises, told), summary=found.summary())

    async def _tell(self, whom: str, mode: str) -> None:
        door = {"provider": self._sources.provider, "carrier": self._sources.carrier, "mail": self._sources.mail}[whom]
        try:
            async with self._http.put(f"{door}/admin/mode", json={"mode": mode}) as answer:
                answer.raise_for_status()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise DependencyUnavailable(f"the {whom} does not obey: {type(error).__name__}") from error

    async def _asked(self, query: str, how: str) -> Any:
        try:
            connection = await asyncpg.connect(self._sources.databases["order"], timeout=_ANSWER_SECONDS)
            try:
                return await getattr(connection, how)(query, timeout=_ANSWER_SECONDS)
            finally:
                connection.terminate()
        except (OSError, *DRIVER_ERRORS) as error:
            raise DatabaseUnavailable(f"order's database does not answer: {type(error).__name__}") from error


@dataclass(frozen=True, kw_only=True)
class Told:
    """What the books say of promises: the status of each order, how many a user has, returns, and users' versions."""

    status: Mapping[UUID, str]
    orders_of: Mapping[UUID, int]
    returns: Collection[UUID]
    versions: Mapping[UUID, int]


def kept(promises: Promises, told: Told) -> Rules:
    """Return what customers were promised and did not get. Pure."""
    return {
        "nobody was told what is not so": promises.broken,
        "an order whose cancellation was accepted is cancelled": [
            f"order {order_id} was to be cancelled, and is {told.status.get(order_id, 'lost')}"
            for order_id in promises.cancelled
            if told.status.get(order_id) != "cancelled"
        ],
        "a return that was accepted is there": [
            f"return {return_id} was accepted and is lost" for return_id in promises.returned - set(told.returns)
        ],
        "an account is as it was changed last, or was changed again": [
            f"user {user_id} was told of version {version}, and is at {told.versions.get(user_id, 'none')}"
            for user_id, version in promises.versions.items()
            if told.versions.get(user_id, 0) < version
        ],
        "a submission makes one order, however often it is repeated": [
            f"user {user_id} submitted {promises.submitted[user_id]} orders and has {number}"
            for user_id, number in told.orders_of.items()
            if number > promises.submitted[user_id]
        ],
    }


@asynccontextmanager
async def drilled(system: RunningSystem) -> AsyncIterator[ShopDrill]:
    """See covey.testing.drill.drilled: the shop that is up, ready to be drilled."""
    sources = sources_of(system)
    async with AsyncExitStack() as stack:
        clients = []
        for urls in _replicas(system):
            # No limit to connections: whom a replica keeps waiting must not keep others from asking.
            connector, limit = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(total=ATTEMPT_SECONDS)
            session = aiohttp.ClientSession(connector=connector, timeout=limit)
            clients.append(ShopClient(await stack.enter_async_context(session), urls, system.token))
        limit = aiohttp.ClientTimeout(total=_ANSWER_SECONDS)
        http = await stack.enter_async_context(aiohttp.ClientSession(timeout=limit))
        yield ShopDrill(clients, http, sources)


def _replicas(system: RunningSystem) -> list[dict[str, str]]:
    """Return the addresses for each client: the first replica of every service, the second of every service, …"""
    units = {service: system.replicas(service) for service in system.system.services}
    most = max(map(len, units.values()))
    return [{service: own[number % len(own)].url for service, own in units.items()} for number in range(most)]
