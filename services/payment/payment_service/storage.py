"""Payments in PostgreSQL, and what was asked of the provider for each."""

from __future__ import annotations

from typing import Any

from covey.work.unit_of_work import Work
from payment_service.domain import Money, Operation, OrderId, Payment, PaymentId, Status


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


async def ask(work: Work, payment: Payment, operation: Operation) -> None:
    """Write a payment together with the intent to ask the provider; asking again leaves the first intent."""
    await work.execute(
        f"""
        WITH kept AS ({_KEEP} RETURNING id)
        INSERT INTO operation (payment_id, what) SELECT id, $11 FROM kept ON CONFLICT DO NOTHING
        """,
        *_values(payment),
        operation,
    )


async def answered(work: Work, payment: Payment, operation: Operation, answer: str) -> None:
    """Write a payment together with the provider's answer."""
    await work.execute(
        f"""
        WITH kept AS ({_KEEP} RETURNING id)
        UPDATE operation SET answered_at = clock_timestamp(), answer = $12 FROM kept
        WHERE payment_id = kept.id AND what = $11
        """,
        *_values(payment),
        operation,
        answer,
    )


_KEEP = """
    INSERT INTO payment (id, order_id, amount, currency, status, authorized, captured, voided, refunded, reason)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
    ON CONFLICT (order_id) DO UPDATE SET status = excluded.status, authorized = excluded.authorized,
        captured = excluded.captured, voided = excluded.voided, refunded = excluded.refunded,
        reason = excluded.reason, changed_at = clock_timestamp()
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
    )
