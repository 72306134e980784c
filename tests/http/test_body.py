"""Limits on bodies: size and nesting, refused before anything is parsed."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from fastapi import APIRouter, Request
from hypothesis import given
from hypothesis import strategies as st

from covey.errors import TooLarge, Unreadable
from covey.http.application import Application
from covey.http.body import check_nesting, check_surrogates, check_values
from covey.http.edge import HttpOptions
from covey.testing.asgi import ask, scope_of

Make = Callable[..., Application]

MIB = 1024 * 1024


@pytest.fixture
def app(make: Make) -> Application:
    api = APIRouter()

    @api.post("/json")
    async def take(value: Any = None) -> int:
        return 1

    @api.post("/any")
    async def take_any(body: dict[str, Any]) -> int:
        return len(body)

    @api.post("/raw")
    async def raw(request: Request) -> int:
        return len(await request.body())

    return make(api)


async def test_a_body_at_the_limit_is_taken_and_one_byte_more_is_not(app: Application) -> None:
    headers = {"content-type": "application/octet-stream"}

    assert (await ask(app, "POST", "/raw", headers=headers, body=b"x" * MIB)).json() == MIB
    assert (await ask(app, "POST", "/raw", headers=headers, body=b"x" * (MIB + 1))).status == 413


async def test_a_body_over_the_limit_is_refused_by_its_length_without_reading_it(app: Application) -> None:
    async def receive() -> Any:
        raise AssertionError("nothing may be read")

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope_of("POST", "/raw", {"content-length": str(10 * MIB)}), receive, send)

    assert sent[0]["status"] == 413


@pytest.mark.parametrize("length", ["-1", "1e3", "ten", "", "9" * 5_000])
async def test_a_length_that_is_none_is_refused(app: Application, length: str) -> None:
    answer = await ask(app, "POST", "/raw", headers={"content-length": length})

    assert answer.status in (400, 413)


async def test_a_chunked_body_is_refused_as_soon_as_it_grows_past_the_limit(app: Application) -> None:
    read = 0

    async def receive() -> Any:
        nonlocal read
        read += 1
        assert read < 100, "it would be read for ever"
        return {"type": "http.request", "body": b"x" * 65_536, "more_body": True}

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope_of("POST", "/raw", {"transfer-encoding": "chunked"}), receive, send)

    assert sent[0]["status"] == 413
    assert read == 17, "one part more than fits, and not one after it"


async def test_a_lying_length_does_not_let_more_in(app: Application) -> None:
    answer = await ask(app, "POST", "/raw", headers={"content-length": "1"}, body=[b"x" * MIB, b"x"])

    assert answer.status == 413


async def test_a_body_in_many_parts_arrives_whole(app: Application) -> None:
    body = json.dumps({str(number): number for number in range(100)}).encode()

    answer = await ask(app, "POST", "/any", body=[body[i : i + 7] for i in range(0, len(body), 7)])

    assert answer.json() == 100


async def test_a_client_that_stalls_is_told_so(make: Make) -> None:
    app = make(options=HttpOptions(body_timeout=timedelta(seconds=0.05)))

    async def receive() -> Any:
        if first:
            return first.pop()
        return await asyncio.Event().wait()

    first = [{"type": "http.request", "body": b"{", "more_body": True}]
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope_of("POST", "/any", {"content-length": "100"}), receive, send)

    assert sent[0]["status"] == 408


async def test_limits_can_be_set(make: Make) -> None:
    app = make(options=HttpOptions(max_body_bytes=10, max_json_depth=1))

    assert (await ask(app, "POST", "/any", body=b"[" + b" " * 20 + b"]")).status == 413
    assert (await ask(app, "POST", "/any", body=b"[[]]")).status == 400


@pytest.mark.parametrize(
    "content_type", ["application/json", "application/merge-patch+json", "Application/JSON; charset=x"]
)
async def test_ten_thousand_levels_are_refused_and_the_service_lives_on(app: Application, content_type: str) -> None:
    for body in (
        b"[" * 10_000 + b"]" * 10_000,
        b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
        b"[" * 10_000,
        b'[{"a":' * 5_000,
    ):
        answer = await ask(app, "POST", "/any", headers={"content-type": content_type}, body=body)
        assert answer.status == 400
        assert answer.json()["type"] == "/problems/unreadable"

    assert (await ask(app, "POST", "/any", body=b"{}")).status == 200


async def test_a_second_content_type_or_none_at_all_does_not_avoid_the_check(app: Application) -> None:
    async def asked(*content_types: bytes) -> int:
        body = b"[" * 100 + b"]" * 100
        headers = [(b"content-length", b"200"), *((b"content-type", one) for one in content_types)]
        sent: list[Any] = []
        incoming = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Any:
            return incoming.pop()

        async def send(message: Any) -> None:
            sent.append(message)

        await app({**scope_of("POST", "/any", {}), "headers": headers}, receive, send)
        return int(sent[0]["status"])

    assert await asked(b"application/json", b"text/plain") == 400
    assert await asked() == 400
    assert await asked(b"text/plain", b"application/json") == 415, "FastAPI does not parse it either"


def depth_of(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth_of, value), default=0)
    return 0


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet='[]{}"\\ab\u00e9\n'),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(alphabet='[]{}"\\x'), inner, max_size=4),
    max_leaves=30,
)


@given(value=json_values, limit=st.integers(0, 6), ascii_only=st.booleans(), indent=st.sampled_from([None, 1]))
def test_nesting_is_judged_as_a_parser_would(value: Any, limit: int, ascii_only: bool, indent: int | None) -> None:
    body = json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode()

    if depth_of(value) <= limit:
        check_nesting(body, limit)
    else:
        with pytest.raises(Unreadable):
            check_nesting(body, limit)


@given(st.binary(max_size=300))
def test_garbage_is_neither_a_crash_nor_a_reason_to_refuse(body: bytes) -> None:
    if body.count(b"[") + body.count(b"{") <= 32:
        check_nesting(body, 32)


def test_brackets_in_strings_do_not_count() -> None:
    check_nesting(json.dumps({"text": "[" * 1000, "escaped": '\\"[[[[' * 100}).encode(), 2)


async def test_json_of_too_many_values_is_refused_before_it_is_parsed(app: Application) -> None:
    for count, status in ((20_000, 200), (20_001, 413)):
        items = [1] * (count - 3)  # the object, the list and the text are values too
        answer = await ask(app, "POST", "/any", body=json.dumps({"items": items, "text": "[,{" * 50}).encode())
        assert answer.status == status

    unfinished = await ask(app, "POST", "/any", body=b"[" + b"1," * 20_000)
    assert (unfinished.status, unfinished.json()["type"]) == (413, "/problems/too-large")


def values_in(value: Any) -> int:
    """Count values; what is empty as two."""
    if isinstance(value, dict | list):
        inner = list(value.values()) if isinstance(value, dict) else value
        return 1 + (sum(map(values_in, inner)) if inner else 1)
    return 1


@given(value=json_values, limit=st.integers(1, 20), indent=st.sampled_from([None, 1]))
def test_values_are_counted_as_a_parser_would(value: Any, limit: int, indent: int | None) -> None:
    body = json.dumps(value, indent=indent).encode()

    if values_in(value) <= limit:
        check_values(body, limit)
    else:
        with pytest.raises(TooLarge):
            check_values(body, limit)


async def test_other_encodings_cannot_smuggle_depth_past_the_check(app: Application) -> None:
    # The second byte of U+2241 is that of a quotation mark: read as UTF-8, every other bracket is inside a string.
    text = '{"a":[' + '"\u2241",[' * 40 + "]" * 41 + "}"
    assert depth_of(json.loads(text)) == 42
    check_nesting(text.encode("utf-16-le"), 32)

    for encoding in ("utf-16-le", "utf-16-be", "utf-16", "utf-32", "latin-1"):
        body = text.encode(encoding, errors="replace") + (b"\xff" if encoding == "latin-1" else b"")
        answer = await ask(app, "POST", "/any", body=body)
        assert (answer.status, answer.json()["type"]) == (400, "/problems/unreadable"), encoding


@pytest.mark.parametrize("before", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("text", [r"\ud83d", r"\uDE00", r"\ud83d\n", r"\ud83d\u0041", r"\ud83d\ud83d\ude00"])
async def test_half_of_an_emoji_is_refused(app: Application, text: str, before: bytes) -> None:
    for body in (f'{{"a": "{text}"}}', f'{{"{text}": NaN}}'):
        answer = await ask(app, "POST", "/any", body=before + body.encode())

        assert (answer.status, answer.json()["type"]) == (400, "/problems/unreadable"), body


async def test_whole_emojis_and_what_only_looks_like_half_of_one_are_taken(app: Application) -> None:
    body = rb'{"a": "\ud83d\ude00", "b": "C:\\ud83d", "c": NaN}'

    assert (await ask(app, "POST", "/any", body=body)).status == 200


@pytest.mark.parametrize(
    "body",
    [
        b"[" * MIB,
        b"[]" * (MIB // 2),
        b'"' * MIB,
        b'\\"' * (MIB // 2),
        b'"\\' * (MIB // 2),
        b"[" * 33 + b'"' + b"a" * MIB,
        (b"[" * 32 + b"]" * 32) * (MIB // 64),
        b'{"a":[' * (MIB // 6),
        b"[" * 40 + b'"\\"' * (MIB // 3),
        b'"' + b"\\ud83d\\ude00" * (MIB // 12),
        b'",' * (MIB // 2),
    ],
    ids=range(11),
)
def test_the_worst_mebibyte_costs_no_more_than_a_moment(body: bytes) -> None:
    begun = time.process_time()

    for check in (lambda: check_nesting(body, 32), lambda: check_values(body, 20_000), lambda: check_surrogates(body)):
        with suppress(Unreadable, TooLarge):
            check()

    assert time.process_time() - begun < 0.25
