"""Payments in PostgreSQL, what was asked of the provider for each, and what was invoiced.

What goes with the provider's approval is written at the commit, where those of a whole batch are one round trip. No
other message of the batch reads it: the commands of one order's saga come one at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from covey.work.unit_of_work import Work
from payment_service.domain import (
    CreditNote,
    CreditNoteId,
    Invoice,
    InvoiceId,
    Money,
    Operation,
    OrderId,
    Payment,
    PaymentId,
    Refund,
    RefundId,
    RefundStatus,
    Status,
    UserId,
)


async def payment_to_change(work: Work, order_id: OrderId) -> Payment | None:
    """Return the payment of an order and keep others from changing it until the transaction ends."""
    row = await work.fetchrow("SELECT * FROM payment WHERE order_id = $1 FOR UPDATE", order_id)
    return _payment(row) if row else None


async def payment_by_id(work: Work, payment_id: PaymentId) -> Payment | None:
    """Return a payment, or None."""
    row = await work.fetchrow("SELECT * FROM payment WHERE id = $1", payment_id)
    return _payment(row) if row else None


async def payments_of(work: Work, order_id: OrderId) -> list[Payment]:
    """Return the payments of an order; there is one at most."""
    return [_payment(row) for row in await work.fetch("SELECT * FROM payment WHERE order_id = $1", order_id)]


async def keep(work: Work, payment: Payment) -> None:
    """Write a payment as it is now."""
    await work.execute(_KEEP, *_values(payment))


def ask(work: Work, payment: Payment, operation: Operation) -> None:
    """Write a payment together with the intent to ask the provider, at the commit; asking again leaves the first."""
    work.defer(
        f"""
        WITH kept AS ({_KEEP} RETURNING id)
        INSERT INTO operation (payment_id, what) SELECT id, $13 FROM kept ON CONFLICT DO NOTHING
        """,
        *_values(payment),
        operation,
    )


def answered(
    work: Work, payment: Payment, operation: Operation, answer: str, invoice_id: InvoiceId | None = None
) -> None:
    """Write a payment together with the provider's answer, at the commit.

    With an id for it also an invoice over what was captured.
    """
    work.defer(
        f"""
        WITH kept AS ({_KEEP} RETURNING id, order_id, captured, currency), issued AS (
            INSERT INTO invoice (id, payment_id, order_id, amount, currency)
            SELECT $15, id, order_id, captured, currency FROM kept WHERE $15::uuid IS NOT NULL
        )
        UPDATE operation SET answered_at = clock_timestamp(), answer = $14 FROM kept
        WHERE payment_id = kept.id AND what = $13
        """,
        *_values(payment),
        operation,
        answer,
        invoice_id,
    )


async def refund_by_id(work: Work, refund_id: RefundId) -> Refund | None:
    """Return a refund, or None."""
    row = await work.fetchrow("SELECT id, amount, status, reason FROM refund WHERE id = $1", refund_id)
    return _refund(row) if row else None


async def refunds_of(work: Work, payment_id: PaymentId) -> list[Refund]:
    """Return the refunds of a payment, oldest first."""
    rows = await work.fetch(
        "SELECT id, amount, status, reason FROM refund WHERE payment_id = $1 ORDER BY asked_at, id", payment_id
    )
    return [_refund(row) for row in rows]


async def keep_refund(work: Work, payment: Payment, refund: Refund) -> None:
    """Write a refund together with its payment. One without an answer is the intent to ask the provider."""
    await work.execute(
        f"""
        WITH kept AS ({_KEEP} RETURNING id)
        INSERT INTO refund (id, payment_id, amount, status, reason, answered_at)
        SELECT $13, kept.id, $14, $15::text, $16, CASE WHEN $15::text <> 'asked' THEN clock_timestamp() END FROM kept
        ON CONFLICT (id) DO UPDATE SET amount = excluded.amount, status = excluded.status, reason = excluded.reason,
            answered_at = excluded.answered_at
        """,
        *_values(payment),
        refund.id,
        refund.amount,
        refund.status,
        refund.reason,
    )


async def issue_credit_note(work: Work, note_id: CreditNoteId, refund_id: RefundId) -> None:
    """Write a credit note over a refund, to the invoice of its payment."""
    await work.execute(
        """
        INSERT INTO credit_note (id, invoice_id, refund_id, amount)
        SELECT $1, i.id, r.id, r.amount FROM refund r JOIN invoice i USING (payment_id) WHERE r.id = $2
        """,
        note_id,
        refund_id,
    )


async def invoice_by_id(work: Work, invoice_id: InvoiceId) -> Invoice | None:
    """Return an invoice with its credit notes, or None."""
    rows = await work.fetch(f"{_INVOICE} WHERE i.id = $1 ORDER BY n.issued_at, n.id", invoice_id)
    return _invoice(rows) if rows else None


async def invoices_of(work: Work, order_id: OrderId) -> list[Invoice]:
    """Return the invoices of an order; there is one at most."""
    rows = await work.fetch(f"{_INVOICE} WHERE i.order_id = $1 ORDER BY n.issued_at, n.id", order_id)
    return [_invoice(rows)] if rows else []


_INVOICE = """
    SELECT i.*, p.user_id, n.id AS note_id, n.amount AS note_amount, n.issued_at AS note_issued_at
    FROM invoice i JOIN payment p ON p.id = i.payment_id LEFT JOIN credit_note n ON n.invoice_id = i.id
"""

_KEEP = """
    INSERT INTO payment
        (id, order_id, amount, currency, status, authorized, captured, voided, refunded, reason, refunding, user_id)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
    ON CONFLICT (order_id) DO UPDATE SET status = excluded.status, authorized = excluded.authorized,
        captured = excluded.captured, voided = excluded.voided, refunded = excluded.refunded,
        reason = excluded.reason, refunding = excluded.refunding, changed_at = clock_timestamp(),
        user_id = coalesce(payment.user_id, excluded.user_id)
"""


def _values(payment: Payment) -> tuple[Any, ...]:
    return (
        payment.id,
        payment.order_id,
        payment.amount.amount,
        payment.amount.currency,
        payment.status,
        payment.authorized,
        payment.captured,
        payment.voided,
        payment.refunded,
        payment.reason,
        payment.refunding,
        payment.user_id,
    )


def _payment(row: Any) -> Payment:
    return Payment(
        id=PaymentId(row["id"]),
        order_id=OrderId(row["order_id"]),
        amount=Money(row["amount"], row["currency"]),
        status=Status(row["status"]),
        authorized=row["authorized"],
        captured=row["captured"],
        voided=row["voided"],
        refunded=row["refunded"],
        reason=row["reason"],
        refunding=row["refunding"],
        user_id=_user_id(row),
    )


def _refund(row: Any) -> Refund:
    return Refund(RefundId(row["id"]), row["amount"], RefundStatus(row["status"]), row["reason"])


def _invoice(rows: Sequence[Any]) -> Invoice:
    head = rows[0]
    currency = head["currency"]
    notes = (
        CreditNote(CreditNoteId(row["note_id"]), Money(row["note_amount"], currency), row["note_issued_at"])
        for row in rows
        if row["note_id"]
    )
    return Invoice(
        id=InvoiceId(head["id"]),
        payment_id=PaymentId(head["payment_id"]),
        order_id=OrderId(head["order_id"]),
        amount=Money(head["amount"], currency),
        issued_at=head["issued_at"],
        credit_notes=tuple(notes),
        user_id=_user_id(head),
    )


def _user_id(row: Any) -> UserId | None:
    return None if row["user_id"] is None else UserId(row["user_id"])
