"""The auditor and real books: those of a running shop are right, and what somebody tampers with is found."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import aiohttp
import asyncpg
import pytest
from notification_service.clients import SmtpMailer
from notification_service.domain import Letter, MailId, OrderId
from notification_service.ports import Accepted

from covey.ids import new_id
from shop.auditor import audit
from shop.books import Sources

if TYPE_CHECKING:
    from conftest import Shop

ADA = "ada@example.org"


async def test_a_shop_that_nobody_tampered_with_is_in_order(shop: Shop) -> None:
    mug = await shop.product(10)
    accepted = [
        await shop.place({mug: 2}),
        await shop.place({mug: 1}, "tok_capture_declined"),
        await shop.place({mug: 100}),
    ]
    await asyncio.gather(*(shop.client.settled(order_id) for order_id in accepted))
    await shop.client.happened(accepted[0], "ShipOrder done")
    await shop.client.returned(accepted[0], await shop.client.return_goods(accepted[0], {mug: 1}))
    await shop.client.happened(accepted[0], "place-order completed")

    result = await audit(shop.sources, accepted)

    assert result.violations == []
    assert result.summary() == [
        "orders  3: 1 confirmed, 2 rejected",
        "money   37.50 authorized, 25.00 captured, 12.50 voided, 12.50 refunded",
        "stock   10 received, 9 free, 0 reserved, 1 sold",
        "returns 1: 1 completed",
        "parcels 1 shipments, 2 pieces shipped, 1 returned",
        "mail    1 sent, 1 arrived",
    ]


async def test_mail_goes_to_who_wants_it_once_known_by_its_message_id(shop: Shop) -> None:
    mug = await shop.product(10)
    customers = {
        "dropped": await shop.customer("drop-1"),
        "unwilling": await shop.customer(wants_mail=False),
        "unreachable": await shop.customer("refuse"),
        "unknown": new_id(),
    }
    orders = {name: await shop.place({mug: 1}, user_id=user_id) for name, user_id in customers.items()}

    for order_id in orders.values():
        await shop.client.happened(order_id, "place-order completed")

    mails = {name: await shop.client.mail(order_id) for name, order_id in orders.items()}
    assert {name: mail and (mail["status"], mail["attempts"]) for name, mail in mails.items()} == {
        "dropped": ("sent", 2),
        "unwilling": ("skipped", 0),
        "unreachable": ("refused", 1),
        "unknown": ("skipped", 0),
    }
    found = await audit(shop.sources, orders.values())
    assert found.violations == []
    assert found.summary()[-1] == "mail    1 refused, 1 sent, 2 skipped, 2 arrived"


async def test_what_a_user_has_changed_since_is_not_held_against_their_mail(shop: Shop) -> None:
    mug, ada = await shop.product(10), await shop.customer()
    order_id = await shop.place({mug: 1}, user_id=ada)
    await shop.client.happened(order_id, "place-order completed")
    await shop.client.close_account(ada)

    found = await audit(shop.sources, [order_id])

    assert found.violations == []
    assert found.summary()[-1] == "mail    1 sent, 1 arrived"


async def test_a_carrier_that_is_down_makes_an_order_wait_for_its_shipment_and_not_fail(shop: Shop) -> None:
    mug = await shop.product(10)
    await shop.tell_carrier(mode="down")
    order_id = await shop.place({mug: 2})
    confirmed = await shop.client.settled(order_id)
    early = await shop.client.returned(order_id, await shop.client.return_goods(order_id))
    await shop.tell_carrier(mode="answer")

    await shop.client.happened(order_id, "place-order completed")

    assert (confirmed["status"], confirmed["shipment"]) == ("confirmed", None)
    assert (early["status"], early["refusal"]) == ("refused", "nothing was shipped for this order")
    assert (await shop.client.order(order_id))["shipment"]["status"] == "booked"
    assert (await audit(shop.sources, [order_id])).violations == []


async def test_a_shipment_that_was_booked_and_not_answered_is_one(shop: Shop) -> None:
    mug = await shop.product(10)
    await shop.tell_carrier(mode="silent", calls=1)
    order_id = await shop.place({mug: 2})

    await shop.client.happened(order_id, "place-order completed")

    assert (await audit(shop.sources, [order_id])).violations == []


async def test_a_return_whose_refund_is_declined_goes_back_to_the_customer_and_can_be_tried_again(shop: Shop) -> None:
    mug = await shop.product(10)
    order_id = await shop.place({mug: 2})
    await shop.client.happened(order_id, "ShipOrder done")
    await shop.tell_provider(mode="decline", operation="refund", calls=1)

    ends = [await shop.client.returned(order_id, await shop.client.return_goods(order_id)) for _ in range(2)]

    assert [one["status"] for one in ends] == ["refused", "completed"]
    found = await audit(shop.sources, [order_id])
    assert found.violations == []
    assert "parcels 1 shipments, 2 pieces shipped, 2 returned" in found.summary()


@dataclass(frozen=True, kw_only=True)
class Written:
    """Books written by hand: a confirmed order and a rejected one, both over 2500, of two of this product. `mail_id` is
    that of the mail about the confirmed one.
    """

    sources: Sources
    connections: dict[str, asyncpg.Connection[asyncpg.Record]]
    smtp_url: str
    user: UUID
    confirmed: UUID
    mail_id: UUID
    rejected: UUID
    product: UUID

    async def tamper(self, service: str, sql: str, *args: object) -> None:
        """Change something in a service's database."""
        assert not (await self.connections[service].execute(sql, *args)).endswith(" 0"), "nothing was changed"

    async def charge(self, path: str, order_id: UUID, amount: int = 2_500) -> None:
        """Have the provider move money."""
        body: dict[str, object] = {"reference": str(order_id), "amount": amount, "currency": "EUR", "token": "tok_ok"}
        await self._ask(self.sources.provider, path, body)

    async def carry(self, order_id: UUID, kind: str, pieces: int) -> None:
        """Have the carrier book a parcel."""
        body = {"reference": str(new_id()), "order": str(order_id), "kind": kind, "pieces": pieces}
        await self._ask(self.sources.carrier, "/bookings", body)

    async def _ask(self, url: str, path: str, body: dict[str, object]) -> None:
        async with (
            aiohttp.ClientSession(url) as http,
            http.post(path, json=body, headers={"Idempotency-Key": str(new_id())}) as response,
        ):
            assert response.status == 201

    async def pay(self, order_id: UUID, status: str, captured: int) -> None:
        """Write down a payment that was authorized over 2500."""
        await self.tamper(
            "payment",
            """
            INSERT INTO payment (id, order_id, amount, currency, status, authorized, captured, voided, refunded)
            VALUES ($1, $2, 2500, 'EUR', $3, 2500, $4, 0, 0)
            """,
            new_id(),
            order_id,
            status,
            captured,
        )
        if captured:
            await self.tamper(
                "payment",
                "INSERT INTO invoice (id, payment_id, order_id, amount, currency)"
                " SELECT id, id, order_id, captured, currency FROM payment WHERE order_id = $1",
                order_id,
            )

    async def ship(self, order_id: UUID) -> None:
        """Write down a shipment of two pieces, also at the carrier."""
        await self.tamper(
            "shipping",
            "INSERT INTO shipment (id, order_id, user_id, progress, tracking_number)"
            " VALUES ($1, $2, $2, 'booked', 'SC1')",
            new_id(),
            order_id,
        )
        await self.carry(order_id, "shipment", 2)

    async def register(self) -> None:
        """Write down a user who wants mail, also at notification."""
        await self.tamper(
            "user",
            "INSERT INTO account (id, version, name, email, order_mail, marketing_mail, locale)"
            " VALUES ($1, 1, 'Ada', $2, true, false, 'en')",
            self.user,
            ADA,
        )
        await self.tamper("notification", "INSERT INTO recipient VALUES ($1, 1, $2, 'en', true)", self.user, ADA)

    async def tell(self, order_id: UUID, mail_id: UUID) -> None:
        """Write down that a mail about an order was sent, and send it."""
        await self.tamper(
            "notification",
            """
            INSERT INTO mail (id, order_id, user_id, total_amount, total_currency, status, attempts, settled_at)
            VALUES ($1, $2, $3, 2500, 'EUR', 'sent', 1, now())
            """,
            mail_id,
            order_id,
            self.user,
        )
        await self.mail(mail_id, order_id)

    async def mail(self, mail_id: UUID, order_id: UUID) -> None:
        """Hand a mail over to the mail server."""
        letter = Letter(MailId(mail_id), OrderId(order_id), ADA, "Hello", "It is.")
        async with SmtpMailer.open(self.smtp_url, "shop@shop.example", timedelta(seconds=5)) as mailer:
            assert await mailer.send(letter) == Accepted()

    async def take_back(self, order_id: UUID) -> UUID:
        """Write down a return of one piece, everywhere; return its id."""
        return_id = new_id()
        await self.tamper(
            "order",
            """
            INSERT INTO order_return (id, order_id, status, reason, amount, currency, settled_at)
            VALUES ($1, $2, 'completed', 'too small', 1250, 'EUR', now())
            """,
            return_id,
            order_id,
        )
        await self.tamper("order", "INSERT INTO order_return_line VALUES ($1, $2, 1)", return_id, self.product)
        await self.saga(return_id, "return-order", 1, "completed")
        await self.tamper("shipping", "INSERT INTO goods_return VALUES ($1, $2, 'received')", return_id, order_id)
        await self.tamper("shipping", "INSERT INTO goods_return_line VALUES ($1, $2, 1)", return_id, self.product)
        await self.carry(order_id, "return", 1)
        await self.refund(return_id, order_id, 1_250)
        await self.charge("/refunds", order_id, 1_250)
        await self.tamper("inventory", "INSERT INTO restock VALUES ($1, $2)", return_id, order_id)
        await self.tamper("inventory", "INSERT INTO restock_line VALUES ($1, $2, 1)", return_id, self.product)
        await self.tamper("inventory", "UPDATE reservation_line SET restocked = 1 WHERE order_id = $1", order_id)
        await self.tamper("inventory", "UPDATE stock SET free = free + 1, sold = sold - 1")
        return return_id

    async def refund(self, refund_id: UUID, order_id: UUID, amount: int) -> None:
        """Write down a refund and its credit note in payment."""
        await self.tamper(
            "payment", "UPDATE payment SET refunded = refunded + $2 WHERE order_id = $1", order_id, amount
        )
        await self.tamper(
            "payment",
            """
            INSERT INTO refund (id, payment_id, amount, status, answered_at)
            SELECT $1, id, $3, 'done', now() FROM payment WHERE order_id = $2
            """,
            refund_id,
            order_id,
            amount,
        )
        await self.tamper(
            "payment",
            "INSERT INTO credit_note (id, invoice_id, refund_id, amount) SELECT $1, id, $1, $3 FROM invoice"
            " WHERE order_id = $2",
            refund_id,
            order_id,
            amount,
        )

    async def saga(self, saga_id: UUID, name: str, version: int, status: str) -> None:
        """Write down a saga that has ended."""
        await self.tamper(
            "order",
            """
            INSERT INTO covey.saga (id, name, version, status, step, data, ended_at)
            VALUES ($1, $2, $3, $4, -1, '{}', now())
            """,
            saga_id,
            name,
            version,
            status,
        )

    async def order(self, order_id: UUID, status: str, saga: str, product_id: UUID) -> None:
        """Write down an order of two pieces, its saga and its event."""
        saga_id = new_id()
        await self.tamper(
            "order",
            """
            INSERT INTO orders (id, user_id, saga_id, status, reason, total_amount, total_currency, settled_at)
            VALUES ($1, $4, $2, $3, CASE $3 WHEN 'rejected' THEN 'why not' END, 2500, 'EUR', now())
            """,
            order_id,
            saga_id,
            status,
            self.user,
        )
        await self.tamper("order", "INSERT INTO order_line VALUES ($1, 0, $2, 2, 1250)", order_id, product_id)
        await self.saga(saga_id, "place-order", 2, saga)
        await self.announce(order_id, f"order.{status}.v1")

    async def announce(self, order_id: UUID, message_type: str) -> None:
        """Write down an event about an order, as published and received."""
        message_id = new_id()
        for service, table in (("order", "outbox"), ("inventory", "inbox")):
            source = ", source" if table == "inbox" else ""
            await self.tamper(
                service,
                f"""
                INSERT INTO covey.{table} (id, stream, kind, type, key, time, headers, body{source})
                VALUES ($1, 'order', 'event', $2, $3, now(), '{{}}', ''{source and ", 'order'"})
                """,
                message_id,
                message_type,
                str(order_id),
            )


@pytest.fixture
async def connections(sources: Sources) -> AsyncIterator[dict[str, asyncpg.Connection[asyncpg.Record]]]:
    """One connection to the books of each service."""
    async with AsyncExitStack() as stack:
        opened = {}
        for service, url in sources.databases.items():
            opened[service] = await asyncpg.connect(url)
            stack.push_async_callback(opened[service].close)
        yield opened


@pytest.fixture
async def books(sources: Sources, smtp_url: str, connections: dict[str, asyncpg.Connection[asyncpg.Record]]) -> Written:
    """Books that are right."""
    mug = new_id()
    written = Written(
        sources=sources,
        connections=connections,
        smtp_url=smtp_url,
        user=new_id(),
        confirmed=new_id(),
        mail_id=new_id(),
        rejected=new_id(),
        product=mug,
    )
    await written.register()
    await written.tamper("inventory", "INSERT INTO product VALUES ($1, 'Mug', 1250, 'EUR', 1)", mug)
    await written.tamper("inventory", "INSERT INTO stock VALUES ($1, 10, 8, 0, 2)", mug)
    await written.tamper("inventory", "INSERT INTO reservation VALUES ($1, 'sold')", written.confirmed)
    await written.tamper("inventory", "INSERT INTO reservation_line VALUES ($1, $2, 2)", written.confirmed, mug)
    await written.order(written.confirmed, "confirmed", "completed", mug)
    await written.order(written.rejected, "rejected", "compensated", mug)
    await written.charge("/authorizations", written.confirmed)
    await written.charge("/captures", written.confirmed)
    await written.pay(written.confirmed, "captured", 2_500)
    await written.ship(written.confirmed)
    await written.tell(written.confirmed, written.mail_id)
    return written


async def found(books: Written) -> list[str]:
    accepted = [books.confirmed, books.rejected]
    return (await audit(books.sources, accepted, within_seconds=0)).violations


async def test_books_written_by_hand_are_right(books: Written) -> None:
    assert await found(books) == []


async def test_a_double_capture_is_found(books: Written) -> None:
    await books.charge("/captures", books.confirmed)

    (disagreement, twice) = await found(books)

    assert disagreement == f"order {books.confirmed}: payment says 2500 captured, the provider 5000"
    assert twice.endswith("but the provider captured 5000 in 2 captures")


async def test_a_return_written_by_hand_is_right(books: Written) -> None:
    await books.take_back(books.confirmed)

    assert await found(books) == []


async def test_a_double_shipment_is_found(books: Written) -> None:
    await books.carry(books.confirmed, "shipment", 2)

    assert await found(books) == [f"order {books.confirmed} is confirmed, and the carrier has 2 shipments of it"]


async def test_a_confirmed_order_that_nobody_carries_is_found(books: Written) -> None:
    await books.tamper("shipping", "UPDATE shipment SET progress = 'booking', tracking_number = NULL")

    (unshipped,) = await found(books)

    assert unshipped == f"order {books.confirmed} is confirmed, but shipping says that its shipment is booking"


async def test_a_refund_larger_than_the_capture_is_found(books: Written) -> None:
    await books.refund(new_id(), books.confirmed, 2_500)
    await books.tamper("payment", "UPDATE refund SET amount = 2501")
    await books.charge("/refunds", books.confirmed)

    (larger,) = await found(books)

    assert larger == f"order {books.confirmed}: payment says 2500 refunded, its refunds 2501"


async def test_a_refund_that_the_provider_never_made_is_found(books: Written) -> None:
    await books.refund(new_id(), books.confirmed, 1_000)

    assert await found(books) == [f"order {books.confirmed}: payment says 1000 refunded, the provider 0"]


async def test_a_restock_without_a_refund_is_found(books: Written) -> None:
    return_id = await books.take_back(books.confirmed)
    await books.tamper("payment", "DELETE FROM credit_note")
    await books.tamper("payment", "DELETE FROM refund")
    await books.tamper("payment", "UPDATE payment SET refunded = 0")

    violations = await found(books)

    assert f"return {return_id} over 1250 is completed, but 0 were refunded for it" in violations
    assert f"order {books.confirmed}: payment says 0 refunded, the provider 1250" in violations


async def test_pieces_that_are_free_again_without_a_return_are_found(books: Written) -> None:
    await books.tamper("inventory", "UPDATE stock SET free = free + 1, sold = sold - 1")

    (leak,) = await found(books)

    assert leak.endswith("1 are sold, but orders have bought and kept 2")


async def test_a_mail_that_never_arrived_is_found(books: Written) -> None:
    await books.tamper("notification", "DELETE FROM mail")

    assert await found(books) == [f"order {books.confirmed} is confirmed, and notification has 0 mails about it"]


async def test_a_second_mail_about_an_order_is_found(books: Written) -> None:
    await books.mail(new_id(), books.confirmed)
    await books.tamper("notification", "UPDATE mail SET attempts = 2")

    assert await found(books) == [f"order {books.confirmed}: the mail server has 2 different mails about it"]


async def test_a_copy_of_a_mail_is_found_unless_it_was_handed_over_again(books: Written) -> None:
    await books.mail(books.mail_id, books.confirmed)

    (copy,) = await found(books)
    await books.tamper("notification", "UPDATE mail SET attempts = 2")

    assert copy == f"order {books.confirmed}: its mail was handed over 1 times, and has arrived 2 times"
    assert await found(books) == []


async def test_a_mail_about_a_rejected_order_is_found(books: Written) -> None:
    await books.tell(books.rejected, new_id())

    assert await found(books) == [f"order {books.rejected} is rejected, and there is mail about it"]


async def test_a_mail_to_who_wants_none_is_found(books: Written) -> None:
    await books.tamper("user", "UPDATE account SET order_mail = false")
    await books.tamper("notification", "UPDATE recipient SET wants_order_mail = false")

    assert await found(books) == [f"order {books.confirmed}: 1 mails were sent to user {books.user}, who wants none"]


async def test_a_user_whom_notification_has_missed_is_found(books: Written) -> None:
    await books.tamper("user", "UPDATE account SET version = 2")

    assert await found(books) == [f"user {books.user} is at version 2, and notification knows version 1"]


async def test_a_leak_of_stock_is_found(books: Written) -> None:
    await books.tamper("inventory", "UPDATE stock SET free = free - 1, reserved = reserved + 1")

    (leak,) = await found(books)

    assert leak.endswith("1 are reserved, but orders hold 0")


async def test_a_capture_that_was_not_refunded_is_found(books: Written) -> None:
    await books.charge("/authorizations", books.rejected)
    await books.charge("/captures", books.rejected)
    await books.pay(books.rejected, "captured", 2_500)

    (kept,) = await found(books)

    assert kept == f"order {books.rejected} is rejected, but 2500 EUR were captured and not refunded"


async def test_an_authorization_that_was_not_given_up_is_found(books: Written) -> None:
    await books.charge("/authorizations", books.rejected)
    await books.pay(books.rejected, "authorized", 0)

    (kept,) = await found(books)

    assert kept == f"order {books.rejected} is rejected, but 2500 EUR are still put aside for it"


async def test_a_lost_order_is_found(books: Written) -> None:
    await books.tamper("order", "DELETE FROM order_line WHERE order_id = $1", books.rejected)
    await books.tamper("order", "DELETE FROM orders WHERE id = $1", books.rejected)

    assert await found(books) == [f"order {books.rejected} was accepted and is lost"]


async def test_a_double_confirmation_is_found(books: Written) -> None:
    await books.announce(books.confirmed, "order.confirmed.v1")

    (twice,) = await found(books)

    assert twice == f"order {books.confirmed} is confirmed, and order.confirmed.v1 was published 2 times"


async def test_what_the_outbox_has_forgotten_by_now_is_no_violation(books: Written) -> None:
    await books.tamper("order", "UPDATE orders SET settled_at = now() - interval '8 days'")
    await books.tamper("order", "DELETE FROM covey.outbox")

    assert await found(books) == []


async def test_an_event_that_never_arrived_is_found(books: Written) -> None:
    await books.tamper("inventory", "DELETE FROM covey.inbox WHERE type = 'order.confirmed.v1'")

    assert await found(books) == ["1 messages order.confirmed.v1 were sent and have not arrived"]


async def test_an_order_that_does_not_settle_in_time_is_found(books: Written) -> None:
    await books.tamper(
        "order",
        "UPDATE orders SET status = 'pending', settled_at = NULL, reason = NULL WHERE id = $1",
        books.rejected,
    )

    violations = await found(books)

    assert f"order {books.rejected} is still pending; its saga is compensated" in violations


async def test_a_dead_letter_is_found(books: Written) -> None:
    await books.tamper(
        "payment",
        """
        INSERT INTO covey.hold (key, lane, state, until, attempts, position, error)
        VALUES ('key', 0, 'dead', 'infinity', 5, 1, 'Conflict: no')
        """,
    )

    assert await found(books) == ["payment has a dead letter of key key: Conflict: no"]
