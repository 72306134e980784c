"""The mail sink's SMTP interface (RFC 5321), on aiosmtpd."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from email import message_from_bytes
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from email.message import Message

from aiosmtpd.smtp import SMTP, Envelope, Session

from covey.clock import Clock
from mail_sink.behaviour import Behaviour, Mode
from mail_sink.book import Book, Mail

_NAME = "mail-sink.example"


def connection(book: Book, behaviour: Behaviour, clock: Clock, slow_seconds: float) -> asyncio.BaseProtocol:
    """Return what talks to the client of a new connection."""
    if not behaviour.connects():
        return _Cut()
    handler = _Conversation(book, behaviour, clock, slow_seconds)
    return SMTP(handler, hostname=_NAME, ident="mail sink", loop=asyncio.get_running_loop())


class _Cut(asyncio.Protocol):
    """Hangs up at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


class _Conversation:
    """What is decided while one client talks; a mail goes as its last mailbox has it."""

    def __init__(self, book: Book, behaviour: Behaviour, clock: Clock, slow_seconds: float) -> None:
        self._book = book
        self._behaviour = behaviour
        self._clock = clock
        self._slow_seconds = slow_seconds
        self._mode = Mode.ACCEPT

    async def handle_MAIL(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        """Begin with a mail, unless the server has gone down since the connection was made."""
        if not self._behaviour.connects():
            assert isinstance(server.transport, asyncio.Transport)
            server.transport.abort()
            await asyncio.Event().wait()  # it is cancelled when the connection is gone
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 2.1.0 OK"

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        """Take a mailbox, or say why not."""
        self._mode = self._behaviour.next(address)
        if self._mode is Mode.REFUSE:
            return f"550 5.1.1 <{address}>: no such mailbox"
        if self._mode is Mode.BUSY:
            return f"451 4.3.2 <{address}>: try again later"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """Keep the mail, then answer, perhaps late or not at all."""
        self._book.keep(_mail(envelope, self._clock))
        if self._mode is Mode.DROP and server.transport is not None:
            server.transport.close()
        if self._mode in (Mode.DROP, Mode.SILENT):
            await asyncio.Event().wait()  # it is cancelled when the connection is gone
        if self._mode is Mode.SLOW:
            await self._clock.sleep(self._slow_seconds)
        return "250 2.0.0 OK: kept"


def _mail(envelope: Envelope, clock: Clock) -> Mail:
    content = envelope.content if isinstance(envelope.content, bytes) else b""
    message = message_from_bytes(content)
    body = next((part for part in message.walk() if part.get_content_type() == "text/plain"), None)
    return Mail(
        at=clock.now().isoformat(),
        sender=envelope.mail_from or "",
        to=list(envelope.rcpt_tos),
        message_id=str(message["Message-ID"] or ""),
        order=str(message["X-Order-ID"] or ""),
        subject=_subject(message["Subject"] or ""),
        text=_text(body) if body is not None else "",
    )


def _subject(written: str) -> str:
    with suppress(HeaderParseError, LookupError, UnicodeDecodeError):
        return str(make_header(decode_header(written)))
    return written


def _text(part: Message) -> str:
    content = part.get_payload(decode=True)
    assert isinstance(content, bytes)  # of a part that is text
    try:
        text = content.decode(part.get_content_charset("utf-8"), errors="replace")
    except LookupError:  # in a charset that nobody knows
        text = content.decode(errors="replace")
    return text.replace("\r\n", "\n")
