"""Each status that a service answers with, provoked over the wire at services of the shop: user, and for 502 shipping,
which asks its carrier while a client waits.

What none of them can be brought to soon, for all are patient with bodies, is provoked at the smallest service: 408.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import pytest
import shipping_service.main
import user_service.main
from fastapi import APIRouter
from shipping_service import storage
from shipping_service.domain import Line, OrderId, ProductId, Shipment, ShipmentId, UserId, booked
from shipping_service.main import ShippingSettings

from covey.database.pool import Database
from covey.http import problems
from covey.http.edge import HttpOptions
from covey.ids import new_id
from covey.local.ports import free_port
from covey.messaging.brokers.memory import MemoryBroker
from covey.security.access import public
from covey.service import Parts, Service
from covey.settings import ServiceSettings
from covey.testing.cable import Cable
from covey.testing.serving import serving
from covey.testing.tokens import KEY, bearer
from covey.work.unit_of_work import Transactions

SERVICES = Path(__file__).parents[2] / "services"
USER, SHIPPING = SERVICES / "user", SERVICES / "shipping"
GUIDE = {200, 201, 204, 400, 401, 403, 404, 409, 422, 429, 500, 502, 503, 504}
"""The statuses that the guide to microservices asks for."""

S = TypeVar("S", bound=ServiceSettings)

STAFF = bearer("staff:test", "staff")
ADA = {"name": "Ada", "email": "ada@example.org"}


@dataclass(frozen=True)
class Reply:
    """What came back over the wire."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Stage:
    """The user service with its database behind a cable, and a client of it."""

    users: aiohttp.ClientSession
    books: Transactions
    cable: Cable
    make_database: Callable[[Path | None], str]

    async def ask(self, method: str, path: str, *, headers: Mapping[str, str] | None = None, **body: Any) -> Reply:
        """Ask the user service as the staff, or as whoever `headers` name."""
        return await _ask(self.users, method, path, {**STAFF, **(headers or {})}, **body)

    async def ask_unknown(self, method: str, path: str, **body: Any) -> Reply:
        """Ask the user service without saying who."""
        return await _ask(self.users, method, path, {}, **body)

    async def ask_smallest(self, method: str, path: str, headers: Mapping[str, str], **body: Any) -> Reply:
        """Ask the smallest service."""
        async with _served(smallest_service(), self.make_database(None)) as client:
            return await _ask(client, method, path, headers, **body)

    async def ada(self) -> str:
        """Open an account and return its path."""
        return (await self.ask("POST", "/api/v1/users", json=ADA)).headers["Location"]


Provoke = Callable[[Stage], Awaitable[Reply]]

TABLE: dict[int, tuple[str | None, Provoke]] = {}
"""For each status the type of its problem, if it is one, and how it is provoked."""


def row(status: int, problem: str | None = None) -> Callable[[Provoke], Provoke]:
    """Put a function into the table."""

    def put(provoke: Provoke) -> Provoke:
        assert status not in TABLE
        TABLE[status] = problem, provoke
        return provoke

    return put


@row(200)
async def somebody_is_read(stage: Stage) -> Reply:
    return await stage.ask("GET", await stage.ada())


@row(201)
async def somebody_opens_an_account(stage: Stage) -> Reply:
    return await stage.ask_unknown("POST", "/api/v1/users", json=ADA)


@row(202)
async def all_are_announced(stage: Stage) -> Reply:
    return await stage.ask("POST", "/api/v1/users/announcements", json={})


@row(204)
async def an_account_is_closed(stage: Stage) -> Reply:
    return await stage.ask("DELETE", await stage.ada())


@row(304)
async def what_the_caller_has_is_read_again(stage: Stage) -> Reply:
    return await stage.ask("GET", await stage.ada(), headers={"If-None-Match": '"1"'})


@row(400, "unreadable")
async def what_is_no_json(stage: Stage) -> Reply:
    return await stage.ask("POST", "/api/v1/users", data=b"{", headers={"Content-Type": "application/json"})


@row(401, "unauthenticated")
async def nobody_says_who_asks(stage: Stage) -> Reply:
    return await stage.ask_unknown("GET", await stage.ada())


@row(403, "forbidden")
async def somebody_else_asks(stage: Stage) -> Reply:
    return await stage.ask("GET", await stage.ada(), headers=bearer(f"user:{new_id()}"))


@row(404, "not-found")
async def nobody_is_there(stage: Stage) -> Reply:
    return await stage.ask("GET", f"/api/v1/users/{new_id()}")


@row(405, "method-not-allowed")
async def a_method_that_nothing_here_takes(stage: Stage) -> Reply:
    return await stage.ask("DELETE", "/api/v1/users")


@row(406, "not-acceptable")
async def a_form_that_there_is_not(stage: Stage) -> Reply:
    return await stage.ask("GET", await stage.ada(), headers={"Accept": "text/html"})


@row(408, "too-slow")
async def a_body_that_never_ends(stage: Stage) -> Reply:
    async def body() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    return await stage.ask_smallest("POST", "/echo", {"Content-Type": "application/json"}, data=body())


@row(409, "conflict")
async def an_email_that_somebody_has(stage: Stage) -> Reply:
    await stage.ada()
    return await stage.ask("POST", "/api/v1/users", json=ADA)


@row(412, "precondition-failed")
async def a_change_of_what_is_no_longer_so(stage: Stage) -> Reply:
    return await stage.ask("PUT", await stage.ada(), json=ADA, headers={"If-Match": '"7"'})


@row(413, "too-large")
async def a_body_over_the_limit(stage: Stage) -> Reply:
    body = BytesIO(json.dumps({**ADA, "name": "x" * 2**20}).encode())
    return await stage.ask("POST", "/api/v1/users", data=body, headers={"Content-Type": "application/json"})


@row(415, "unsupported-media-type")
async def a_body_of_another_kind(stage: Stage) -> Reply:
    return await stage.ask("POST", "/api/v1/users", data=b"name=Ada", headers={"Content-Type": "text/plain"})


@row(422, "invalid")
async def a_user_without_a_name(stage: Stage) -> Reply:
    return await stage.ask("POST", "/api/v1/users", json={**ADA, "name": ""})


@row(428, "precondition-required")
async def a_change_of_whatever_is_there(stage: Stage) -> Reply:
    return await stage.ask("PUT", await stage.ada(), json=ADA)


@row(429, "too-many-requests")
async def one_account_after_another(stage: Stage) -> Reply:
    for _ in range(100):
        reply = await stage.ask_unknown("POST", "/api/v1/users", json={})
        if reply.status != 422:
            break
    return reply


@row(500, "internal")
async def a_defect_of_ours(stage: Stage) -> Reply:
    path = await stage.ada()
    async with stage.books.begin() as work:
        await work.execute("ALTER TABLE account RENAME TO elsewhere")
    return await stage.ask("GET", path)


@row(502, "dependency-unavailable")
async def a_dependency_that_does_not_answer(stage: Stage) -> Reply:
    url = stage.make_database(SHIPPING / "migrations")
    shipment_id = await a_parcel(url)
    settings = ShippingSettings(
        database_url=url,
        nats_url="nats://unused",
        development_key=KEY,
        carrier_url=f"http://127.0.0.1:{free_port()}",
    )
    async with _listening(shipping_service.main.service, settings) as client:
        return await _ask(client, "GET", f"/api/v1/shipments/{shipment_id}/tracking", STAFF)


@row(503, "unavailable")
async def a_database_that_is_away(stage: Stage) -> Reply:
    path = await stage.ada()
    stage.cable.cut()
    return await stage.ask("GET", path)


@row(504, "deadline-exceeded")
async def a_caller_who_has_less_time_than_it_takes(stage: Stage) -> Reply:
    path = await stage.ada()
    async with stage.books.begin() as work:
        await work.execute("SELECT 1 FROM account FOR UPDATE")
        return await stage.ask("PUT", path, json=ADA, headers={"If-Match": '"1"', "Covey-Timeout-Ms": "200"})


HEADERS = {
    201: "Location",
    304: "ETag",
    401: "WWW-Authenticate",
    405: "Allow",
    415: "Accept",
    429: "Retry-After",
    503: "Retry-After",
}
"""What an answer of a status must have, besides its body."""


@pytest.mark.parametrize("status", sorted(TABLE))
async def test_it_is_answered(status: int, stage: Stage) -> None:
    problem, provoke = TABLE[status]

    reply = await provoke(stage)

    assert reply.status == status, reply.body
    assert reply.headers.get(HEADERS.get(status, "X-Correlation-Id"))
    if problem is not None:
        assert_problem(reply, problem)
    elif status in (204, 304):
        assert reply.body == b""
    else:
        assert (reply.headers["Content-Type"], isinstance(json.loads(reply.body), dict)) == ("application/json", True)


def assert_problem(reply: Reply, slug: str) -> None:
    """Assert that it is problem details (RFC 9457), and tells nothing of our inside."""
    document = json.loads(reply.body)
    assert reply.headers["Content-Type"] == "application/problem+json"
    assert (document["type"], document["status"]) == (f"/problems/{slug}", reply.status)
    assert document["title"] and document["instance"].startswith("/")
    assert document["correlation_id"] == reply.headers["X-Correlation-Id"]
    assert reply.status < 500 or "detail" not in document


def test_nothing_is_missing_from_the_table() -> None:
    meant = {status for status, _, _ in problems._MEANINGS.values()}

    assert GUIDE | meant | {405, 415} <= set(TABLE)


@pytest.fixture
async def stage(make_database: Callable[[Path | None], str]) -> AsyncIterator[Stage]:
    url = make_database(USER / "migrations")
    async with (
        Cable.to(url) as cable,
        Database.open(url) as database,
        _served(user_service.main.service, cable.url) as users,
    ):
        yield Stage(users, Transactions(database, "user"), cable, make_database)


async def a_parcel(database_url: str) -> ShipmentId:
    """Have a shipment that the carrier has taken."""
    lines = (Line(ProductId(new_id()), 1),)
    shipment = Shipment(ShipmentId(new_id()), OrderId(new_id()), UserId(new_id()), lines)
    async with Database.open(database_url) as database, Transactions(database, "shipping").begin() as work:
        storage.add_shipment(work, shipment)
    async with Database.open(database_url) as database, Transactions(database, "shipping").begin() as work:
        await storage.keep_shipment(work, booked(shipment, "SC000000001"))
    return shipment.id


def smallest_service() -> Service[ServiceSettings]:
    """Return a service that has little patience with bodies."""
    api = APIRouter()

    @api.post("/echo")
    @public
    async def echo(body: dict[str, str]) -> dict[str, str]:
        return body

    return Service("smallest", Parts(http=[api], limits=HttpOptions(body_timeout=timedelta(seconds=0.1))))


def _served(service: Service[ServiceSettings], database_url: str) -> AbstractAsyncContextManager[aiohttp.ClientSession]:
    """Have a service without settings of its own listen inside the block; yields a client of it."""
    settings = ServiceSettings(database_url=database_url, nats_url="nats://unused", development_key=KEY)
    return _listening(service, settings)


@asynccontextmanager
async def _listening(service: Service[S], settings: S) -> AsyncIterator[aiohttp.ClientSession]:
    """Have a service listen inside the block; yields a client of it."""
    async with (
        service.running(settings, MemoryBroker()) as running,
        serving(running.app) as url,
        aiohttp.ClientSession(url) as client,
    ):
        yield client


async def _ask(client: aiohttp.ClientSession, method: str, path: str, headers: Mapping[str, str], **body: Any) -> Reply:
    async with client.request(method, path, headers=headers, **body) as response:
        return Reply(response.status, response.headers.copy(), await response.read())
