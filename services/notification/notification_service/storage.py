"""Mails, and the read model of users, in PostgreSQL."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from covey.work.unit_of_work import Work
from notification_service.domain import Mail, MailId, Money, OrderId, Recipient, Status, UserId


@dataclass(frozen=True, slots=True)
class Stored:
    """A mail, when it was asked for, and when it was settled."""

    mail: Mail
    asked_at: datetime
    settled_at: datetime | None


def keep_recipient(work: Work, recipient: Recipient) -> None:
    """Keep the newest version of a user, at the commit; an older one, or the same again, changes nothing."""
    work.defer(
        """
        INSERT INTO recipient (id, version, address, locale, wants_order_mail) VALUES ($1, $2, $3, $4, $5)
        ON CONFLICT (id) DO UPDATE SET version = excluded.version, address = excluded.address,
            locale = excluded.locale, wants_order_mail = excluded.wants_order_mail
        WHERE recipient.version < excluded.version
        """,
        recipient.id,
        recipient.version,
        recipient.address,
        recipient.locale,
        recipient.wants_order_mail,
    )


async def recipient(work: Work, user_id: UserId) -> Recipient | None:
    """Return what is known of a user, or None."""
    row = await work.fetchrow(
        "SELECT id, version, address, locale, wants_order_mail FROM recipient WHERE id = $1", user_id
    )
    return Recipient(**dict(row)) if row else None


async def asked_for(work: Work, mail: Mail) -> tuple[Mail, timedelta]:
    """Insert a mail unless it is there. Returns it as it is now, and how long ago it was first asked for."""
    row = await work.fetchrow(
        """
        INSERT INTO mail (id, order_id, user_id, total_amount, total_currency, status) VALUES ($1, $2, $3, $4, $5, $6)
        ON CONFLICT (id) DO UPDATE SET status = mail.status
        RETURNING *, clock_timestamp() - asked_at AS age
        """,
        mail.id,
        mail.order_id,
        mail.user_id,
        mail.total.amount,
        mail.total.currency,
        mail.status,
    )
    return _mail(row), row["age"]


async def keep(work: Work, mail: Mail) -> None:
    """Write what has become of a mail."""
    await work.execute(
        """
        UPDATE mail SET status = $2, reason = $3, attempts = $4,
            settled_at = CASE WHEN $2 NOT IN ('waiting', 'sending') THEN coalesce(settled_at, clock_timestamp()) END
        WHERE id = $1
        """,
        mail.id,
        mail.status,
        mail.reason,
        mail.attempts,
    )


async def mail_to_change(work: Work, mail_id: MailId) -> Mail | None:
    """Return a mail and keep others from changing it until the transaction ends."""
    row = await work.fetchrow("SELECT * FROM mail WHERE id = $1 FOR UPDATE", mail_id)
    return _mail(row) if row else None


async def by_id(work: Work, mail_id: MailId) -> Stored | None:
    """Return a mail, or None."""
    row = await work.fetchrow("SELECT * FROM mail WHERE id = $1", mail_id)
    return _stored(row) if row else None


async def of_order(work: Work, order_id: OrderId, limit: int) -> list[Stored]:
    """Return up to `limit` mails about an order, newest first."""
    rows = await work.fetch(
        "SELECT * FROM mail WHERE order_id = $1 ORDER BY asked_at DESC, id LIMIT $2", order_id, limit
    )
    return [_stored(row) for row in rows]


async def of_user(work: Work, user_id: UserId, limit: int) -> list[Stored]:
    """Return up to `limit` mails to a user, newest first."""
    rows = await work.fetch("SELECT * FROM mail WHERE user_id = $1 ORDER BY asked_at DESC, id LIMIT $2", user_id, limit)
    return [_stored(row) for row in rows]


def _stored(row: Any) -> Stored:
    return Stored(_mail(row), row["asked_at"], row["settled_at"])


def _mail(row: Any) -> Mail:
    return Mail(
        id=MailId(row["id"]),
        order_id=OrderId(row["order_id"]),
        user_id=UserId(row["user_id"]),
        total=Money(row["total_amount"], row["total_currency"]),
        status=Status(row["status"]),
        reason=row["reason"],
        attempts=row["attempts"],
    )
