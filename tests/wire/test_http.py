"""The HTTP proxy: a client notices nothing, and the tap sees calls and answers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import aiohttp
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from covey.testing.serving import serving
from tests.wire.exchange import Call, Exchange, Stage
from tests.wire.http import Messages, speak_http
from tests.wire.proxy import Proxy


class Keeping:
    """Keeps what passes, and refuses one stage."""

    def __init__(self) -> None:
        self.passed: list[tuple[Stage, int]] = []
        self.refuse: Stage | None = None

    async def passes(self, stage: Stage, exchange: Exchange) -> bool:
        """See Tap."""
        assert isinstance(exchange, Call)
        self.passed.append((stage, exchange.status))
        return stage is not self.refuse


class Till:
    """An application that adds up what it is given."""

    def __init__(self) -> None:
        self.total = 0

    async def pay(self, request: Request) -> Response:
        """Add an amount; 402 for nothing."""
        amount = (await request.json())["amount"]
        self.total += amount
        return JSONResponse({"total": self.total}, 201 if amount else 402)


@pytest.fixture
def till() -> Till:
    """A till with nothing in it."""
    return Till()


@pytest.fixture
async def proxy(till: Till) -> AsyncIterator[Proxy]:
    """A proxy in front of the till."""
    async with serving(Starlette(routes=[Route("/pay", till.pay, methods=["POST"])])) as url:
        port = urlsplit(url).port
        assert port
        proxy = await Proxy.open("127.0.0.1", port, speak_http)
        proxy.tap = Keeping()
        yield proxy
        await proxy.close()


async def pay(proxy: Proxy, *amounts: int) -> list[int]:
    """Pay amounts one after the other on one connection; return the totals."""
    async with aiohttp.ClientSession(f"http://127.0.0.1:{proxy.port}") as http:
        totals = []
        for amount in amounts:
            async with http.post("/pay", json={"amount": amount}) as response:
                totals.append((await response.json())["total"])
        return totals


async def test_calls_and_answers_are_seen(proxy: Proxy) -> None:
    assert await pay(proxy, 5, 0) == [5, 5]

    assert isinstance(proxy.tap, Keeping)
    assert proxy.tap.passed == [
        (Stage.REQUEST, 0),
        (Stage.ANSWER, 201),
        (Stage.DELIVERED, 201),
        (Stage.REQUEST, 0),
        (Stage.ANSWER, 402),
        (Stage.DELIVERED, 402),
    ]


@pytest.mark.parametrize(("stage", "total"), [(Stage.REQUEST, 0), (Stage.ANSWER, 5)])
async def test_a_call_takes_effect_only_if_its_request_passes(
    proxy: Proxy, till: Till, stage: Stage, total: int
) -> None:
    assert isinstance(proxy.tap, Keeping)
    proxy.tap.refuse = stage

    with pytest.raises(aiohttp.ClientError):
        await pay(proxy, 5)

    assert till.total == total


def test_messages_are_cut_wherever_the_bytes_are_divided() -> None:
    whole = b"POST /pay HTTP/1.1\r\nContent-Length: 4\r\n\r\n\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n"

    messages = Messages()
    found = [one for byte in whole for one in messages.feed(bytes([byte]))]

    assert [(one.line, one.body) for one in found] == [
        ("POST /pay HTTP/1.1", b"\r\n\r\n"),
        ("HTTP/1.1 204 No Content", b""),
    ]


def test_a_body_in_chunks_is_not_understood() -> None:
    with pytest.raises(ValueError, match="chunks"):
        list(Messages().feed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"))
