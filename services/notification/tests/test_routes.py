"""Notifications over HTTP, and a confirmation from the saga's step to the mail server and back."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp
import pytest
from notification_service import domain, storage
from notification_service.domain import Mail, Money, OrderId, UserId
from notification_service.main import NotificationSettings, service
from notification_service.messages import SendConfirmation
from pydantic import BaseModel

from covey.ids import new_id
from covey.message import Event
from covey.messaging.brokers.memory import MemoryBroker, MemoryLogs
from covey.saga.definition import retriable
from covey.saga.saga import Saga
from covey.testing.collector import FakeCollector
from covey.testing.eventually import eventually
from covey.testing.replica import Replica, replica
from covey.testing.serving import serving
from covey.work.unit_of_work import Transactions

PRICE = Money(4_900, "EUR")
CANARY = "c4n4ry"


class UserChanged(Event, type="user.changed.v1", key="user_id"):
    """What the user service publishes."""

    user_id: UserId
    version: int = 1
    closed: bool = False
    email: str | None = f"{CANARY}@example.org"
    name: str | None = f"Ada {CANARY}"
    locale: str | None = "en"
    wants_order_mail: bool = True
    wants_marketing_mail: bool = False


class Confirmation(BaseModel):
    """What order's saga gives to the step."""

    order_id: OrderId
    user_id: UserId
    total: Money


confirm = Saga("confirm", Confirmation, retriable(SendConfirmation))


@dataclass(frozen=True)
class Others:
    """The services around: order, whose saga asks for the mail, and user."""

    order: Replica
    user: Replica

    async def publish(self, event: UserChanged) -> None:
        async with self.user.transactions.begin() as work:
            work.publish(event)

    async def order_confirmed(self, user_id: UserId) -> tuple[OrderId, UUID]:
        """Begin the saga of a new order; return the ids of both."""
        order_id = OrderId(new_id())
        async with self.order.transactions.begin() as work:
            return order_id, await confirm.start(work, Confirmation(order_id=order_id, user_id=user_id, total=PRICE))

    async def completed(self, saga_id: UUID) -> bool:
        status = await self.order.fetchval("SELECT status FROM covey.saga WHERE id = $1", saga_id)
        return bool(status == "completed")


@pytest.fixture
def logs() -> MemoryLogs:
    """What all services' streams are kept in."""
    return MemoryLogs()


@pytest.fixture
def memory_broker(logs: MemoryLogs) -> MemoryBroker:
    """The broker of notification."""
    return MemoryBroker(logs)


@pytest.fixture
async def others(make_database: Callable[[Path | None], str], logs: MemoryLogs) -> AsyncIterator[Others]:
    """The other services, up."""
    async with (
        replica("order", make_database(None), MemoryBroker(logs), sagas=[confirm]) as order,
        replica("user", make_database(None), MemoryBroker(logs)) as user,
    ):
        yield Others(order, user)


async def a_mail(transactions: Transactions, user_id: UserId) -> Mail:
    mail = Mail(domain.mail_id(new_id()), OrderId(new_id()), user_id, PRICE)
    async with transactions.begin() as work:
        await storage.asked_for(work, mail)
    return mail


async def known(transactions: Transactions, user_id: UserId) -> bool:
    async with transactions.begin() as work:
        return bool(await work.fetchval("SELECT EXISTS (SELECT FROM recipient WHERE id = $1)", user_id))


async def get(http: aiohttp.ClientSession, path: str) -> tuple[int, Any]:
    async with http.get(f"/api/v1/notifications{path}") as response:
        return response.status, await response.json(content_type=None)


async def ids(http: aiohttp.ClientSession, query: str) -> list[str]:
    status, found = await get(http, f"?{query}")
    assert status == 200
    return [one["id"] for one in found["notifications"]]


async def test_a_notification_is_found_by_its_id_its_order_and_its_user(
    http: aiohttp.ClientSession, transactions: Transactions
) -> None:
    user_id = UserId(new_id())
    mails = [await a_mail(transactions, user_id) for _ in range(3)]
    await a_mail(transactions, UserId(new_id()))

    status, found = await get(http, f"/{mails[0].id}")

    assert (status, found["status"], found["attempts"], found["reason"]) == (200, "waiting", 0, None)
    assert found["order_id"] == str(mails[0].order_id)
    assert await ids(http, f"order_id={mails[0].order_id}") == [str(mails[0].id)]
    assert await ids(http, f"user_id={user_id}") == [str(mail.id) for mail in reversed(mails)]
    assert await ids(http, f"user_id={user_id}&limit=1") == [str(mails[2].id)]
    assert await ids(http, f"order_id={new_id()}") == []


async def test_the_notifications_of_a_user_are_listed_page_by_page(
    http: aiohttp.ClientSession, transactions: Transactions
) -> None:
    user_id = UserId(new_id())
    mails = [await a_mail(transactions, user_id) for _ in range(5)]
    seen, cursor = [], ""
    while cursor is not None:
        _, page = await get(http, f"?user_id={user_id}&sort=asked&limit=2{cursor and f'&cursor={cursor}'}")
        seen += [one["id"] for one in page["notifications"]]
        cursor = page["next"]

    assert seen == [str(mail.id) for mail in mails]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/{id}", 404),
        ("?user_id={id}&cursor=x", 400),
        ("/7", 422),
        ("", 422),
        ("?order_id=x", 422),
        ("?order_id={id}&user_id={id}", 422),
        ("?user_id={id}&limit=0", 422),
        ("?user_id={id}&limit=201", 422),
    ],
)
async def test_what_is_not_there_or_makes_no_sense_is_a_problem(
    http: aiohttp.ClientSession, path: str, expected: int
) -> None:
    status, problem = await get(http, path.format(id=new_id()))

    assert (status, problem["status"]) == (expected, expected)


async def test_a_saga_that_asks_for_a_mail_goes_on_when_it_is_sent(
    others: Others, http: aiohttp.ClientSession, sink: Any
) -> None:
    user_id = UserId(new_id())
    await others.publish(UserChanged(user_id=user_id))

    order_id, saga_id = await others.order_confirmed(user_id)

    await eventually(lambda: others.completed(saga_id))
    (mail,) = await sink.mails(order=str(order_id))
    (sent,) = (await get(http, f"?order_id={order_id}"))[1]["notifications"]
    assert mail["to"] == [f"{CANARY}@example.org"]
    assert mail["message_id"] == f"<{sent['id']}@shop.example>"
    assert (sent["status"], sent["attempts"]) == ("sent", 1)
    assert datetime.fromisoformat(sent["asked_at"]) <= datetime.fromisoformat(sent["settled_at"])


async def test_a_user_who_becomes_known_after_their_order_gets_the_mail(
    others: Others, http: aiohttp.ClientSession, sink: Any
) -> None:
    user_id = UserId(new_id())
    order_id, saga_id = await others.order_confirmed(user_id)
    await eventually(lambda: ids(http, f"order_id={order_id}"))

    await others.publish(UserChanged(user_id=user_id))

    await eventually(lambda: others.completed(saga_id))
    assert len(await sink.mails(order=str(order_id))) == 1


async def test_a_user_who_is_never_known_holds_no_saga_up(
    others: Others, http: aiohttp.ClientSession, sink: Any
) -> None:
    order_id, saga_id = await others.order_confirmed(UserId(new_id()))

    await eventually(lambda: others.completed(saga_id))
    (skipped,) = (await get(http, f"?order_id={order_id}"))[1]["notifications"]
    assert (skipped["status"], skipped["reason"]) == ("skipped", "no address is known")
    assert await sink.mails() == []


async def test_mail_that_a_server_which_is_down_could_not_take_is_sent_when_it_is_back(
    others: Others, http: aiohttp.ClientSession, sink: Any
) -> None:
    user_id = UserId(new_id())
    await others.publish(UserChanged(user_id=user_id))
    await sink.order("down", calls=3)

    order_id, saga_id = await others.order_confirmed(user_id)

    await eventually(lambda: others.completed(saga_id))
    (sent,) = (await get(http, f"?order_id={order_id}"))[1]["notifications"]
    assert (sent["status"], sent["attempts"]) == ("sent", 4)
    assert len(await sink.mails(order=str(order_id))) == 1


@asynccontextmanager
async def observed(
    settings: NotificationSettings, broker: MemoryBroker, collector: FakeCollector
) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of the service, which tells the collector all it does and logs all it can."""
    told = settings.model_copy(update={"log_level": "DEBUG", "otel_exporter_otlp_endpoint": collector.endpoint})
    async with (
        service.running(told, broker) as running,
        serving(running.app) as url,
        aiohttp.ClientSession(url) as http,
    ):
        yield http


@pytest.mark.parametrize("mailbox", [CANARY, f"refuse+{CANARY}", f"busy-2+{CANARY}", f"drop-1+{CANARY}", "a\r\nb"])
async def test_no_address_is_found_in_logs_spans_and_metrics_however_the_mail_goes(
    settings: NotificationSettings,
    memory_broker: MemoryBroker,
    others: Others,
    transactions: Transactions,
    mailbox: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    user_id = UserId(new_id())
    with FakeCollector() as collector:
        async with observed(settings, memory_broker, collector) as http:
            await others.publish(UserChanged(user_id=user_id, email=f"{mailbox}@{CANARY}.example"))
            await eventually(lambda: known(transactions, user_id))
            _, saga_id = await others.order_confirmed(user_id)
            await eventually(lambda: others.completed(saga_id))
            shown = await get(http, f"?user_id={user_id}")
            async with http.get("/metrics") as response:
                metrics = await response.text()
        spans = await asyncio.to_thread(collector.spans)
        sent = b"".join(gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body for body in collector.bodies)

    written = capfd.readouterr()
    logs = written.out + written.err
    assert '"event":"request"' in logs
    assert ("message_set_aside" in logs) == ("busy" in mailbox or "drop" in mailbox)
    assert any("send-confirmation" in span.name for span in spans)
    assert "notification.send-confirmation.v1" in metrics
    for text in (logs, metrics, str(shown), sent.decode("latin-1")):
        assert CANARY not in text
