"""What becomes of a mail, and what is in it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from notification_service import domain
from notification_service.domain import Mail, Money, OrderId, Recipient, Status, UserId

from covey.errors import Conflict
from covey.ids import new_id

SAGA = new_id()
ADA = Recipient(UserId(new_id()), 1, "ada@example.org", "en", wants_order_mail=True)
MAIL = Mail(domain.mail_id(SAGA), OrderId(new_id()), ADA.id, Money(4_905, "EUR"))

ENDED = [
    replace(MAIL, status=Status.SENT),
    replace(MAIL, status=Status.REFUSED, reason="550"),
    replace(MAIL, status=Status.SKIPPED, reason="the account is closed"),
]


def test_a_mail_to_who_wants_it_is_sent() -> None:
    sending = domain.proceed(MAIL, ADA, patient=True)

    assert sending == replace(MAIL, status=Status.SENDING, attempts=1)
    assert domain.sent(sending).status is Status.SENT


def test_each_attempt_is_counted() -> None:
    second = domain.proceed(domain.proceed(MAIL, ADA, patient=True), ADA, patient=True)

    assert (second.status, second.attempts) == (Status.SENDING, 2)


@pytest.mark.parametrize(
    ("recipient", "reason"),
    [
        (replace(ADA, wants_order_mail=False), "the user wants no mail about orders"),
        (replace(ADA, address=None), "the account is closed"),
    ],
)
@pytest.mark.parametrize("mail", [MAIL, replace(MAIL, status=Status.SENDING, attempts=1)])
def test_a_mail_that_nobody_wants_any_more_is_skipped(mail: Mail, recipient: Recipient, reason: str) -> None:
    skipped = domain.proceed(mail, recipient, patient=True)

    assert skipped == replace(mail, status=Status.SKIPPED, reason=reason)


def test_a_user_who_is_unknown_is_waited_for_while_there_is_patience() -> None:
    assert domain.proceed(MAIL, None, patient=True) == MAIL
    assert domain.proceed(MAIL, None, patient=False) == replace(
        MAIL, status=Status.SKIPPED, reason="no address is known"
    )


@pytest.mark.parametrize("mail", ENDED, ids=lambda mail: str(mail.status))
def test_what_has_ended_stays_as_it_is(mail: Mail) -> None:
    assert domain.proceed(mail, ADA, patient=True) == mail
    assert domain.proceed(mail, None, patient=False) == mail
    with pytest.raises(Conflict, match="was to be sending"):
        domain.sent(mail)
    with pytest.raises(Conflict, match="was to be sending"):
        domain.refused(mail, "552")


def test_a_saga_asks_for_one_mail_however_often_it_asks() -> None:
    assert domain.mail_id(SAGA) == domain.mail_id(SAGA)
    assert domain.mail_id(SAGA) != domain.mail_id(new_id())


@pytest.mark.parametrize(
    ("locale", "subject"),
    [
        ("en", "Your order is confirmed"),
        ("de", "Ihre Bestellung ist bestätigt"),
        ("de-AT", "Ihre Bestellung ist bestätigt"),
        ("fi", "Your order is confirmed"),
    ],
)
def test_a_mail_is_in_the_language_of_its_reader_or_in_english(locale: str, subject: str) -> None:
    letter = domain.confirmation(MAIL, "ada@example.org", locale)

    assert (letter.id, letter.address, letter.subject) == (MAIL.id, "ada@example.org", subject)
    assert str(MAIL.order_id) in letter.text
    assert "49.05 EUR" in letter.text


@pytest.mark.parametrize(
    ("amount", "currency", "text"),
    [(5, "EUR", "0.05 EUR"), (123_456, "USD", "1234.56 USD"), (500, "JPY", "500 JPY"), (1_500, "KWD", "1.500 KWD")],
)
def test_an_amount_is_written_as_its_currency_is_divided(amount: int, currency: str, text: str) -> None:
    assert str(Money(amount, currency)) == text
