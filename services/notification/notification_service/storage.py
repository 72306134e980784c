"""Mails, and the read model of users, in PostgreSQL."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from covey.database.pagination import Column, Listing, Query
from covey.work.unit_of_work import Work
from notification_service.domain import Mail, MailId, Money, OrderId, Recipient, Status, UserId

MAILS = Listing(
    "notifications",
    "SELECT * FROM mail WHERE true",
    key=Column("id", UUID),
    sorts={"asked": (Column("asked_at", datetime),)},
    filters={"order_id": "order_id = {}", "user_id": "user_id = {}"},
)
"""Mails in the order in which they were asked for. The indexes are those of an order's, and of a user's."""


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


async def asked_for(work: Work, mail: Mail) -> tuple[Mail, timedelta, Recipient | None]:
    """Insert a mail unless it is there.

    Returns it as it is now, how long ago it was first asked for, and what is known of its user.
    """
    row = await work.fetchrow(
        """
        WITH asked AS (
            INSERT INTO mail (id, order_id, user_id, total_amount, total_currency, status)
            VALUES ($1, $2, $3, $4, $5, $6)
            ON CONFLICT (id) DO UPDATE SET status = mail.status
            RETURNING *
        )
        SELECT asked.*, clock_timestamp() - asked.asked_at AS age, r.version, r.address, r.locale, r.wants_order_mail
        FROM asked LEFT JOIN recipient r ON r.id = asked.user_id
        """,
        mail.id,
        mail.order_id,
        mail.user_id,
        mail.total.amount,
        mail.total.currency,
        mail.status,
    )
    found = _mail(row)
    recipient = Recipient(found.user_id, row["version"], row["address"], row["locale"], row["wants_order_mail"])
    return found, row["age"], recipient if row["version"] is not None else None


def keep(work: Work, mail: Mail) -> None:
    """Write what has become of a mail, at the commit: only its own command, which comes one at a time, reads it."""
    work.defer(
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


async def mails_page(work: Work, query: Query) -> tuple[list[Stored], str | None]:
    """Return a page of mails, and the cursor of the page after it. Raises as `Listing.page` does."""
    page = await MAILS.page(work, query)
    return [_stored(row) for row in page.rows], page.next


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
