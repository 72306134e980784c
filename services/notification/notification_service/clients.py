"""A mail server over SMTP (RFC 5321).

Each mail has a connection of its own, and ends within the limit, all phases together, and earlier when the work's
deadline comes first. What comes back says what is known:

    250 after the mail                          Accepted
    5xx to the recipient or to the mail         Rejected; definite
    no answer, a lost connection, 4xx           DependencyUnavailable; repeat
    5xx to the greeting, or to the sender       DependencyUnavailable, MailServerMisused: this is about us, not the mail

A server's texts quote addresses, so of an answer only its code is kept and told. The connection is encrypted where
the server offers it (STARTTLS), and we log in nowhere: the server is a relay that takes mail from our network.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta
from email.message import EmailMessage
from email.utils import format_datetime
from urllib.parse import urlsplit

from aiosmtplib import (
    SMTP,
    SMTPDataError,
    SMTPException,
    SMTPNotSupported,
    SMTPRecipientsRefused,
    SMTPResponseException,
    SMTPSenderRefused,
)

from covey.clock import Clock, SystemClock
from covey.context import current
from covey.errors import DeadlineExceeded, Defect, DependencyUnavailable
from notification_service.domain import Letter
from notification_service.ports import Accepted, Rejected

_PARTING_SECONDS = 1.0


class MailServerMisused(Defect):
    """The mail server takes no mail from our sender: a setting of it or of us is wrong."""


class SmtpMailer:
    """`Mailer` over SMTP. `limit` bounds handing over one mail."""

    def __init__(self, url: str, sender: str, limit: timedelta, clock: Clock | None = None) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname, parts.port
        self._sender = sender
        self._domain = sender.rpartition("@")[2]
        self._limit = limit
        self._clock = clock or SystemClock()

    async def send(self, letter: Letter) -> Accepted | Rejected:
        """See `Mailer`."""
        try:
            message = self._message(letter)
        except ValueError:
            return Rejected("the address cannot be written into a mail")
        # Its name is ours to say: to look it up would ask a name server, in a thread.
        smtp = SMTP(hostname=self._host, port=self._port, local_hostname=self._domain)
        try:
            async with asyncio.timeout(self._seconds_left()):
                await smtp.connect()
                await smtp.send_message(message)
            with suppress(SMTPException, OSError):  # the mail is taken, however the parting goes
                await smtp.quit(timeout=_PARTING_SECONDS)
        except (SMTPException, OSError) as error:
            return _definite(error)
        except ValueError:  # aiosmtplib, of an address that could be taken for commands
            return Rejected("the address cannot be written into a mail")
        finally:
            smtp.close()
        return Accepted()

    def _message(self, letter: Letter) -> EmailMessage:
        message = EmailMessage()
        message["From"] = self._sender
        message["To"] = letter.address
        message["Subject"] = letter.subject
        message["Date"] = format_datetime(self._clock.now())
        message["Message-ID"] = f"<{letter.id}@{self._domain}>"
        message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no holiday notice answers it
        message["X-Order-ID"] = str(letter.order_id)
        message.set_content(letter.text)
        return message

    def _seconds_left(self) -> float:
        seconds = self._limit.total_seconds()
        deadline = current().deadline
        if deadline is not None:
            seconds = min(seconds, (deadline - self._clock.now()).total_seconds())
        if seconds <= 0:
            raise DeadlineExceeded("no time is left to hand a mail over")
        return seconds


def _definite(error: SMTPException | OSError) -> Rejected:
    """Return an answer that settles the matter; raise for every other, without a cause, whose text is personal."""
    match error:
        case SMTPRecipientsRefused(recipients=[first, *_]) if first.code >= 500:
            return Rejected(f"the mail server refused the recipient: {first.code}")
        case SMTPRecipientsRefused(recipients=[first, *_]):
            code = first.code
        case SMTPDataError(code=code) if code >= 500:
            return Rejected(f"the mail server refused the mail: {code}")
        case SMTPSenderRefused(code=code) if code >= 500:
            raise MailServerMisused(f"the mail server refused our sender: {code}") from None
        case SMTPNotSupported():
            return Rejected("the mail server takes no such address")
        case SMTPResponseException(code=code):
            pass
        case _:
            raise DependencyUnavailable(f"the mail server did not answer: {type(error).__name__}") from None
    raise DependencyUnavailable(f"the mail server answered {code}") from None
