"""The mail server that stands in for real ones: it must keep what it takes, and be as unreliable, as they are."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import aiosmtplib
import pytest

from covey.local.ports import free_port


def written(
    to: str, order: str = "order-1", message_id: str = "<1@shop.example>", subject: str = "Hello", kind: str = ""
) -> str:
    lines = ["From: shop@shop.example", f"To: {to}", f"Subject: {subject}", f"Message-ID: {message_id}"]
    return "\r\n".join([*lines, *filter(None, [kind]), f"X-Order-ID: {order}", "", "Thank you."]) + "\r\n"


async def send(url: str, to: str = "ada@example.org", **fields: str) -> int:
    """Hand a mail over as any client does; return the code of the answer, 0 when there was none."""
    parts = urlsplit(url)
    try:
        await aiosmtplib.send(
            written(to, **fields),
            sender="shop@shop.example",
            recipients=[to],
            hostname=parts.hostname,
            port=parts.port,
            local_hostname="shop.example",
            timeout=2,
        )
    except aiosmtplib.SMTPRecipientsRefused as error:
        return int(error.recipients[0].code)
    except (aiosmtplib.SMTPException, OSError):
        return 0
    return 250


async def test_a_mail_that_is_taken_can_be_read(sink: Any) -> None:
    assert await send(sink.url) == 250

    (mail,) = await sink.mails()
    assert mail.pop("at")
    assert mail == {
        "sender": "shop@shop.example",
        "to": ["ada@example.org"],
        "message_id": "<1@shop.example>",
        "order": "order-1",
        "subject": "Hello",
        "text": "Thank you.\n",
    }


@pytest.mark.parametrize(
    ("subject", "read"),
    [
        ("=?utf-8?q?best=C3=A4tigt?= =?utf-8?b?ISEh?=", "bestätigt!!!"),
        ("=?odd?q?Hello?=", "=?odd?q?Hello?="),
        ("=?utf-8?b?a?=", "=?utf-8?b?a?="),
        ("=?ascii?q?=FF?=", "=?ascii?q?=FF?="),
    ],
)
async def test_a_subject_is_read_as_it_is_meant_or_as_it_is_written(sink: Any, subject: str, read: str) -> None:
    assert await send(sink.url, subject=subject) == 250

    assert [mail["subject"] for mail in await sink.mails()] == [read]


@pytest.mark.parametrize(
    ("kind", "text"), [("Content-Type: text/plain; charset=odd", "Thank you.\n"), ("Content-Type: image/png", "")]
)
async def test_a_text_in_an_odd_charset_is_taken_and_what_is_no_text_is_not_read(
    sink: Any, kind: str, text: str
) -> None:
    assert await send(sink.url, kind=kind) == 250

    assert [mail["text"] for mail in await sink.mails()] == [text]


async def test_mails_are_found_by_order_and_by_mailbox(sink: Any) -> None:
    await send(sink.url, "ada@example.org", order="order-1")
    await send(sink.url, "bob@example.org", order="order-1")
    await send(sink.url, "ada@example.org", order="order-2")

    assert [mail["to"] for mail in await sink.mails(order="order-1")] == [["ada@example.org"], ["bob@example.org"]]
    assert [mail["order"] for mail in await sink.mails(to="ada@example.org")] == ["order-1", "order-2"]
    assert len(await sink.mails(order="order-1", to="ada@example.org")) == 1
    assert await sink.mails(order="order-3") == []


async def test_a_mail_that_comes_twice_is_there_twice(sink: Any) -> None:
    for _ in range(2):
        await send(sink.url)

    assert [mail["message_id"] for mail in await sink.mails()] == ["<1@shop.example>"] * 2


async def test_mails_at_the_same_time_are_all_kept(sink: Any) -> None:
    answers = await asyncio.gather(*(send(sink.url, order=f"order-{n}") for n in range(20)))

    assert answers == [250] * 20
    assert {mail["order"] for mail in await sink.mails()} == {f"order-{n}" for n in range(20)}


@pytest.mark.parametrize(
    ("mailbox", "answers", "kept"),
    [
        ("refuse", [550, 550, 550], 0),
        ("busy", [451, 451, 451], 0),
        ("busy-2", [451, 451, 250], 1),
        ("busy-1+ada", [451, 250, 250], 2),
        ("drop", [0, 0, 0], 3),
        ("drop-1", [0, 250, 250], 3),
        ("silent-1", [0, 250, 250], 3),
        ("slow", [250, 250, 250], 3),
        ("refused", [250, 250, 250], 3),
    ],
)
async def test_a_mailbox_says_how_its_mail_goes(sink: Any, mailbox: str, answers: list[int], kept: int) -> None:
    assert [await send(sink.url, f"{mailbox}@example.org") for _ in range(3)] == answers
    assert len(await sink.mails()) == kept


async def test_a_slow_mailbox_takes_its_time(sink: Any) -> None:
    began = asyncio.get_running_loop().time()

    await send(sink.url, "slow@example.org")

    assert asyncio.get_running_loop().time() - began >= 0.2


@pytest.mark.parametrize(("mode", "answer"), [("refuse", 550), ("busy", 451), ("drop", 0), ("down", 0)])
async def test_the_administrator_can_have_it_misbehave_for_so_many_calls(sink: Any, mode: str, answer: int) -> None:
    await sink.order(mode, calls=2)

    assert [await send(sink.url) for _ in range(3)] == [answer, answer, 250]


async def test_the_administrator_can_take_it_down_until_further_notice(sink: Any) -> None:
    await sink.order("down")
    assert [await send(sink.url) for _ in range(3)] == [0, 0, 0]

    await sink.order("accept")

    assert await send(sink.url) == 250


@pytest.mark.parametrize("body", [b"", b"{}", b'{"mode": "odd"}', b'{"mode": "down", "calls": 0}'])
async def test_an_order_that_makes_no_sense_is_refused(sink: Any, body: bytes) -> None:
    async with sink.http.put("/admin/mode", data=body) as response:
        assert response.status == 422


async def test_its_book_survives_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "mail.book"
    async with process(path) as (http, url, pid):
        assert await send(url, order="order-1") == 250
        os.kill(pid, signal.SIGKILL)
    with path.open("ab") as file:
        file.write(b'{"at": "half a li')

    async with process(path) as (http, url, _):
        assert await orders(http) == ["order-1"]
        assert await send(url, order="order-2") == 250

    async with process(path) as (http, _, _):
        assert await orders(http) == ["order-1", "order-2"]


async def orders(http: aiohttp.ClientSession) -> list[str]:
    async with http.get("/mails") as response:
        return [mail["order"] for mail in (await response.json())["mails"]]


@asynccontextmanager
async def process(path: Path) -> AsyncIterator[tuple[aiohttp.ClientSession, str, int]]:
    """A sink in a process of its own: a client, where mail goes, its pid."""
    port = free_port()
    smtp_port = free_port({port})
    arguments = ("--port", str(port), "--smtp-port", str(smtp_port), "--book", str(path))
    sink = await asyncio.create_subprocess_exec(sys.executable, "-m", "mail_sink", *arguments)
    try:
        async with asyncio.timeout(10), aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
            await answering(http)
            yield http, f"smtp://127.0.0.1:{smtp_port}", sink.pid
    finally:
        if sink.returncode is None:
            sink.kill()
        await sink.wait()


async def answering(http: aiohttp.ClientSession) -> None:
    while True:
        try:
            async with http.get("/health"):
                return
        except aiohttp.ClientConnectionError:
            await asyncio.sleep(0.02)
