"""An app with its own FastAPI and SQLAlchemy transaction publishes and handles events through covey's core."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tomllib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import aiohttp
import asyncpg
import nats
import pytest

from covey.clock import SystemClock
from covey.errors import DefinitionError
from covey.ids import new_id
from covey.local.engines.embedded import Engines
from covey.local.ports import free_port
from covey.local.running import UpOptions, running_system
from covey.message import Envelope
from covey.messaging.broker import Topic
from covey.messaging.brokers.nats import NatsBroker
from covey.messaging.cloud_events import to_headers
from covey.testing.eventually import eventually
from covey.testing.serving import serving
from tests.docs.pages import blocks

FOLDER = Path(__file__).parents[2] / "examples" / "existing-fastapi"
REGISTERED = Topic("event", "customer-registered")


@dataclass(frozen=True)
class Place:
    """Where the app and its tests find the engines."""

    database_url: str
    nats_url: str
    system: str

    def environment(self) -> dict[str, str]:
        """What the app is told."""
        return {"DATABASE_URL": self.database_url, "NATS_URL": self.nats_url, "COVEY_SYSTEM": self.system}


@pytest.fixture
def place(
    crm: ModuleType, make_database: Callable[[Path | None], str], covey_engines: Engines, system_name: str
) -> Place:
    """An empty database that the example's own script has migrated, and a system of its own."""
    url = make_database(None)
    import_module("migrate").main(url)
    return Place(url, covey_engines.nats_url, system_name)


@pytest.fixture
async def http(crm: ModuleType, place: Place, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of the app, running in this process."""
    for name, value in place.environment().items():
        monkeypatch.setenv(name, value)
    async with serving(crm.app, lifespan=True) as url, aiohttp.ClientSession(url) as client:
        yield client


@asynccontextmanager
async def process(place: Place) -> AsyncIterator[tuple[asyncio.subprocess.Process, aiohttp.ClientSession]]:
    """The app in a process of its own, answering."""
    port = free_port()
    command = ("-m", "uvicorn", "crm:app", "--port", str(port), "--log-level", "warning")
    running = await asyncio.create_subprocess_exec(
        sys.executable, *command, cwd=FOLDER, env={**os.environ, **place.environment()}
    )

    async def answers(client: aiohttp.ClientSession) -> bool:
        assert running.returncode is None, "the app has ended"
        with suppress(aiohttp.ClientConnectionError):
            async with client.get("/openapi.json") as response:
                return response.status == 200
        return False

    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as client:
            await eventually(lambda: answers(client))
            yield running, client
    finally:
        if running.returncode is None:
            running.terminate()
            await running.wait()


async def register(http: aiohttp.ClientSession, name: str) -> str:
    async with http.post("/customers", json={"name": name}) as response:
        assert response.status == 201
        return str(await response.json())


async def shown(http: aiohttp.ClientSession, customer: str) -> dict[str, Any]:
    async with http.get(f"/customers/{customer}") as response:
        found: dict[str, Any] = await response.json()
        return found


async def published(broker: NatsBroker) -> Envelope:
    """Return the first message of the app's stream, when there is one."""
    await broker.ensure_stream("crm")
    async with asyncio.timeout(10), broker.read("crm", [REGISTERED], 0) as reader:
        (entry,) = await reader.next(1)
        return entry.envelope


def confirmed(customer: str) -> Envelope:
    """Return an event as the order service publishes it; more is in it than the app reads."""
    return Envelope(
        id=new_id(),
        type="order.confirmed.v1",
        key="an order",
        source="order",
        time=SystemClock().now(),
        body=f'{{"order_id": "{new_id()}", "user_id": "{customer}", "total": {{"amount": 1}}}}'.encode(),
        stream="order",
    )


async def publish_unrecognized(place: Place, envelope: Envelope) -> None:
    """Store a message so that the broker cannot tell that it has it already: as after its window of two minutes."""
    client = await nats.connect(place.nats_url)
    subject = f"{place.system}.order.event.confirmed.v1"
    await client.jetstream().publish(subject, envelope.body, headers=to_headers(envelope))
    await client.close()


async def count(place: Place, table: str, session: Any = None) -> int:
    """Count rows as another transaction sees them, or as the session's does."""
    if session is not None:
        raw = await (await session.connection()).get_raw_connection()
        return int(await raw.driver_connection.fetchval(f"SELECT count(*) FROM {table}"))
    connection = await asyncpg.connect(place.database_url)
    try:
        return int(await connection.fetchval(f"SELECT count(*) FROM {table}"))
    finally:
        await connection.close()


async def ingested(place: Place, sequence: int) -> bool:
    return await count(place, f"covey.ingest WHERE stream = 'order' AND sequence >= {sequence}") == 1


async def nothing_pending(place: Place) -> bool:
    return await count(place, "covey.inbox_pending") == 0


async def test_a_customer_and_the_event_are_committed_together(
    http: aiohttp.ClientSession, nats_broker: NatsBroker
) -> None:
    customer = await register(http, "Ada")

    event = await published(nats_broker)
    assert await shown(http, customer) == {"name": "Ada", "orders": 0}
    assert (event.type, event.key, event.source) == ("crm.customer-registered.v1", customer, "crm")


async def test_what_the_apps_own_transaction_rolls_back_was_never_published(
    http: aiohttp.ClientSession, crm: ModuleType, place: Place
) -> None:
    state = crm.app.state

    with pytest.raises(ZeroDivisionError):
        async with state.sessions.begin() as session:
            session.add(crm.Customer(name="Nobody"))
            async with crm.publishing(session, state.messaging) as work:
                work.publish(crm.CustomerRegistered(customer_id=new_id(), name="Nobody"))
            assert await count(place, "covey.outbox", session) == 1
            raise ZeroDivisionError

    assert (await count(place, "customer"), await count(place, "covey.outbox")) == (0, 0)


async def test_an_event_from_elsewhere_is_handled_once_though_it_is_delivered_twice(
    http: aiohttp.ClientSession, place: Place, nats_broker: NatsBroker
) -> None:
    customer = await register(http, "Ada")
    twice, another = confirmed(customer), confirmed(customer)

    await nats_broker.ensure_stream("order")
    for envelope in (twice, twice, another):
        await publish_unrecognized(place, envelope)

    await eventually(lambda: ingested(place, 3))
    await eventually(lambda: nothing_pending(place))
    assert await shown(http, customer) == {"name": "Ada", "orders": 2}


async def test_an_event_that_was_accepted_leaves_although_the_app_is_killed(
    place: Place, nats_broker: NatsBroker
) -> None:
    without_broker = replace(place, nats_url=f"nats://127.0.0.1:{free_port()}")
    async with process(without_broker) as (running, http):
        customer = await register(http, "Ada")
        running.send_signal(signal.SIGKILL)
        await running.wait()
    assert await count(place, "covey.outbox_pending") == 1, "the event was to be unpublished when the app was killed"

    async with process(place):
        event = await published(nats_broker)

    assert event.key == customer


async def test_publishing_without_an_effect_is_refused_rather_than_lost(
    http: aiohttp.ClientSession, crm: ModuleType
) -> None:
    state = crm.app.state

    async with state.sessions() as session:
        with pytest.raises(DefinitionError, match="begin one first"):
            async with crm.publishing(session, state.messaging):
                pass


@pytest.mark.slow
async def test_the_engines_of_covey_up_will_do(crm: ModuleType, tmp_path: Path) -> None:
    (stated,) = [block.text for block in blocks(FOLDER / "README.md") if block.language == "toml"]
    assert tomllib.loads(stated) == tomllib.loads((FOLDER / "covey.toml").read_text())
    async with running_system(FOLDER, UpOptions(without=["crm"], state=tmp_path / ".covey")) as system:
        told = await system.told("crm")
        assert all(f"`{name}`" in (FOLDER / "README.md").read_text() for name in told)
        import_module("migrate").main(told["DATABASE_URL"])

        async with process(Place(told["DATABASE_URL"], told["NATS_URL"], told["COVEY_SYSTEM"])) as (_, http):
            customer = await register(http, "Ada")
            async with http.get(f"/customers/{customer}") as response:
                assert await response.json() == {"name": "Ada", "orders": 0}
