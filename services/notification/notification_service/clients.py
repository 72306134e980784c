"""A mail server over SMTP (RFC 5321).

Handing over a mail ends within the limit, all phases together, and earlier when the work's deadline comes first. What
comes back says what is known:

    250 after the mail                          Accepted
    5xx to the recipient or to the mail         Rejected; definite
    no answer, a lost connection, 4xx           DependencyUnavailable; repeat
    5xx to the greeting, or to the sender       DependencyUnavailable, MailServerMisused: this is about us, not the mail

A connection over which a mail has gone is kept for the next, for some seconds: to open one costs more than a mail. One
that the server has closed meanwhile is not used; if it closes it in the very moment, the mail is handed over again as
after any lost connection.

A server's texts quote addresses, so of an answer only its code is kept and told. The connection is encrypted where
the server offers it (STARTTLS), and we log in nowhere: the server is a relay that takes mail from our network.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from email.charset import QP, Charset
from email.mime.text import MIMEText
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

KEPT = 8
"""So many connections are kept at most while no mail is handed over."""

KEPT_SECONDS = 5.0
"""So long a connection is kept for the next mail. Servers wait for minutes (RFC 5321, section 4.5.3.2.7)."""

MAILS = 100
"""So many mails go over one connection at most: a server may allow no more."""

_PARTING_SECONDS = 1.0
_ADDRESS = re.compile(r"[!-~]+@[!-~]+")  # and nothing that could end a line of a header
_UTF8 = Charset("utf-8")
_UTF8.body_encoding = QP


class MailServerMisused(Defect):
    """The mail server takes no mail from our sender: a setting of it or of us is wrong."""


@dataclass(eq=False, slots=True)
class _Connection:
    """A connection to the mail server, over which so many mails have gone. `parting` ends it when no mail comes."""

    smtp: SMTP
    mails: int = 0
    parting: asyncio.TimerHandle | None = None

    def stay(self) -> None:
        """Do not end it when the time is over."""
        if self.parting is not None:
            self.parting.cancel()


class SmtpMailer:
    """`Mailer` over SMTP; `limit` bounds handing over one mail. Open it with `async with SmtpMailer.open(...)`."""

    def __init__(self, url: str, sender: str, limit: timedelta, clock: Clock) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname, parts.port
        self._sender = sender
        self._domain = sender.rpartition("@")[2]
        self._limit = limit
        self._clock = clock
        self._kept: list[_Connection] = []
        self._partings: set[asyncio.Task[None]] = set()

    @classmethod
    @asynccontextmanager
    async def open(
        cls, url: str, sender: str, limit: timedelta, clock: Clock | None = None
    ) -> AsyncIterator[SmtpMailer]:
        """Connect when there is a mail; part from the server at the end of the block."""
        mailer = cls(url, sender, limit, clock or SystemClock())
        try:
            yield mailer
        finally:
            for connection in list(mailer._kept):
                mailer._part(connection)
            while mailer._partings:
                await asyncio.wait(mailer._partings)

    async def send(self, letter: Letter) -> Accepted | Rejected:
        """See `Mailer`."""
        try:
            message = self._message(letter)
        except ValueError:
            return Rejected("the address cannot be written into a mail")
        connection = self._take()
        try:
            async with asyncio.timeout(self._seconds_left()):
                if not connection.smtp.is_connected:
                    await connection.smtp.connect()
                await connection.smtp.send_message(message)
        except BaseException as error:
            connection.smtp.close()
            if isinstance(error, SMTPException | OSError):
                return _definite(error)
            if isinstance(error, ValueError):  # aiosmtplib, of an address that could be taken for commands
                return Rejected("the address cannot be written into a mail")
            raise
        self._keep(connection)
        return Accepted()

    def _take(self) -> _Connection:
        """Return the connection that was used last, if it still is one, or one that is yet to be opened."""
        while self._kept:
            connection = self._kept.pop()
            connection.stay()
            if connection.smtp.is_connected:
                return connection
            connection.smtp.close()
        # Its name is ours to say: to look it up would ask a name server, in a thread.
        return _Connection(SMTP(hostname=self._host, port=self._port, local_hostname=self._domain))

    def _keep(self, connection: _Connection) -> None:
        connection.mails += 1
        if connection.mails < MAILS and len(self._kept) < KEPT:
            connection.parting = asyncio.get_running_loop().call_later(KEPT_SECONDS, self._part, connection)
            self._kept.append(connection)
        else:
            self._part(connection)

    def _part(self, connection: _Connection) -> None:
        """Say goodbye in the background: every mail is taken, however the parting goes."""
        if connection in self._kept:
            self._kept.remove(connection)
        connection.stay()
        parting = asyncio.create_task(_say_goodbye(connection.smtp), name="parting from the mail server")
        self._partings.add(parting)
        parting.add_done_callback(self._partings.discard)

    def _message(self, letter: Letter) -> MIMEText:
        """Return the mail as it goes over the wire. (EmailMessage takes twenty times as long for the same.)

        Raises ValueError for an address that is none.
        """
        if not _ADDRESS.fullmatch(letter.address):
            raise ValueError("it is no address")
        message = MIMEText(letter.text, "plain", _UTF8)  # type: ignore[arg-type]  # takes a Charset too
        message["From"] = self._sender
        message["To"] = letter.address
        message["Subject"] = letter.subject
        message["Date"] = format_datetime(self._clock.now())
        message["Message-ID"] = f"<{letter.id}@{self._domain}>"
        message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no holiday notice answers it
        message["X-Order-ID"] = str(letter.order_id)
        return message

    def _seconds_left(self) -> float:
        seconds = self._limit.total_seconds()
        deadline = current().deadline
        if deadline is not None:
            seconds = min(seconds, (deadline - self._clock.now()).total_seconds())
        if seconds <= 0:
            raise DeadlineExceeded("no time is left to hand a mail over")
        return seconds


async def _say_goodbye(smtp: SMTP) -> None:
    with suppress(SMTPException, OSError):
        await smtp.quit(timeout=_PARTING_SECONDS)
    smtp.close()


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
