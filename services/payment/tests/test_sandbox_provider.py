"""The provider that stands in for real ones: it must be as strict about keys, and as unreliable, as they are."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from covey.local.ports import free_port

EUR = {"currency": "EUR"}
ASK = {"reference": "order-1", "amount": 4_900, "currency": "EUR", "token": "tok_ok"}
TAKE = {"reference": "order-1", "amount": 4_900, "currency": "EUR"}


@pytest.fixture
async def http(sandbox: str) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(sandbox) as session:
        yield session


async def post(
    http: aiohttp.ClientSession, path: str, body: dict[str, Any], key: str, seconds: float = 5
) -> tuple[int, Any]:
    limit = aiohttp.ClientTimeout(total=seconds)
    async with http.post(path, json=body, headers={"Idempotency-Key": key}, timeout=limit) as response:
        return response.status, await response.json(content_type=None)


async def book(http: aiohttp.ClientSession) -> list[tuple[str, int, int]]:
    """What the provider has decided: operation, amount moved, status."""
    async with http.get("/book") as response:
        entries = (await response.json())["entries"]
    return [(entry["operation"], entry["done"], entry["status"]) for entry in entries]


async def test_money_goes_from_authorized_to_captured_to_refunded(http: aiohttp.ClientSession) -> None:
    answers = [
        await post(http, "/authorizations", ASK, "a"),
        await post(http, "/captures", TAKE, "c"),
        await post(http, "/refunds", TAKE, "r"),
    ]

    assert answers == [(201, {"amount": 4_900})] * 3
    assert await book(http) == [("authorize", 4_900, 201), ("capture", 4_900, 201), ("refund", 4_900, 201)]


async def test_a_key_has_one_effect_and_one_answer(http: aiohttp.ClientSession) -> None:
    first = await post(http, "/authorizations", ASK, "a")
    second = await post(http, "/authorizations", ASK, "a")

    assert first == second
    assert await book(http) == [("authorize", 4_900, 201)]


async def test_another_key_is_another_charge(http: aiohttp.ClientSession) -> None:
    await post(http, "/authorizations", ASK, "a")
    await post(http, "/captures", TAKE, "c")
    await post(http, "/captures", TAKE, "another")

    assert await book(http) == [("authorize", 4_900, 201), ("capture", 4_900, 201), ("capture", 4_900, 201)]


async def test_a_key_that_comes_back_with_another_request_is_refused(http: aiohttp.ClientSession) -> None:
    await post(http, "/authorizations", ASK, "a")

    status, _ = await post(http, "/authorizations", ASK | {"amount": 1}, "a")

    assert status == 422
    assert await book(http) == [("authorize", 4_900, 201)]


async def test_a_key_used_for_another_operation_is_refused(http: aiohttp.ClientSession) -> None:
    await post(http, "/authorizations", {**TAKE, "token": ""}, "a")

    status, _ = await post(http, "/captures", TAKE, "a")

    assert status == 422


async def test_equal_requests_at_the_same_time_have_one_effect(http: aiohttp.ClientSession) -> None:
    slow = ASK | {"token": "tok_slow"}

    answers = await asyncio.gather(*(post(http, "/authorizations", slow, "a") for _ in range(5)))

    assert sorted(status for status, _ in answers) == [201, 409, 409, 409, 409]
    assert await book(http) == [("authorize", 4_900, 201)]


async def test_a_request_without_a_key_is_refused(http: aiohttp.ClientSession) -> None:
    async with http.post("/authorizations", json=ASK) as response:
        assert response.status == 400


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'{"reference": "x", "amount": -1}', b'{"reference": "x", "amount": 1.5}']
)
async def test_a_request_that_makes_no_sense_is_refused(http: aiohttp.ClientSession, body: bytes) -> None:
    async with http.post("/authorizations", data=body, headers={"Idempotency-Key": "a"}) as response:
        assert response.status == 422


async def test_a_declined_card_stays_declined_under_its_key(http: aiohttp.ClientSession) -> None:
    declined = ASK | {"token": "tok_declined"}

    answers = [await post(http, "/authorizations", declined, "a") for _ in range(2)]

    assert [status for status, _ in answers] == [402, 402]
    assert await book(http) == [("authorize", 0, 402)]


async def test_the_refunds_of_a_card_can_be_declined_and_nothing_else(http: aiohttp.ClientSession) -> None:
    await post(http, "/authorizations", ASK | {"token": "tok_refund_declined"}, "a")
    await post(http, "/captures", TAKE, "c")

    status, _ = await post(http, "/refunds", TAKE, "r")

    assert status == 402
    assert await book(http) == [("authorize", 4_900, 201), ("capture", 4_900, 201), ("refund", 0, 402)]


@pytest.mark.parametrize("token", ["", "tok_stolen", "TOK_OK", "tok_down_"])
async def test_a_token_that_stands_for_no_means_of_payment_is_declined(http: aiohttp.ClientSession, token: str) -> None:
    status, answer = await post(http, "/authorizations", ASK | {"token": token}, "a")

    assert (status, answer["detail"]) == (402, "there is no such means of payment")
    assert await book(http) == [("authorize", 0, 402)]


async def test_a_void_gives_up_what_is_open_and_says_what_there_was(http: aiohttp.ClientSession) -> None:
    await post(http, "/authorizations", ASK, "a")

    answer = await post(http, "/voids", {"reference": "order-1"}, "v")

    assert answer == (201, {"amount": 4_900, "authorized": 4_900})


async def test_an_authorization_that_comes_after_its_void_is_declined(http: aiohttp.ClientSession) -> None:
    assert await post(http, "/voids", {"reference": "order-1"}, "v") == (201, {"amount": 0, "authorized": 0})

    status, _ = await post(http, "/authorizations", ASK, "a")

    assert status == 402
    assert await book(http) == [("void", 0, 201), ("authorize", 0, 402)]


async def test_nothing_is_captured_after_a_void_or_without_an_authorization(http: aiohttp.ClientSession) -> None:
    assert (await post(http, "/captures", TAKE, "c"))[0] == 402
    await post(http, "/authorizations", ASK, "a")
    await post(http, "/voids", {"reference": "order-1"}, "v")

    assert (await post(http, "/captures", TAKE, "d"))[0] == 402


async def test_no_more_is_refunded_than_was_captured(http: aiohttp.ClientSession) -> None:
    await post(http, "/authorizations", ASK, "a")
    await post(http, "/captures", TAKE, "c")
    await post(http, "/refunds", TAKE, "r")

    assert (await post(http, "/refunds", TAKE, "again"))[0] == 402


async def test_refunds_in_parts_return_no_more_than_was_captured_and_one_for_each_key(
    http: aiohttp.ClientSession,
) -> None:
    await post(http, "/authorizations", ASK, "a")
    await post(http, "/captures", TAKE, "c")

    parts = [(900, "r"), (900, "r"), (4_001, "s"), (4_000, "t")]
    statuses = [(await post(http, "/refunds", TAKE | {"amount": amount}, key))[0] for amount, key in parts]

    assert statuses == [201, 201, 402, 201]
    assert [entry for entry in await book(http) if entry[0] == "refund"] == [
        ("refund", 900, 201),
        ("refund", 0, 402),
        ("refund", 4_000, 201),
    ]


async def test_a_silent_charge_is_booked_though_never_answered(http: aiohttp.ClientSession) -> None:
    for _ in range(2):
        with pytest.raises(TimeoutError):
            await post(http, "/authorizations", ASK | {"token": "tok_timeout_after_charge"}, "a", seconds=0.2)

    assert await book(http) == [("authorize", 4_900, 201)]


async def test_a_capture_that_was_not_answered_is_answered_when_asked_again(http: aiohttp.ClientSession) -> None:
    await post(http, "/authorizations", ASK | {"token": "tok_timeout_after_capture"}, "a")
    with pytest.raises(TimeoutError):
        await post(http, "/captures", TAKE, "c", seconds=0.2)

    assert await post(http, "/captures", TAKE, "c") == (201, {"amount": 4_900})
    assert await book(http) == [("authorize", 4_900, 201), ("capture", 4_900, 201)]


@pytest.mark.parametrize(("token", "path"), [("tok_lies", "/authorizations"), ("tok_lies_capture", "/captures")])
async def test_a_provider_that_lies_has_booked_what_it_says_has_failed(
    http: aiohttp.ClientSession, token: str, path: str
) -> None:
    ask = ASK | {"token": token}
    if path == "/captures":
        await post(http, "/authorizations", ask, "a")
    body, before = ask if path == "/authorizations" else TAKE, await book(http)

    statuses = [(await post(http, path, body, "k"))[0] for _ in range(3)]

    assert statuses == [500, 500, 201]
    assert [entry[1:] for entry in await book(http)] == [*(entry[1:] for entry in before), (4_900, 201)]


async def test_the_administrator_can_have_it_lie_about_everything_and_tell_the_truth_again(
    http: aiohttp.ClientSession,
) -> None:
    calls = [("/authorizations", ASK, "a"), ("/captures", TAKE, "c"), ("/refunds", TAKE, "r")]
    async with http.put("/admin/mode", json={"mode": "lie"}):
        pass
    lies = [await post(http, *call) for call in calls]
    async with http.put("/admin/mode", json={"mode": "answer"}):
        pass

    told = [await post(http, *call) for call in calls]

    assert [status for status, _ in lies] == [500] * 3
    assert told == [(201, {"amount": 4_900})] * 3
    assert await book(http) == [("authorize", 4_900, 201), ("capture", 4_900, 201), ("refund", 4_900, 201)]


async def test_who_believes_a_lie_and_asks_under_another_key_is_charged_twice(http: aiohttp.ClientSession) -> None:
    await post(http, "/authorizations", ASK | {"token": "tok_lies_capture"}, "a")

    for key in ("c", "another"):
        assert (await post(http, "/captures", TAKE, key))[0] == 500

    assert (await book(http))[1:] == [("capture", 4_900, 201)] * 2


async def test_a_late_authorization_finds_that_it_was_voided_in_the_meantime(http: aiohttp.ClientSession) -> None:
    with pytest.raises(TimeoutError):
        await post(http, "/authorizations", ASK | {"token": "tok_late"}, "a", seconds=0.2)
    await post(http, "/voids", {"reference": "order-1"}, "v")

    assert await grown(http, 2) == [("void", 0, 201), ("authorize", 0, 402)]


@pytest.mark.parametrize(("token", "path"), [("tok_down_2", "/authorizations"), ("tok_down_capture_2", "/captures")])
async def test_a_provider_that_is_down_books_nothing_and_comes_back(
    http: aiohttp.ClientSession, token: str, path: str
) -> None:
    if path == "/captures":
        await post(http, "/authorizations", ASK | {"token": token}, "a")
    body = ASK | {"token": token} if path == "/authorizations" else TAKE

    statuses = [(await post(http, path, body, "k"))[0] for _ in range(3)]

    assert statuses == [503, 503, 201]


async def test_a_provider_that_stays_down_for_a_payment_can_be_told_to_give_it_up(http: aiohttp.ClientSession) -> None:
    statuses = [(await post(http, "/authorizations", ASK | {"token": "tok_down"}, "k"))[0] for _ in range(20)]

    assert set(statuses) == {503}
    assert (await post(http, "/voids", {"reference": "order-1"}, "v"))[0] == 201
    assert await book(http) == [("void", 0, 201)]


async def test_the_administrator_can_take_it_down_for_so_many_calls(http: aiohttp.ClientSession) -> None:
    async with http.put("/admin/mode", json={"mode": "down", "calls": 2}) as response:
        assert response.status == 204

    statuses = [(await post(http, "/authorizations", ASK, "a"))[0] for _ in range(3)]

    assert statuses == [503, 503, 201]


async def test_the_administrator_can_take_one_operation_down_until_further_notice(http: aiohttp.ClientSession) -> None:
    async with http.put("/admin/mode", json={"mode": "down", "operation": "capture"}):
        pass

    assert (await post(http, "/authorizations", ASK, "a"))[0] == 201
    assert [(await post(http, "/captures", TAKE, "c"))[0] for _ in range(3)] == [503, 503, 503]
    async with http.put("/admin/mode", json={"mode": "answer"}):
        pass
    assert (await post(http, "/captures", TAKE, "c"))[0] == 201


async def test_its_book_survives_kill_9_and_so_do_its_keys(tmp_path: Path) -> None:
    path = tmp_path / "book"
    async with process(path) as (http, pid):
        await post(http, "/authorizations", ASK, "a")
        os.kill(pid, signal.SIGKILL)
    with path.open("ab") as file:
        file.write(b'{"at": "half a li')

    async with process(path) as (http, _):
        assert await book(http) == [("authorize", 4_900, 201)]
        assert (await post(http, "/voids", {"reference": "order-2"}, "v"))[0] == 201

    async with process(path) as (http, _):
        again = await post(http, "/authorizations", ASK, "a")
        captured = await post(http, "/captures", TAKE, "c")
        entries = await book(http)

    assert (again, captured) == ((201, {"amount": 4_900}), (201, {"amount": 4_900}))
    assert entries == [("authorize", 4_900, 201), ("void", 0, 201), ("capture", 4_900, 201)]


async def grown(http: aiohttp.ClientSession, length: int) -> list[tuple[str, int, int]]:
    """The book, once it has that many entries."""
    async with asyncio.timeout(5):
        while True:
            entries = await book(http)
            if len(entries) >= length:
                return entries
            await asyncio.sleep(0.02)


@asynccontextmanager
async def process(path: Path) -> AsyncIterator[tuple[aiohttp.ClientSession, int]]:
    """A provider in a process of its own."""
    port = free_port()
    arguments = ("-m", "sandbox_provider", "--port", str(port), "--book", str(path))
    provider = await asyncio.create_subprocess_exec(sys.executable, *arguments)
    try:
        async with asyncio.timeout(10), aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
            await answering(http)
            yield http, provider.pid
    finally:
        if provider.returncode is None:
            provider.kill()
        await provider.wait()


async def answering(http: aiohttp.ClientSession) -> None:
    while True:
        try:
            async with http.get("/health"):
                return
        except aiohttp.ClientConnectionError:
            await asyncio.sleep(0.02)
