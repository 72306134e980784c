"""A mail to a user: decided on, handed to a mail server, and what became of it.

    waiting ──→ sending ──→ sent
       │           ├──────→ refused   (the mail server definitely will not take it)
       └───────────┴──────→ skipped   (nobody wants it, or nobody knows where it should go)

Waiting is for an address. Sending is an intent: committed before the mail server is asked, and left with its definite
answer, or when the user does not want the mail any more. Pure: no I/O and no clock.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NewType, assert_never
from uuid import UUID, uuid5

from covey.errors import Conflict

OrderId = NewType("OrderId", UUID)
UserId = NewType("UserId", UUID)
MailId = NewType("MailId", UUID)

_CONFIRMATIONS = UUID("0199f3a4-5d1e-7c00-8000-636f6e666972")
_MINOR_DIGITS = {"CLP": 0, "ISK": 0, "JPY": 0, "KRW": 0, "VND": 0, "BHD": 3, "JOD": 3, "KWD": 3, "OMR": 3, "TND": 3}


@dataclass(frozen=True, slots=True)
class Money:
    """An amount in minor units (cents) of an ISO 4217 currency."""

    amount: int
    currency: str

    def __str__(self) -> str:
        digits = _MINOR_DIGITS.get(self.currency, 2)
        whole, rest = divmod(self.amount, 10**digits)
        return f"{whole}.{rest:0{digits}} {self.currency}" if digits else f"{whole} {self.currency}"


@dataclass(frozen=True, slots=True)
class Recipient:
    """What is known here of a user, who owns it elsewhere. `address` is None when the account is closed."""

    id: UserId
    version: int
    address: str | None
    locale: str
    wants_order_mail: bool


class Status(StrEnum):
    """Where a mail stands."""

    WAITING = "waiting"
    SENDING = "sending"
    SENT = "sent"
    REFUSED = "refused"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Mail:
    """The confirmation of an order. It holds no address, so that there is nothing to erase when an account is closed.

    `attempts` counts the times that it was, or may have been, handed to the mail server.
    """

    id: MailId
    order_id: OrderId
    user_id: UserId
    total: Money
    status: Status = Status.WAITING
    reason: str | None = None
    attempts: int = 0


@dataclass(frozen=True, slots=True)
class Letter:
    """A mail as it is handed over. Every attempt of it has the same `id`, by which it can be recognized."""

    id: MailId
    order_id: OrderId
    address: str
    subject: str
    text: str


def mail_id(saga_id: UUID) -> MailId:
    """Return the id of the one confirmation that a saga asks for, however often it asks."""
    return MailId(uuid5(_CONFIRMATIONS, str(saga_id)))


def proceed(mail: Mail, recipient: Recipient | None, patient: bool) -> Mail:
    """Return what is to become of a mail, in view of what is known of the user now.

    One who is unknown is waited for while we are `patient`. What has ended stays as it is.
    """
    match mail.status:
        case Status.SENT | Status.REFUSED | Status.SKIPPED:
            return mail
        case Status.WAITING | Status.SENDING:
            return _with(mail, recipient, patient)
        case _:
            assert_never(mail.status)


def sent(mail: Mail) -> Mail:
    """The mail server has taken it."""
    _require_sending(mail)
    return replace(mail, status=Status.SENT)


def refused(mail: Mail, reason: str) -> Mail:
    """The mail server definitely will not take it."""
    _require_sending(mail)
    return replace(mail, status=Status.REFUSED, reason=reason)


def confirmation(mail: Mail, address: str, locale: str) -> Letter:
    """Return the mail in the user's language; in English, if we do not speak it."""
    subject, text = _TEXTS.get(locale[:2], _TEXTS["en"])
    return Letter(mail.id, mail.order_id, address, subject, text.format(order=mail.order_id, total=mail.total))


def _with(mail: Mail, recipient: Recipient | None, patient: bool) -> Mail:
    if recipient is None:
        return mail if patient else _skipped(mail, "no address is known")
    if recipient.address is None:
        return _skipped(mail, "the account is closed")
    if not recipient.wants_order_mail:
        return _skipped(mail, "the user wants no mail about orders")
    return replace(mail, status=Status.SENDING, attempts=mail.attempts + 1)


def _skipped(mail: Mail, reason: str) -> Mail:
    return replace(mail, status=Status.SKIPPED, reason=reason)


def _require_sending(mail: Mail) -> None:
    if mail.status is not Status.SENDING:
        raise Conflict(f"mail {mail.id} is {mail.status}, and was to be {Status.SENDING}")


_TEXTS = {
    "en": (
        "Your order is confirmed",
        "Thank you for your order.\n\nWe have received your payment of {total} and will prepare your goods.\n\n"
        "Order number: {order}\n",
    ),
    "de": (
        "Ihre Bestellung ist bestätigt",
        "Vielen Dank für Ihre Bestellung.\n\nIhre Zahlung über {total} ist eingegangen, und wir stellen Ihre Ware"
        " bereit.\n\nBestellnummer: {order}\n",
    ),
}
