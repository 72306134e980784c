"""The SMTP proxy: a client notices nothing, and the tap sees commands, mails and answers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from mail_sink.api import application
from notification_service.clients import SmtpMailer
from notification_service.domain import Letter, MailId, OrderId
from notification_service.ports import Accepted, Rejected

from covey.errors import DependencyUnavailable
from covey.ids import new_id
from covey.testing.serving import serving
from tests.wire.exchange import Exchange, Mailing, Stage
from tests.wire.proxy import Proxy
from tests.wire.smtp import DOT, Talk, speak_smtp


class Keeping:
    """Keeps what passes, and refuses one stage of a mail."""

    def __init__(self) -> None:
        self.passed: list[tuple[Stage, str, int]] = []
        self.refuse: Stage | None = None

    async def passes(self, stage: Stage, exchange: Exchange) -> bool:
        """See Tap."""
        assert isinstance(exchange, Mailing)
        self.passed.append((stage, exchange.line.partition(":")[0], exchange.code))
        return not (exchange.line == DOT and stage is self.refuse)


@pytest.fixture
async def http(tmp_path: Path) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of the HTTP interface of a mail sink."""
    async with (
        serving(application(tmp_path / "book"), lifespan=True) as url,
        aiohttp.ClientSession(url) as http,
    ):
        yield http


@pytest.fixture
async def proxy(http: aiohttp.ClientSession) -> AsyncIterator[Proxy]:
    """A proxy in front of the sink."""
    async with http.get("/health") as response:
        port = (await response.json())["smtp_port"]
    proxy = await Proxy.open("127.0.0.1", port, speak_smtp)
    proxy.tap = Keeping()
    yield proxy
    await proxy.close()


async def send(proxy: Proxy, address: str = "ada@example.org") -> Accepted | Rejected:
    """Send a mail with a line in it that begins with a dot."""
    letter = Letter(MailId(new_id()), OrderId(new_id()), address, "Hello", "so\n.\n...\nit is\n")
    async with SmtpMailer.open(f"smtp://127.0.0.1:{proxy.port}", "shop@example.org", timedelta(seconds=5)) as mailer:
        return await mailer.send(letter)


async def texts(http: aiohttp.ClientSession) -> list[str]:
    """Return the texts of the mails that the sink has taken."""
    async with http.get("/mails") as response:
        mails: list[dict[str, Any]] = (await response.json())["mails"]
    return [mail["text"] for mail in mails]


async def test_commands_mails_and_answers_are_seen(proxy: Proxy, http: aiohttp.ClientSession) -> None:
    assert await send(proxy) == Accepted()

    assert await texts(http) == ["so\n.\n...\nit is\n"]
    assert isinstance(proxy.tap, Keeping)
    requests = [line.split()[0] for stage, line, _ in proxy.tap.passed if stage is Stage.REQUEST]
    assert requests == ["EHLO", "MAIL", "RCPT", "DATA", DOT, "QUIT"]
    assert [(stage, code) for stage, line, code in proxy.tap.passed if line == DOT] == [
        (Stage.REQUEST, 0),
        (Stage.ANSWER, 250),
        (Stage.DELIVERED, 250),
    ]


async def test_a_refusal_is_seen(proxy: Proxy) -> None:
    assert isinstance(await send(proxy, "refuse@example.org"), Rejected)

    assert isinstance(proxy.tap, Keeping)
    assert (Stage.DELIVERED, "RCPT TO", 550) in proxy.tap.passed


@pytest.mark.parametrize(("stage", "taken"), [(Stage.REQUEST, 0), (Stage.ANSWER, 1)])
async def test_a_mail_is_taken_only_if_it_passes(
    proxy: Proxy, http: aiohttp.ClientSession, stage: Stage, taken: int
) -> None:
    assert isinstance(proxy.tap, Keeping)
    proxy.tap.refuse = stage

    with pytest.raises(DependencyUnavailable):
        await send(proxy)

    assert len(await texts(http)) == taken


def test_a_conversation_is_cut_wherever_the_bytes_are_divided() -> None:
    talk, found = Talk(), []

    for byte in b"DATA\r\nSubject: a\r\n\r\n..\r\nb.\r\n.\r\nQUIT\r\n":
        for line, whole in talk.commands(bytes([byte])):
            talk.mail_follows = line == "DATA"
            found.append((line, len(whole)))

    assert found == [("DATA", 6), (DOT, 25), ("QUIT", 6)]


def test_what_is_to_be_encrypted_is_not_understood() -> None:
    with pytest.raises(ValueError, match="encrypted"):
        list(Talk().commands(b"STARTTLS\r\n"))
