"""The mail server's client: what is definite, what is unknown, and that no mail takes longer than it may."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from notification_service.clients import KEPT, KEPT_SECONDS, MAILS, MailServerMisused, SmtpMailer
from notification_service.domain import Letter, MailId, OrderId
from notification_service.ports import Accepted, Rejected

from covey import context
from covey.clock import SystemClock
from covey.errors import DeadlineExceeded, DependencyUnavailable
from covey.ids import new_id

LIMIT = timedelta(seconds=0.5)
LETTER = Letter(
    MailId(new_id()), OrderId(new_id()), "ada@example.org", "Ihre Bestellung ist bestätigt", "Vielen Dank für alles.\n"
)


def mailer(url: str) -> AbstractAsyncContextManager[SmtpMailer]:
    return SmtpMailer.open(url, "shop@shop.example", LIMIT)


async def send(url: str, letter: Letter) -> Accepted | Rejected:
    """Hand over one mail and part from the server."""
    async with mailer(url) as one:
        return await one.send(letter)


def to(address: str) -> Letter:
    return replace(LETTER, address=address)


async def test_a_mail_arrives_as_it_was_written(sink: Any) -> None:
    assert await send(sink.url, LETTER) == Accepted()

    (mail,) = await sink.mails(order=str(LETTER.order_id))
    assert (mail["sender"], mail["to"]) == ("shop@shop.example", ["ada@example.org"])
    assert (mail["subject"], mail["text"]) == (LETTER.subject, LETTER.text)
    assert mail["message_id"] == f"<{LETTER.id}@shop.example>"


async def test_a_mail_that_is_handed_over_again_has_the_same_message_id(sink: Any) -> None:
    for _ in range(2):
        await send(sink.url, LETTER)

    first, second = await sink.mails()
    assert first["message_id"] == second["message_id"]


async def test_a_refused_recipient_is_an_answer_that_tells_no_address(sink: Any) -> None:
    answer = await send(sink.url, to("refuse@example.org"))

    assert answer == Rejected("the mail server refused the recipient: 550")
    assert await sink.mails() == []


async def test_a_server_that_is_busy_is_to_be_asked_again(sink: Any) -> None:
    with pytest.raises(DependencyUnavailable, match="451") as raised:
        await send(sink.url, to("busy-1@example.org"))

    assert raised.value.__suppress_context__
    assert "busy-1" not in str(raised.value)
    assert await send(sink.url, to("busy-1@example.org")) == Accepted()


async def test_a_connection_that_is_lost_before_the_answer_leaves_it_unknown_whether_the_mail_was_taken(
    sink: Any,
) -> None:
    with pytest.raises(DependencyUnavailable, match="did not answer"):
        await send(sink.url, to("drop-1@example.org"))

    assert len(await sink.mails()) == 1


async def test_an_answer_that_comes_late_but_in_time_is_one(sink: Any) -> None:
    assert await send(sink.url, to("slow@example.org")) == Accepted()


async def test_a_server_that_cuts_every_connection_is_unavailable_until_it_is_back(sink: Any) -> None:
    await sink.order("down", calls=1)

    with pytest.raises(DependencyUnavailable):
        await send(sink.url, LETTER)

    assert await send(sink.url, LETTER) == Accepted()


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    with pytest.raises(DependencyUnavailable):
        await send("smtp://127.0.0.1:1", LETTER)


@pytest.mark.parametrize(
    "address", ["ada@example.org\r\nBcc: all@example.org", "ada@example.org>\r\nDATA", "ädä@example.org"]
)
async def test_an_address_that_is_none_is_rejected_and_reaches_nobody(sink: Any, address: str) -> None:
    assert isinstance(await send(sink.url, to(address)), Rejected)
    assert await sink.mails() == []


@pytest.mark.parametrize("greeting", ["421 closing down", "554 no mail here"])
async def test_a_server_that_greets_nobody_is_unavailable(greeting: str) -> None:
    async with scripted([greeting]) as url:
        with pytest.raises(DependencyUnavailable, match=greeting[:3]):
            await send(url, LETTER)


async def test_a_server_that_takes_nothing_from_our_sender_is_a_defect_and_no_refusal_of_the_mail() -> None:
    async with scripted(["220 hello", "250 hello", "550 no relaying"]) as url:
        with pytest.raises(MailServerMisused, match="550"):
            await send(url, LETTER)


@pytest.mark.parametrize(
    ("last", "answer"), [("554 spam", Rejected("the mail server refused the mail: 554")), ("250 kept", Accepted())]
)
async def test_the_answer_to_the_mail_itself_settles_it_however_the_connection_ends(
    last: str, answer: Accepted | Rejected
) -> None:
    async with scripted(["220 hello", "250 hello", "250 ok", "250 ok", "354 go on", last]) as url:
        assert await send(url, LETTER) == answer


@pytest.mark.parametrize("answers", [1, 2, 3, 4, 5])
async def test_silence_in_any_phase_ends_at_the_limit_with_an_unknown_outcome(answers: int) -> None:
    said = ["220 hello", "250 hello", "250 ok", "250 ok", "354 go on"][:answers]
    async with scripted(said, silent=True) as url:
        began = time.monotonic()

        with pytest.raises(DependencyUnavailable):
            await send(url, LETTER)

        assert time.monotonic() - began < 1.5


async def test_the_deadline_of_the_work_comes_before_the_limit() -> None:
    soon = replace(context.new_context(), deadline=SystemClock().now() + timedelta(seconds=0.2))
    async with scripted(["220 hello"], silent=True) as url:
        began = time.monotonic()

        with context.use(soon), pytest.raises(DependencyUnavailable):
            async with SmtpMailer.open(url, "shop@shop.example", timedelta(seconds=30)) as patient:
                await patient.send(LETTER)

        assert time.monotonic() - began < 1


async def test_nothing_is_handed_over_when_the_deadline_is_over(sink: Any) -> None:
    over = replace(context.new_context(), deadline=SystemClock().now() - timedelta(seconds=1))

    with context.use(over), pytest.raises(DeadlineExceeded):
        await send(sink.url, LETTER)

    assert await sink.mails() == []


WELCOME = ["220 hello", "250 hello"]
TAKEN = ["250 ok", "250 ok", "354 go on", "250 kept"]


async def test_mails_share_a_connection_and_not_for_ever() -> None:
    met: list[asyncio.Task[None]] = []
    async with scripted([*WELCOME, *TAKEN * MAILS, "221 goodbye"], met=met) as url, mailer(url) as one:
        for _ in range(MAILS + 1):
            assert await one.send(LETTER) == Accepted()

        assert len(met) == 2


async def test_a_connection_that_the_server_has_closed_is_not_used_again() -> None:
    met: list[asyncio.Task[None]] = []
    async with scripted([*WELCOME, *TAKEN], met=met) as url, mailer(url) as one:
        for n in range(3):
            assert await one.send(LETTER) == Accepted()
            await met[n]

        assert len(met) == 3


async def test_a_connection_that_is_lost_with_the_next_mail_leaves_it_unknown_whether_it_was_taken(sink: Any) -> None:
    async with mailer(sink.url) as one:
        await one.send(LETTER)
        await sink.order("down", calls=1)

        with pytest.raises(DependencyUnavailable, match="did not answer"):
            await one.send(LETTER)

        assert await one.send(LETTER) == Accepted()
        assert len(await sink.mails()) == 2


@pytest.mark.slow
async def test_a_connection_that_nobody_uses_is_given_back() -> None:
    met: list[asyncio.Task[None]] = []
    async with scripted([*WELCOME, *TAKEN, "221 goodbye"], met=met) as url, mailer(url) as one:
        await one.send(LETTER)

        async with asyncio.timeout(KEPT_SECONDS + 5):
            await met[0]


async def test_a_refusal_does_not_spoil_the_next_mail(sink: Any) -> None:
    async with mailer(sink.url) as one:
        await one.send(LETTER)
        await one.send(to("refuse@example.org"))

        assert await one.send(LETTER) == Accepted()
        assert [mail["to"] for mail in await sink.mails()] == [["ada@example.org"]] * 2


async def test_mails_at_the_same_time_have_a_connection_each_of_which_some_are_kept() -> None:
    met: list[asyncio.Task[None]] = []
    async with scripted([*WELCOME, *TAKEN * 9, "221 goodbye"], met=met) as url, mailer(url) as one:
        for _ in range(2):
            await asyncio.gather(*(one.send(LETTER) for _ in range(KEPT + 3)))

        assert len(met) == KEPT + 3 + 3


@asynccontextmanager
async def scripted(
    answers: Sequence[str], silent: bool = False, met: list[asyncio.Task[None]] | None = None
) -> AsyncIterator[str]:
    """A mail server that says these lines, one to each thing that it is told, then hangs up or says nothing more.

    `met` gets a task for each connection, which ends with it.
    """

    talks: set[asyncio.Task[None]] = set()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            writer.write(f"{answer}\r\n".encode())
            if answer != answers[-1] or silent:
                await reader.readuntil(b"\r\n.\r\n" if answer.startswith("354") else b"\r\n")
        if silent:
            await reader.read()

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        talks.add(task)
        if met is not None:
            met.append(task)
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError):  # the client has given up
                await talk(reader, writer)
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    server = await asyncio.start_server(client, "127.0.0.1", 0)
    async with server:
        yield f"smtp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        await asyncio.gather(*talks)
