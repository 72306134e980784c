"""Request bodies, read whole and bounded before anything is done with them (OWASP API4, unrestricted consumption).

A body over the limit is refused by its Content-Length without reading it, or as soon as it grows past the limit.
JSON that is nested too deep, or holds too many values, is refused before it is parsed: parsers recurse, and each value
may break many rules of a model. All checks take linear time.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from pydantic_core import from_json

from covey.errors import Rejected, TooLarge, Unreadable

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

# Possessive, so that an unterminated string costs one pass and no backtracking.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_BOM = b"\xef\xbb\xbf"
_AS_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NO_BRACKET = bytes(set(range(256)) - set(b"[]{}"))


class Disconnected(Exception):
    """The client went away before its request was complete."""


class TooSlow(Rejected):
    """The client did not send its body in time (HTTP 408)."""


def check_length(value: bytes | None, max_bytes: int) -> None:
    """Refuse a Content-Length over the limit. Raises TooLarge, or Unreadable when it is no number."""
    if value is None:
        return
    if not value.isdigit():
        raise Unreadable("Content-Length is no number")
    if len(value) > 18 or int(value) > max_bytes:
        raise TooLarge(f"the body may have {max_bytes} bytes")


async def read(receive: Receive, max_bytes: int, timeout_s: float) -> bytes:
    """Return the whole body. Raises TooLarge, TooSlow, and Disconnected when the client goes away."""
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body", False):
        body: bytes = message.get("body", b"")  # nearly always: all of it arrived with the head
        _check_size(len(body), max_bytes)
        return body
    try:
        async with asyncio.timeout(timeout_s):
            return await _read_parts(message, receive, max_bytes)
    except TimeoutError:
        raise TooSlow(f"the body did not arrive within {timeout_s:g} s") from None


def replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives `body` as one message, then what the server has to say."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> MutableMapping[str, Any]:
        return messages.pop() if messages else await receive()

    return replayed


def check_encoding(body: bytes) -> None:
    """Refuse JSON that is not UTF-8 (RFC 8259, section 8.1). Raises Unreadable.

    Python's parser guesses UTF-16 and UTF-32 from where the zero bytes are, and would then see other strings and
    brackets than `check_nesting` does.
    """
    try:
        body.decode()
    except UnicodeDecodeError:
        raise Unreadable("JSON is sent as UTF-8") from None
    if b"\0" in body:
        raise Unreadable("JSON holds no zero bytes")


def check_surrogates(body: bytes) -> None:
    """Refuse JSON with half of a surrogate pair. Raises Unreadable; other mistakes pass.

    Python reads it as text that cannot be stored, sent or answered with (RFC 8259, section 8.2). Call it when nesting
    has been checked.
    """
    if b"\\ud" in body or b"\\uD" in body:
        try:
            from_json(body.removeprefix(_BOM), cache_strings="none")
        except ValueError as error:
            if "hex escape" in str(error):
                raise Unreadable("JSON holds half of a surrogate pair") from None


def check_nesting(body: bytes, max_depth: int) -> None:
    """Refuse JSON whose objects and arrays are nested deeper. Raises Unreadable; other mistakes pass.

    Counting brackets settles nearly every body. Where there are many, strings are cut out and the innermost
    pairs removed level by level: what then still opens is nested too deep.
    """
    if body.count(b"[") + body.count(b"{") <= max_depth:
        return
    brackets = _STRING.sub(b"", body).translate(_AS_BRACKETS, _NO_BRACKET)
    for _ in range(max_depth):
        peeled = brackets.replace(b"[]", b"")
        if len(peeled) == len(brackets):
            break
        brackets = peeled
    if brackets.count(b"[") > max_depth or (b"[]" in brackets):
        raise Unreadable(f"objects and arrays may be nested {max_depth} levels deep")


def check_values(body: bytes, most: int) -> None:
    """Refuse JSON of more objects, arrays and other values. Raises TooLarge; other mistakes pass.

    An empty object or array counts as two.
    """
    if _values(body) > most and _values(_STRING.sub(b"", body)) > most:
        raise TooLarge(f"JSON may hold {most} values")


async def _read_parts(message: MutableMapping[str, Any], receive: Receive, max_bytes: int) -> bytes:
    parts, size = [], 0
    while message["type"] == "http.request":
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        _check_size(size, max_bytes)
        if not message.get("more_body", False):
            return b"".join(parts)
        message = await receive()
    raise Disconnected


def _values(text: bytes) -> int:
    """Count what begins behind a bracket or a comma, and the whole."""
    return 1 + text.count(b",") + text.count(b"[") + text.count(b"{")


def _check_size(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise TooLarge(f"the body may have {max_bytes} bytes")
