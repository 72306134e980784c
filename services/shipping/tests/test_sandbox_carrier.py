"""The carrier that stands in for real ones: it must be as strict about keys, and as unreliable, as they are."""

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

PARCEL = {"reference": "parcel-1", "order": "order-1", "kind": "shipment", "pieces": 3}
BOOKED = (201, {"tracking": "SC000000001"})


async def post(
    http: aiohttp.ClientSession, path: str, body: dict[str, Any], key: str, seconds: float = 5
) -> tuple[int, Any]:
    limit = aiohttp.ClientTimeout(total=seconds)
    async with http.post(path, json=body, headers={"Idempotency-Key": key}, timeout=limit) as response:
        return response.status, await response.json(content_type=None)


async def behave(http: aiohttp.ClientSession, **order: Any) -> int:
    async with http.put("/admin/mode", json=order) as response:
        return response.status


async def book(http: aiohttp.ClientSession, **query: str) -> list[tuple[str, int, int]]:
    """What the carrier has decided: operation, pieces, status."""
    async with http.get("/book", params=query) as response:
        entries = (await response.json())["entries"]
    return [(entry["operation"], entry["pieces"], entry["status"]) for entry in entries]


async def test_a_key_has_one_effect_and_one_answer(office: aiohttp.ClientSession) -> None:
    assert [await post(office, "/bookings", PARCEL, "b") for _ in range(2)] == [BOOKED] * 2
    assert await book(office) == [("book", 3, 201)]


async def test_another_key_is_another_parcel_with_a_number_of_its_own(office: aiohttp.ClientSession) -> None:
    answers = [await post(office, "/bookings", PARCEL, key) for key in ("b", "another")]

    assert answers == [BOOKED, (201, {"tracking": "SC000000002"})]
    assert await book(office) == [("book", 3, 201)] * 2


async def where_is(http: aiohttp.ClientSession, tracking: str) -> tuple[int, Any]:
    async with http.get(f"/parcels/{tracking}") as response:
        return response.status, (await response.json(content_type=None)).get("status")


async def test_it_tells_what_became_of_a_parcel(office: aiohttp.ClientSession) -> None:
    await post(office, "/bookings", PARCEL, "b")
    before = await where_is(office, "SC000000001")
    await post(office, "/cancellations", PARCEL, "c")

    assert [before, await where_is(office, "SC000000001")] == [(200, "accepted"), (200, "cancelled")]
    assert await where_is(office, "SC000000002") == (404, 404)


@pytest.mark.parametrize("path", ["/bookings", "/cancellations"])
async def test_a_key_that_comes_back_with_another_request_is_refused(office: aiohttp.ClientSession, path: str) -> None:
    await post(office, "/bookings", PARCEL, "b")

    status, _ = await post(office, path, PARCEL | {"pieces": 4}, "b")

    assert status == 422
    assert await book(office) == [("book", 3, 201)]


async def test_equal_requests_at_the_same_time_have_one_effect(office: aiohttp.ClientSession) -> None:
    await behave(office, mode="slow")

    answers = await asyncio.gather(*(post(office, "/bookings", PARCEL, "b") for _ in range(5)))

    assert sorted(status for status, _ in answers) == [201, 409, 409, 409, 409]
    assert await book(office) == [("book", 3, 201)]


async def test_a_request_without_a_key_is_refused(office: aiohttp.ClientSession) -> None:
    async with office.post("/bookings", json=PARCEL) as response:
        assert response.status == 400


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'{"reference": "x", "order": "y", "kind": "gift", "pieces": 1}', b'{"pieces": 1}']
)
async def test_a_request_that_makes_no_sense_is_refused(office: aiohttp.ClientSession, body: bytes) -> None:
    async with office.post("/bookings", data=body, headers={"Idempotency-Key": "b"}) as response:
        assert response.status == 422


async def test_a_cancellation_takes_back_what_was_booked_once(office: aiohttp.ClientSession) -> None:
    await post(office, "/bookings", PARCEL, "b")

    answers = [await post(office, "/cancellations", PARCEL, key) for key in ("c", "c", "d")]

    assert answers == [(201, {"pieces": 3}), (201, {"pieces": 3}), (201, {"pieces": 0})]
    assert await book(office) == [("book", 3, 201), ("cancel", 3, 201), ("cancel", 0, 201)]


async def test_a_booking_that_comes_after_its_cancellation_is_declined(office: aiohttp.ClientSession) -> None:
    await post(office, "/cancellations", PARCEL, "c")

    assert (await post(office, "/bookings", PARCEL, "b"))[0] == 403
    assert await book(office) == [("cancel", 0, 201), ("book", 0, 403)]


async def test_the_book_can_be_read_for_one_order(office: aiohttp.ClientSession) -> None:
    await post(office, "/bookings", PARCEL, "b")
    await post(office, "/bookings", {**PARCEL, "reference": "parcel-2", "order": "order-2", "pieces": 1}, "c")

    assert await book(office, order="order-2") == [("book", 1, 201)]


async def test_a_silent_booking_is_booked_and_answered_when_asked_again(office: aiohttp.ClientSession) -> None:
    await behave(office, mode="silent", calls=1)
    with pytest.raises(TimeoutError):
        await post(office, "/bookings", PARCEL, "b", seconds=0.2)

    assert await post(office, "/bookings", PARCEL, "b") == BOOKED
    assert await book(office) == [("book", 3, 201)]


async def test_a_carrier_that_is_down_books_nothing_and_comes_back(office: aiohttp.ClientSession) -> None:
    await behave(office, mode="down", calls=2)

    assert [(await post(office, "/bookings", PARCEL, "b"))[0] for _ in range(3)] == [503, 503, 201]
    assert await book(office) == [("book", 3, 201)]


async def test_it_can_be_down_for_one_kind_and_one_operation_until_further_notice(
    office: aiohttp.ClientSession,
) -> None:
    await behave(office, mode="down", kind="return", operation="book")
    back = PARCEL | {"kind": "return", "reference": "parcel-2"}

    assert (await post(office, "/bookings", PARCEL, "a"))[0] == 201
    assert [(await post(office, "/bookings", back, "b"))[0] for _ in range(3)] == [503] * 3
    assert (await post(office, "/cancellations", back, "c"))[0] == 201
    assert await behave(office, mode="answer") == 204
    assert (await post(office, "/bookings", back | {"reference": "parcel-3"}, "d"))[0] == 201


async def test_an_order_that_makes_no_sense_is_refused(office: aiohttp.ClientSession) -> None:
    assert await behave(office, mode="on strike") == 422


async def test_its_book_survives_kill_9_and_so_do_its_keys(tmp_path: Path) -> None:
    path = tmp_path / "carrier.book"
    async with process(path) as (http, pid):
        await post(http, "/bookings", PARCEL, "b")
        os.kill(pid, signal.SIGKILL)
    with path.open("ab") as file:
        file.write(b'{"at": "half a li')

    async with process(path) as (http, _):
        assert await post(http, "/bookings", PARCEL, "b") == BOOKED
        assert (await post(http, "/cancellations", PARCEL, "c"))[0] == 201

    async with process(path) as (http, _):
        assert await book(http) == [("book", 3, 201), ("cancel", 3, 201)]
        assert (await post(http, "/bookings", PARCEL, "d"))[0] == 403


@asynccontextmanager
async def process(path: Path) -> AsyncIterator[tuple[aiohttp.ClientSession, int]]:
    """A carrier in a process of its own."""
    port = free_port()
    arguments = ("-m", "sandbox_carrier", "--port", str(port), "--book", str(path))
    carrier = await asyncio.create_subprocess_exec(sys.executable, *arguments)
    try:
        async with asyncio.timeout(20), aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
            await answering(http)
            yield http, carrier.pid
    finally:
        if carrier.returncode is None:
            carrier.kill()
        await carrier.wait()


async def answering(http: aiohttp.ClientSession) -> None:
    while True:
        try:
            async with http.get("/health"):
                return
        except aiohttp.ClientConnectionError:
            await asyncio.sleep(0.02)
