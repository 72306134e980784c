"""Asking an ASGI application in a test: message by message without a server, or over a socket from a real one.

answer = await ask(app, "POST", "/api/v1/orders", body=b'{"…"}')
assert answer.status == 201

async with serving(app) as address: ...      # http://127.0.0.1:54321, uvicorn
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp, Message, Scope


@dataclass
class Answer:
    """The messages that an application has sent, and what they mean to a client."""

    messages: list[Message] = field(default_factory=list)

    @property
    def status(self) -> int:
        """Return the status; fails when there was no answer."""
        return int(self.messages[0]["status"])

    @property
    def headers(self) -> dict[str, str]:
        """Return the headers, names in lower case; of several with one name the last."""
        return {name.decode().lower(): value.decode("latin-1") for name, value in self.messages[0]["headers"]}

    @property
    def body(self) -> bytes:
        """Return the whole body."""
        return b"".join(message.get("body", b"") for message in self.messages[1:])

    def json(self) -> Any:
        """Return the body, parsed."""
        return json.loads(self.body)


async def ask(
    app: ASGIApp,
    method: str,
    path: str,
    *,
    headers: Mapping[str, str] | None = None,
    body: bytes | Sequence[bytes] = b"",
    query: str = "",
) -> Answer:
    """Send one request and return what came back. What the application raises is raised here.

    A `body` of bytes is sent whole, as JSON unless `headers` say otherwise; a sequence is sent part by part, chunked.
    After the body the client stays connected and silent.
    """
    parts = [body] if isinstance(body, bytes) else list(body)
    incoming = [
        {"type": "http.request", "body": part, "more_body": number < len(parts) - 1}
        for number, part in enumerate(parts)
    ]
    answer = Answer()

    async def receive() -> Message:
        if not incoming:
            await asyncio.Event().wait()
        return incoming.pop(0)

    async def send(message: Message) -> None:
        answer.messages.append(message)

    await app(scope_of(method, path, _with_defaults(headers or {}, body), query), receive, send)
    return answer


def scope_of(method: str, path: str, headers: Mapping[str, str], query: str = "") -> Scope:
    """Return the scope with which a server would call an application."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "server": ("127.0.0.1", 80),
        "client": ("127.0.0.1", 50000),
        "scheme": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()],
        "state": {},
    }


def _with_defaults(headers: Mapping[str, str], body: bytes | Sequence[bytes]) -> dict[str, str]:
    if not body:
        return dict(headers)
    framing = {"content-length": str(len(body))} if isinstance(body, bytes) else {"transfer-encoding": "chunked"}
    given = {name.lower(): value for name, value in headers.items()}
    return {"content-type": "application/json", **framing, **given}
