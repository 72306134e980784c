"""The confirmation of an order: intent, call, answer, against a real database and the mail sink."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from notification_service import domain, storage
from notification_service.clients import SmtpMailer
from notification_service.domain import Letter, Mail, Money, OrderId, Status, UserId
from notification_service.handlers import Confirm, Unaddressed, keep_user
from notification_service.messages import SendConfirmation, UserChanged

from covey.errors import DependencyUnavailable
from covey.ids import new_id
from covey.message import Reply
from covey.work.unit_of_work import Transactions

PRICE = Money(4_900, "EUR")
UNWANTED = [
    ({"wants_order_mail": False}, "the user wants no mail about orders"),
    ({"email": None, "locale": None, "wants_order_mail": False}, "the account is closed"),
]
"""What can become of a user so that they get no mail, and the reason that is on record then."""


@dataclass
class Flow:
    """Runs the three parts of the effect as the chassis does, so that a test can stop between them."""

    transactions: Transactions
    confirm: Confirm

    async def told(self, user_id: UserId, version: int = 1, **fields: Any) -> None:
        """Let this have become of a user."""
        present = {"email": "ada@example.org", "locale": "en", "wants_order_mail": True, **fields}
        async with self.transactions.begin() as work:
            await keep_user(UserChanged(user_id=user_id, version=version, **present), work)

    async def intend(self, command: SendConfirmation) -> Letter | Unaddressed | Reply:
        async with self.transactions.begin() as work:
            return await self.confirm.intend(command, work)

    async def run(self, command: SendConfirmation) -> Reply:
        """All three parts."""
        intent = await self.intend(command)
        if isinstance(intent, Reply):
            return intent
        result = await self.confirm.call(command, intent, str(new_id()))
        async with self.transactions.begin() as work:
            return await self.confirm.settle(command, result, work)

    async def mail(self, saga_id: UUID) -> Mail:
        async with self.transactions.begin() as work:
            stored = await storage.by_id(work, domain.mail_id(saga_id))
        assert stored is not None
        assert (stored.settled_at is None) == (stored.mail.status in (Status.WAITING, Status.SENDING))
        return stored.mail

    def impatient(self) -> Flow:
        """The same, when no time is left to wait for an address."""
        return Flow(self.transactions, Confirm(self.confirm._mailer, timedelta(0)))


@pytest.fixture
async def flow(transactions: Transactions, sink: Any) -> AsyncIterator[Flow]:
    async with SmtpMailer.open(sink.url, "shop@shop.example", timedelta(seconds=0.5)) as mailer:
        yield Flow(transactions, Confirm(mailer, timedelta(minutes=1)))


@pytest.fixture
def command() -> SendConfirmation:
    return SendConfirmation(saga_id=new_id(), order_id=OrderId(new_id()), user_id=UserId(new_id()), total=PRICE)


async def test_who_wants_mail_gets_one_about_the_order(flow: Flow, command: SendConfirmation, sink: Any) -> None:
    await flow.told(command.user_id, locale="de-AT")

    reply = await flow.run(command)

    (mail,) = await sink.mails(order=str(command.order_id))
    assert reply == Reply()
    assert (mail["to"], mail["subject"]) == (["ada@example.org"], "Ihre Bestellung ist bestätigt")
    assert "49.00 EUR" in mail["text"]
    assert await flow.mail(command.saga_id) == Mail(
        domain.mail_id(command.saga_id), command.order_id, command.user_id, PRICE, Status.SENT, attempts=1
    )


async def test_the_intent_is_on_record_before_the_mail_is_handed_over(
    flow: Flow, command: SendConfirmation, sink: Any
) -> None:
    await flow.told(command.user_id)

    await flow.intend(command)

    assert (await flow.mail(command.saga_id)).status is Status.SENDING
    assert await sink.mails() == []


async def test_a_command_that_comes_again_after_the_mail_was_sent_sends_none(
    flow: Flow, command: SendConfirmation, sink: Any
) -> None:
    await flow.told(command.user_id)

    replies = [await flow.run(command) for _ in range(3)]

    assert replies == [Reply()] * 3
    assert len(await sink.mails()) == 1
    assert (await flow.mail(command.saga_id)).attempts == 1


async def test_a_crash_between_the_mail_and_its_record_sends_it_again_with_the_same_message_id(
    flow: Flow, command: SendConfirmation, sink: Any
) -> None:
    await flow.told(command.user_id)
    intent = await flow.intend(command)
    assert isinstance(intent, Letter)
    await flow.confirm.call(command, intent, "the command's id")

    reply = await flow.run(command)

    first, second = await sink.mails(order=str(command.order_id))
    assert reply == Reply()
    assert first["message_id"] == second["message_id"]
    assert (await flow.mail(command.saga_id)).attempts == 2


async def test_a_lost_answer_sends_it_again_with_the_same_message_id(
    flow: Flow, command: SendConfirmation, sink: Any
) -> None:
    await flow.told(command.user_id, email="drop-1@example.org")
    with pytest.raises(DependencyUnavailable):
        await flow.run(command)
    assert (await flow.mail(command.saga_id)).status is Status.SENDING

    await flow.run(command)

    first, second = await sink.mails()
    assert first["message_id"] == second["message_id"]
    assert (await flow.mail(command.saga_id)).status is Status.SENT


async def test_two_orders_have_two_mails_of_different_ids(flow: Flow, command: SendConfirmation, sink: Any) -> None:
    await flow.told(command.user_id)
    await flow.run(command)
    await flow.run(command.model_copy(update={"saga_id": new_id(), "order_id": OrderId(new_id())}))

    first, second = await sink.mails()
    assert first["message_id"] != second["message_id"]


async def test_a_busy_server_is_asked_again_and_a_refused_mail_is_recorded_and_done(
    flow: Flow, command: SendConfirmation, sink: Any
) -> None:
    await flow.told(command.user_id, email="busy-1@example.org")
    with pytest.raises(DependencyUnavailable):
        await flow.run(command)
    await flow.told(command.user_id, version=2, email="refuse@example.org")

    replies = [await flow.run(command) for _ in range(2)]

    mail = await flow.mail(command.saga_id)
    assert replies == [Reply()] * 2
    assert (mail.status, mail.reason) == (Status.REFUSED, "the mail server refused the recipient: 550")
    assert mail.attempts == 2
    assert await sink.mails() == []


@pytest.mark.parametrize(("fields", "reason"), UNWANTED)
async def test_a_mail_that_nobody_wants_is_skipped_with_a_reason_and_done(
    flow: Flow, command: SendConfirmation, sink: Any, fields: dict[str, Any], reason: str
) -> None:
    await flow.told(command.user_id)
    await flow.told(command.user_id, version=2, **fields)

    reply = await flow.run(command)

    mail = await flow.mail(command.saga_id)
    assert reply == Reply()
    assert (mail.status, mail.reason, mail.attempts) == (Status.SKIPPED, reason, 0)
    assert await sink.mails() == []


@pytest.mark.parametrize(("fields", "reason"), UNWANTED)
async def test_who_wants_none_any_more_while_the_server_is_down_gets_no_further_attempt(
    flow: Flow, command: SendConfirmation, sink: Any, fields: dict[str, Any], reason: str
) -> None:
    await flow.told(command.user_id)
    await sink.order("down", calls=1)
    with pytest.raises(DependencyUnavailable):
        await flow.run(command)
    await flow.told(command.user_id, version=2, **fields)

    reply = await flow.run(command)

    mail = await flow.mail(command.saga_id)
    assert reply == Reply()
    assert (mail.status, mail.reason, mail.attempts) == (Status.SKIPPED, reason, 1)
    assert await sink.mails() == []


async def test_an_address_that_becomes_known_in_time_gets_the_mail(
    flow: Flow, command: SendConfirmation, sink: Any
) -> None:
    with pytest.raises(DependencyUnavailable, match="waits for an address"):
        await flow.run(command)
    assert (await flow.mail(command.saga_id)).status is Status.WAITING

    await flow.told(command.user_id)
    await flow.run(command)

    assert len(await sink.mails()) == 1
    assert (await flow.mail(command.saga_id)).status is Status.SENT


async def test_an_address_that_stays_unknown_is_given_up_in_the_end(
    flow: Flow, command: SendConfirmation, sink: Any
) -> None:
    with pytest.raises(DependencyUnavailable):
        await flow.run(command)

    reply = await flow.impatient().run(command)

    mail = await flow.mail(command.saga_id)
    assert reply == Reply()
    assert (mail.status, mail.reason, mail.attempts) == (Status.SKIPPED, "no address is known", 0)
    assert await sink.mails() == []


async def test_the_newest_version_of_a_user_wins_however_the_events_arrive(
    flow: Flow, command: SendConfirmation, transactions: Transactions
) -> None:
    for version in (2, 1, 3, 3, 2):
        await flow.told(command.user_id, version, email=f"v{version}@example.org")

    async with transactions.begin() as work:
        mail = Mail(domain.mail_id(command.saga_id), command.order_id, command.user_id, PRICE)
        _, _, found = await storage.asked_for(work, mail)
        stranger = replace(mail, id=domain.mail_id(new_id()), user_id=UserId(new_id()))
        assert (await storage.asked_for(work, stranger))[2] is None

    assert found is not None
    assert (found.id, found.version, found.address) == (command.user_id, 3, "v3@example.org")


async def test_an_old_event_does_not_bring_a_closed_account_back(
    flow: Flow, command: SendConfirmation, transactions: Transactions
) -> None:
    await flow.told(command.user_id, 2, email=None, locale=None, wants_order_mail=False)
    await flow.told(command.user_id, 1)

    async with transactions.begin() as work:
        row = await work.fetchrow("SELECT * FROM recipient")

    assert (row["version"], row["address"], row["wants_order_mail"]) == (2, None, False)
