"""One request and what becomes of it: what the edge notes while it passes, and what is told of it afterwards."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

from starlette.types import Message, Scope, Send

from covey import context
from covey.http.problems import CONTENT_TYPE, Problem
from covey.http.routes import template_of
from covey.telemetry.redaction import redact_text
from covey.telemetry.rendering import Line
from covey.telemetry.telemetry import Telemetry
from covey.telemetry.tracing import Attribute

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
"""The methods that are told apart; whatever else a client invents is OTHER."""

GONE = 499
"""The status of a request whose client left before there was an answer."""

_MOST_PATH = 256


class Exchange:
    """A request under way. `status` is 0 until the answer begins, `ended` until its last byte was sent."""

    __slots__ = (
        "_send", "began_ns", "begun", "context", "ended", "error", "method", "parent_id", "route", "scope", "status",
        "timeout",
    )  # fmt: skip

    def __init__(self, scope: Scope, send: Send, headers: dict[bytes, bytes]) -> None:
        self.began_ns = time.time_ns()
        self.begun = time.perf_counter_ns()
        self.scope = scope
        self.context, self.parent_id = _context(headers)
        self.status = 0
        self.ended = 0
        self.route = ""
        self.method = ""
        self.error: str | None = None
        self.timeout: asyncio.Timeout | None = None
        self._send = send

    async def send(self, message: Message) -> None:
        """Pass a message of the answer on, with the correlation id in its head."""
        if message["type"] == "http.response.start":
            if self.timeout is not None:
                self.timeout.reschedule(None)  # an answer that has begun may end
            echo = (b"x-correlation-id", self.context.correlation_id.encode())
            await self._send({**message, "headers": [*message.get("headers", ()), echo]})
            self.status = message["status"]
        else:
            await self._send(message)
            if not message.get("more_body", False):
                self.ended = time.perf_counter_ns()

    async def refuse(self, problem: Problem) -> None:
        """Answer with problem details."""
        content = problem.body(self.scope["path"], self.context.correlation_id)
        headers = {"content-type": CONTENT_TYPE, "content-length": str(len(content)), **problem.headers}
        raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        await self.send({"type": "http.response.start", "status": problem.status, "headers": raw})
        await self.send({"type": "http.response.body", "body": content})

    def close(self) -> float:
        """Settle method, route and status, and return how many seconds it took to the last byte."""
        method = self.scope["method"]
        self.method = method if method in METHODS else "OTHER"
        self.route = template_of(self.scope)
        self.status = self.status or GONE
        self.ended = self.ended or time.perf_counter_ns()
        return (self.ended - self.begun) / 1e9

    def tell(self, telemetry: Telemetry) -> Line | None:
        """Record the server span and return the access log line. Runs in the thread of the logs."""
        path = redact_text(self.scope["path"][:_MOST_PATH])
        duration_ns = self.ended - self.begun
        attributes: dict[str, Attribute] = {
            "http.request.method": self.method,
            "http.route": self.route,
            "http.response.status_code": self.status,
            "url.scheme": self.scope["scheme"],
            "url.path": path,
        }
        telemetry.tracer.record(
            f"{self.method} {self.route}",
            "server",
            self.context.trace,
            self.parent_id,
            self.began_ns,
            self.began_ns + duration_ns,
            attributes,
            self.error or (str(self.status) if self.status >= 500 else None),
        )
        if not telemetry.access_log:
            return None
        said = {
            "method": self.method,
            "path": path,
            "route": self.route,
            "status": self.status,
            "duration_ms": round(duration_ns / 1e6, 3),
        }
        return telemetry.logs.line(self.began_ns, "info", "request", self.context, said)


def _context(headers: dict[bytes, bytes]) -> tuple[context.Context, int]:
    """Return the context of the request, placed inside its server span, and the id of the caller's span or 0."""
    correlation_id, traceparent = _text(headers, b"x-correlation-id"), _text(headers, b"traceparent")
    about = context.new_context(correlation_id, traceparent)
    if context.parse_traceparent(traceparent) is None:
        return about, 0
    return replace(about, trace=about.trace.child()), about.trace.span_id


def _text(headers: dict[bytes, bytes], name: bytes) -> str | None:
    value = headers.get(name)
    return None if value is None else value.decode("latin-1")
