"""The effects of payment: intent, call, answer, against a real database and the sandbox provider."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import aiohttp
import pytest
from payment_service import storage
from payment_service.clients import HttpProvider
from payment_service.domain import Invoice, Money, OrderId, Payment, Status, UserId
from payment_service.handlers import Authorize, Capture, GiveBack, Void
from payment_service.messages import AuthorizePayment, CapturePayment, PaymentReply, RefundPayment, VoidAuthorization

from covey.errors import Conflict, ConstraintViolated, DependencyUnavailable
from covey.ids import new_id
from covey.message import Command, Refused, Reply
from covey.work.unit_of_work import Transactions

PRICE = Money(4_900, "EUR")


class Flow:
    """Runs the three parts of an effect as the chassis does, so that a test can stop between them."""

    def __init__(self, transactions: Transactions, provider: HttpProvider, book: aiohttp.ClientSession) -> None:
        self.transactions = transactions
        self.authorize = Authorize(provider)
        self.capture = Capture(provider)
        self.void = Void(provider)
        self.refund = GiveBack(provider)
        self._book = book

    async def intend(self, effect: Any, command: Command) -> Payment | Reply:
        async with self.transactions.begin() as work:
            intent: Payment | Reply = await effect.intend(command, work)
            return intent

    async def run(self, effect: Any, command: Command, key: str | None = None) -> Reply:
        """All three parts. The key is the command's id; a retry of the same command has the same."""
        return await self.finish(effect, command, await self.intend(effect, command), key)

    async def finish(self, effect: Any, command: Command, intent: Payment | Reply, key: str | None = None) -> Reply:
        """What comes after the intent."""
        if isinstance(intent, Reply):
            return intent
        result = await effect.call(command, intent, key or str(new_id()))
        async with self.transactions.begin() as work:
            reply: Reply = await effect.settle(command, result, work)
            return reply

    async def payment(self, order_id: OrderId) -> Payment:
        async with self.transactions.begin() as work:
            (payment,) = await storage.payments_of(work, order_id)
            return payment

    async def invoice(self, order_id: OrderId) -> Invoice:
        async with self.transactions.begin() as work:
            (invoice,) = await storage.invoices_of(work, order_id)
            assert await storage.invoice_by_id(work, invoice.id) == invoice
            return invoice

    async def captured(self, order_id: OrderId) -> None:
        await self.run(self.authorize, authorization(order_id))
        await self.run(self.capture, capture(order_id))

    async def book(self, order_id: OrderId) -> list[tuple[str, int]]:
        async with self._book.get("/book", params={"reference": str(order_id)}) as response:
            return [(entry["operation"], entry["done"]) for entry in (await response.json())["entries"]]

    async def operations(self) -> list[tuple[str, str | None]]:
        async with self.transactions.begin() as work:
            rows = await work.fetch("SELECT what, answer FROM operation ORDER BY asked_at")
            return [(row["what"], row["answer"]) for row in rows]


@pytest.fixture
async def flow(transactions: Transactions, sandbox: str) -> AsyncIterator[Flow]:
    limit = timedelta(seconds=1)
    async with HttpProvider.open(sandbox, limit) as provider, aiohttp.ClientSession(sandbox) as book:
        yield Flow(transactions, provider, book)


@pytest.fixture
def order_id() -> OrderId:
    return OrderId(new_id())


def authorization(order_id: OrderId, token: str = "tok_ok", user_id: UserId | None = None) -> AuthorizePayment:
    return AuthorizePayment(saga_id=new_id(), order_id=order_id, user_id=user_id, amount=PRICE, token=token)


def capture(order_id: OrderId, user_id: UserId | None = None) -> CapturePayment:
    return CapturePayment(saga_id=new_id(), order_id=order_id, user_id=user_id)


def refund(order_id: OrderId, amount: int) -> RefundPayment:
    return RefundPayment(saga_id=new_id(), order_id=order_id, amount=Money(amount, "EUR"))


def void(order_id: OrderId) -> VoidAuthorization:
    return VoidAuthorization(saga_id=new_id(), order_id=order_id)


async def test_money_is_authorized_then_captured(flow: Flow, order_id: OrderId) -> None:
    replies = [await flow.run(flow.authorize, authorization(order_id)), await flow.run(flow.capture, capture(order_id))]

    payment = await flow.payment(order_id)
    assert replies == [PaymentReply(payment_id=payment.id)] * 2
    assert (payment.status, payment.authorized, payment.captured) == (Status.CAPTURED, 4_900, 4_900)
    assert await flow.book(order_id) == [("authorize", 4_900), ("capture", 4_900)]
    assert await flow.operations() == [("authorize", "approved"), ("capture", "approved")]


async def test_a_payment_and_its_invoice_are_whose_the_order_says(flow: Flow, order_id: OrderId) -> None:
    ada = UserId(new_id())

    await flow.run(flow.authorize, authorization(order_id, user_id=ada))
    await flow.run(flow.capture, capture(order_id))

    assert ((await flow.payment(order_id)).user_id, (await flow.invoice(order_id)).user_id) == (ada, ada)


async def test_a_payment_that_an_older_version_has_authorized_is_somebodys_when_it_is_captured(
    flow: Flow, order_id: OrderId
) -> None:
    ada = UserId(new_id())
    await flow.run(flow.authorize, authorization(order_id))

    await flow.run(flow.capture, capture(order_id, ada))

    assert (await flow.payment(order_id)).user_id == ada


async def test_the_intent_is_on_record_before_the_provider_is_asked(flow: Flow, order_id: OrderId) -> None:
    await flow.intend(flow.authorize, authorization(order_id))

    assert (await flow.payment(order_id)).status is Status.AUTHORIZING
    assert await flow.operations() == [("authorize", None)]
    assert await flow.book(order_id) == []


async def test_a_declined_card_refuses_with_the_reason_and_moves_nothing(flow: Flow, order_id: OrderId) -> None:
    reply = await flow.run(flow.authorize, authorization(order_id, "tok_declined"))

    payment = await flow.payment(order_id)
    assert reply == Refused(reason="the card was declined")
    assert (payment.status, payment.authorized, payment.reason) == (Status.DECLINED, 0, "the card was declined")
    assert await flow.run(flow.authorize, authorization(order_id)) == reply


async def test_a_crash_after_the_call_asks_again_with_the_same_key_and_charges_once(
    flow: Flow, order_id: OrderId
) -> None:
    command = authorization(order_id)
    intent = await flow.intend(flow.authorize, command)
    assert isinstance(intent, Payment)
    await flow.authorize.call(command, intent, "the command's id")

    reply = await flow.run(flow.authorize, command, "the command's id")

    assert isinstance(reply, PaymentReply)
    assert await flow.book(order_id) == [("authorize", 4_900)]


@pytest.mark.parametrize("token", ["tok_timeout_after_charge", "tok_lies"])
async def test_a_void_finds_out_what_the_authorization_did_that_was_not_answered_or_said_to_have_failed(
    flow: Flow, order_id: OrderId, token: str
) -> None:
    with pytest.raises(DependencyUnavailable):
        await flow.run(flow.authorize, authorization(order_id, token))

    reply = await flow.run(flow.void, void(order_id))

    payment = await flow.payment(order_id)
    assert isinstance(reply, PaymentReply)
    assert (payment.status, payment.authorized, payment.voided) == (Status.VOIDED, 4_900, 4_900)
    assert await flow.book(order_id) == [("authorize", 4_900), ("void", 4_900)]


async def test_a_void_of_what_never_reached_the_provider_keeps_it_from_happening(flow: Flow, order_id: OrderId) -> None:
    command = authorization(order_id)
    intent = await flow.intend(flow.authorize, command)
    assert isinstance(intent, Payment)
    await flow.run(flow.void, void(order_id))

    late = await flow.authorize.call(command, intent, "late")

    assert (await flow.payment(order_id)).voided == 0
    assert not hasattr(late, "amount")
    assert await flow.book(order_id) == [("void", 0), ("authorize", 0)]


async def test_a_void_that_comes_first_asks_nobody_and_refuses_the_authorization(flow: Flow, order_id: OrderId) -> None:
    assert isinstance(await flow.run(flow.void, void(order_id)), PaymentReply)

    reply = await flow.run(flow.authorize, authorization(order_id))

    assert isinstance(reply, Refused)
    assert (await flow.payment(order_id)).status is Status.VOIDED
    assert await flow.book(order_id) == []


async def test_a_capture_that_is_not_answered_is_settled_by_asking_again(flow: Flow, order_id: OrderId) -> None:
    await flow.run(flow.authorize, authorization(order_id, "tok_timeout_after_capture"))
    with pytest.raises(DependencyUnavailable):
        await flow.run(flow.capture, capture(order_id), "the command's id")
    assert (await flow.payment(order_id)).status is Status.CAPTURING

    await flow.run(flow.capture, capture(order_id), "the command's id")

    assert (await flow.payment(order_id)).captured == 4_900
    assert await flow.book(order_id) == [("authorize", 4_900), ("capture", 4_900)]


async def test_a_payment_that_may_be_captured_is_never_voided(flow: Flow, order_id: OrderId) -> None:
    await flow.run(flow.authorize, authorization(order_id))
    await flow.intend(flow.capture, capture(order_id))

    with pytest.raises(Conflict, match="refund it"):
        await flow.intend(flow.void, void(order_id))


async def test_a_capture_that_is_said_to_have_failed_is_asked_for_again_and_taken_once(
    flow: Flow, order_id: OrderId
) -> None:
    await flow.run(flow.authorize, authorization(order_id, "tok_lies_capture"))
    for _ in range(2):
        with pytest.raises(DependencyUnavailable):
            await flow.run(flow.capture, capture(order_id), "the command's id")
        assert (await flow.payment(order_id)).status is Status.CAPTURING

    await flow.run(flow.capture, capture(order_id), "the command's id")

    assert (await flow.payment(order_id)).captured == 4_900
    assert await flow.book(order_id) == [("authorize", 4_900), ("capture", 4_900)]


async def test_a_declined_capture_is_refused_and_what_was_put_aside_can_be_given_up(
    flow: Flow, order_id: OrderId
) -> None:
    await flow.run(flow.authorize, authorization(order_id, "tok_capture_declined"))

    assert isinstance(await flow.run(flow.capture, capture(order_id)), Refused)
    await flow.run(flow.void, void(order_id))

    payment = await flow.payment(order_id)
    assert (payment.status, payment.captured, payment.voided) == (Status.VOIDED, 0, 4_900)


async def test_a_capture_is_invoiced_once(flow: Flow, order_id: OrderId) -> None:
    await flow.captured(order_id)
    await flow.run(flow.capture, capture(order_id))

    invoice = await flow.invoice(order_id)
    assert (invoice.payment_id, invoice.amount) == ((await flow.payment(order_id)).id, PRICE)
    assert invoice.credit_notes == ()


async def test_a_declined_capture_is_not_invoiced(flow: Flow, order_id: OrderId) -> None:
    await flow.run(flow.authorize, authorization(order_id, "tok_capture_declined"))
    await flow.run(flow.capture, capture(order_id))

    async with flow.transactions.begin() as work:
        assert await storage.invoices_of(work, order_id) == []


async def test_a_refund_returns_what_was_captured_once(flow: Flow, order_id: OrderId) -> None:
    await flow.captured(order_id)
    command = refund(order_id, 4_900)

    for _ in range(2):
        assert isinstance(await flow.run(flow.refund, command), PaymentReply)

    payment = await flow.payment(order_id)
    assert (payment.status, payment.refunded, payment.refunding) == (Status.REFUNDED, 4_900, 0)
    assert await flow.book(order_id) == [("authorize", 4_900), ("capture", 4_900), ("refund", 4_900)]


async def test_refunds_in_parts_have_a_credit_note_each_and_never_return_more_than_was_captured(
    flow: Flow, order_id: OrderId
) -> None:
    await flow.captured(order_id)

    replies = [await flow.run(flow.refund, refund(order_id, amount)) for amount in (900, 3_000, 1_001, 1_000)]

    assert [type(reply) for reply in replies] == [PaymentReply, PaymentReply, Refused, PaymentReply]
    assert [note.amount.amount for note in (await flow.invoice(order_id)).credit_notes] == [900, 3_000, 1_000]
    assert (await flow.payment(order_id)).refunded == 4_900


async def test_refunds_at_the_same_time_never_return_more_than_was_captured(flow: Flow, order_id: OrderId) -> None:
    await flow.captured(order_id)

    commands = [refund(order_id, 2_000) for _ in range(5)]
    intents = await asyncio.gather(*(flow.intend(flow.refund, command) for command in commands))  # nobody is asked yet
    replies = [await flow.finish(flow.refund, *each) for each in zip(commands, intents, strict=True)]

    assert sum(isinstance(reply, PaymentReply) for reply in replies) == 2
    payment = await flow.payment(order_id)
    assert (payment.status, payment.refunded, payment.left) == (Status.CAPTURED, 4_000, 900)
    assert [done for what, done in await flow.book(order_id) if what == "refund"] == [2_000, 2_000]


async def test_a_refund_that_is_not_answered_is_settled_by_asking_again(
    flow: Flow, order_id: OrderId, sandbox: str
) -> None:
    await flow.captured(order_id)
    command = refund(order_id, 900)
    mode = {"mode": "silent", "operation": "refund", "calls": 1}
    async with aiohttp.ClientSession(sandbox) as admin, admin.put("/admin/mode", json=mode) as response:
        assert response.status == 204
    with pytest.raises(DependencyUnavailable):
        await flow.run(flow.refund, command, "the command's id")
    assert (await flow.payment(order_id)).refunding == 900

    await flow.run(flow.refund, command, "the command's id")

    payment = await flow.payment(order_id)
    assert (payment.status, payment.refunded, payment.refunding) == (Status.CAPTURED, 900, 0)
    assert [done for what, done in await flow.book(order_id) if what == "refund"] == [900]


async def test_a_refund_that_the_provider_declines_is_refused_and_its_amount_is_still_there(
    flow: Flow, order_id: OrderId, sandbox: str
) -> None:
    await flow.captured(order_id)
    mode = {"mode": "decline", "operation": "refund", "calls": 1}
    async with aiohttp.ClientSession(sandbox) as admin, admin.put("/admin/mode", json=mode) as response:
        assert response.status == 204
    command = refund(order_id, 4_900)

    replies = [await flow.run(flow.refund, command) for _ in range(2)]

    assert [type(reply) for reply in replies] == [Refused, Refused]
    assert (await flow.payment(order_id)).left == 4_900
    assert isinstance(await flow.run(flow.refund, refund(order_id, 4_900)), PaymentReply)


async def test_the_database_itself_refuses_to_return_more_than_was_captured(flow: Flow, order_id: OrderId) -> None:
    await flow.captured(order_id)

    for change in ("refunding = 4901", "refunded = 4901", "refunded = 2000, refunding = 3000", "refunding = -1"):
        with pytest.raises(ConstraintViolated):
            async with flow.transactions.begin() as work:
                await work.execute(f"UPDATE payment SET {change} WHERE order_id = $1", order_id)


async def test_what_was_not_captured_is_not_refunded(flow: Flow, order_id: OrderId) -> None:
    await flow.run(flow.authorize, authorization(order_id))

    assert isinstance(await flow.run(flow.refund, refund(order_id, 1)), Refused)
    assert isinstance(await flow.run(flow.refund, refund(OrderId(new_id()), 1)), Refused)


async def test_nothing_is_captured_without_an_authorization(flow: Flow, order_id: OrderId) -> None:
    assert isinstance(await flow.run(flow.capture, capture(order_id)), Refused)
