"""Payments over HTTP, and the refund from the request to the provider's book."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import aiohttp
import pytest
from payment_service import storage
from payment_service.domain import (
    InvoiceId,
    Money,
    Operation,
    OrderId,
    Payment,
    PaymentId,
    Refund,
    RefundId,
    Status,
    UserId,
)

from covey.ids import new_id
from covey.testing.eventually import eventually
from covey.testing.tokens import bearer
from covey.work.unit_of_work import Transactions


def key() -> dict[str, str]:
    """Return the header that a refund asks for, with a key of its own."""
    return {"Idempotency-Key": str(new_id())}


async def a_payment(
    transactions: Transactions, status: Status, moved: int = 0, user_id: UserId | None = None
) -> Payment:
    order_id, price = OrderId(new_id()), Money(4_900, "EUR")
    payment = Payment(PaymentId(new_id()), order_id, price, status, moved, moved, user_id=user_id)
    async with transactions.begin() as work:
        await storage.keep(work, payment)
    return payment


async def captured_at(sandbox: str, payment: Payment) -> None:
    """Let the provider have captured it, too."""
    body = {"reference": payment.reference, "amount": 4_900, "currency": "EUR", "token": "tok_ok"}
    async with aiohttp.ClientSession(sandbox) as provider:
        for path in ("/authorizations", "/captures"):
            async with provider.post(path, json=body, headers={"Idempotency-Key": path}) as response:
                assert response.status == 201


async def get(http: aiohttp.ClientSession, path: str, headers: dict[str, str] | None = None) -> tuple[int, Any]:
    async with http.get(f"/api/v1{path}", headers=headers) as response:
        return response.status, await response.json(content_type=None)


async def test_a_payment_is_found_by_its_id_and_by_its_order(
    http: aiohttp.ClientSession, transactions: Transactions
) -> None:
    payment = await a_payment(transactions, Status.CAPTURED, 4_900)

    status, found = await get(http, f"/payments/{payment.id}")

    assert (status, found["status"], found["captured"]) == (200, "captured", 4_900)
    assert (await get(http, f"/payments?order_id={payment.order_id}"))[1] == {"payments": [found]}
    assert (await get(http, f"/payments?order_id={new_id()}"))[1] == {"payments": []}


async def invoiced(transactions: Transactions, user_id: UserId | None) -> tuple[Payment, InvoiceId]:
    """Have a payment with an invoice and a refund."""
    payment, invoice_id = await a_payment(transactions, Status.CAPTURED, 4_900, user_id), InvoiceId(new_id())
    async with transactions.begin() as work:
        storage.answered(work, payment, Operation.CAPTURE, "approved", invoice_id)
    async with transactions.begin() as work:
        await storage.keep_refund(work, replace(payment, refunding=900), Refund(RefundId(new_id()), 900))
    return payment, invoice_id


PATHS = ["/payments/{0}", "/payments?order_id={1}", "/payments/{0}/refunds", "/invoices/{2}", "/invoices?order_id={1}"]


@pytest.mark.parametrize("path", PATHS)
async def test_a_customer_reads_what_is_their_own_and_nobody_elses(
    http: aiohttp.ClientSession, transactions: Transactions, path: str
) -> None:
    ada = UserId(new_id())
    payment, invoice_id = await invoiced(transactions, ada)
    path = path.format(payment.id, payment.order_id, invoice_id)

    own, others = await get(http, path, bearer(f"user:{ada}")), await get(http, path, bearer(f"user:{new_id()}"))

    assert own == await get(http, path)
    assert (own[0], others[0]) == (200, 403)


@pytest.mark.parametrize("path", PATHS)
async def test_what_is_nobodys_is_the_staffs_alone(
    http: aiohttp.ClientSession, transactions: Transactions, path: str
) -> None:
    payment, invoice_id = await invoiced(transactions, None)
    path = path.format(payment.id, payment.order_id, invoice_id)

    assert ((await get(http, path))[0], (await get(http, path, bearer("user:None")))[0]) == (200, 403)


async def test_a_customer_returns_no_money_to_themselves(
    http: aiohttp.ClientSession, transactions: Transactions
) -> None:
    ada = UserId(new_id())
    payment = await a_payment(transactions, Status.CAPTURED, 4_900, ada)
    headers = {**key(), **bearer(f"user:{ada}")}

    async with http.post(f"/api/v1/payments/{payment.id}/refunds", headers=headers) as response:
        assert response.status == 403


async def test_refunds_are_shown_oldest_first(http: aiohttp.ClientSession, transactions: Transactions) -> None:
    payment, _ = await invoiced(transactions, None)

    _, found = await get(http, f"/payments/{payment.id}/refunds")

    shown = [(refund["amount"], refund["status"], refund["reason"]) for refund in found["refunds"]]
    assert shown == [({"amount": 900, "currency": "EUR"}, "asked", None)]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/payments/{id}", 404),
        ("/payments/7", 422),
        ("/payments", 422),
        ("/payments?order_id=x", 422),
        ("/invoices/{id}", 404),
        ("/invoices", 422),
    ],
)
async def test_what_is_not_there_or_makes_no_sense_is_a_problem(
    http: aiohttp.ClientSession, path: str, expected: int
) -> None:
    status, problem = await get(http, path.format(id=new_id()))

    assert (status, problem["status"]) == (expected, expected)


async def test_a_refund_is_accepted_and_returns_the_money_once_however_often_it_is_asked_for(
    http: aiohttp.ClientSession, transactions: Transactions, sandbox: str
) -> None:
    payment = await a_payment(transactions, Status.CAPTURED, 4_900)
    await captured_at(sandbox, payment)

    for _ in range(2):
        async with http.post(f"/api/v1/payments/{payment.id}/refunds", headers=key()) as response:
            assert response.status == 202

    async def refunded() -> bool:
        return bool((await get(http, f"/payments/{payment.id}"))[1]["refunded"] == 4_900)

    await eventually(refunded)
    async with aiohttp.ClientSession(sandbox) as provider, provider.get("/book") as response:
        entries = (await response.json())["entries"]
    assert [(entry["operation"], entry["done"]) for entry in entries] == [
        ("authorize", 4_900),
        ("capture", 4_900),
        ("refund", 4_900),
    ]


async def test_a_part_is_refunded_and_the_invoice_says_so(
    http: aiohttp.ClientSession, transactions: Transactions, sandbox: str
) -> None:
    payment = await a_payment(transactions, Status.CAPTURED, 4_900)
    await captured_at(sandbox, payment)
    invoice_id = InvoiceId(new_id())
    async with transactions.begin() as work:
        storage.answered(work, payment, Operation.CAPTURE, "approved", invoice_id)

    async with http.post(f"/api/v1/payments/{payment.id}/refunds", json={"amount": 900}, headers=key()) as response:
        assert response.status == 202

    async def credited() -> bool:
        notes = (await get(http, f"/invoices/{invoice_id}"))[1]["credit_notes"]
        return bool([note["amount"] for note in notes] == [{"amount": 900, "currency": "EUR"}])

    await eventually(credited)
    invoice = (await get(http, f"/invoices/{invoice_id}"))[1]
    assert (invoice["payment_id"], invoice["amount"]["amount"]) == (str(payment.id), 4_900)
    assert (await get(http, f"/invoices?order_id={payment.order_id}"))[1] == {"invoices": [invoice]}
    assert (await get(http, f"/payments/{payment.id}"))[1]["refunded"] == 900


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"amount": 4_901}, 409),
        ({"amount": 0}, 422),
        ({"amount": 1.5}, 422),
        ({"all": True}, 422),
        ({"amount": "1"}, 422),
    ],
)
async def test_a_refund_that_makes_no_sense_or_is_too_much_is_a_problem(
    http: aiohttp.ClientSession, transactions: Transactions, body: Any, expected: int
) -> None:
    payment = await a_payment(transactions, Status.CAPTURED, 4_900)

    async with http.post(f"/api/v1/payments/{payment.id}/refunds", json=body, headers=key()) as response:
        assert response.status == expected


async def test_a_refund_without_a_key_is_refused(http: aiohttp.ClientSession, transactions: Transactions) -> None:
    payment = await a_payment(transactions, Status.CAPTURED, 4_900)

    async with http.post(f"/api/v1/payments/{payment.id}/refunds") as response:
        assert (response.status, (await response.json())["type"]) == (400, "/problems/unreadable")


async def test_what_was_not_captured_cannot_be_refunded(
    http: aiohttp.ClientSession, transactions: Transactions
) -> None:
    payment = await a_payment(transactions, Status.DECLINED)

    async with http.post(f"/api/v1/payments/{payment.id}/refunds", headers=key()) as response:
        assert response.status == 409
