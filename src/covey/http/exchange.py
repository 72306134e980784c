"""One request and what becomes of it: what the edge notes while it passes, and what is told of it afterwards."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime

from starlette.types import Message, Scope, Send

from covey import context
from covey.http.conditional import is_known
from covey.http.problems import CONTENT_TYPE, Problem
from covey.http.routes import MORE, template_of
from covey.http.sendable import SEEN, require_head
from covey.http.versioning import FORM
from covey.telemetry.redaction import redact_text
from covey.telemetry.rendering import Line
from covey.telemetry.telemetry import Telemetry
from covey.telemetry.tracing import Attribute, Span

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
"""The methods that are told apart; whatever else a client invents is OTHER."""

GONE = 499
"""The status of a request whose client left before there was an answer."""

_MOST_PATH = 256


class Exchange:
    """A request under way. `status` is 0 until the answer begins, `ended` until its last byte was sent."""

    __slots__ = (
        "_headers", "_is_known", "_send", "began_ns", "begun", "context", "ended", "error", "parent_id", "scope",
        "status", "timeout",
    )  # fmt: skip

    def __init__(self, scope: Scope, send: Send, headers: dict[bytes, bytes]) -> None:
        self.began_ns = time.time_ns()
        self.begun = time.perf_counter_ns()
        self.scope = scope
        self.context, self.parent_id = _context(headers)
        self.status = 0
        self.ended = 0
        self.error: str | None = None
        self.timeout: asyncio.Timeout | None = None
        self._send = send
        self._headers = headers
        self._is_known = False  # the answer: its body is not sent

    async def send(self, message: Message) -> None:
        """Pass a message of the answer on, with the correlation id in its head. Raises Unsendable, to be answered.

        An answer that the caller has already, by its entity tag, becomes 304 without a body.
        """
        if message["type"] == "http.response.start":
            given = message.get("headers", ())
            headers = [*given, *self.scope.get(MORE, ())]
            if FORM in self.scope:
                headers = _negotiated(headers, self.scope[FORM])
            if given is not self.scope.get(SEEN):
                require_head(message["status"], headers)
            if self.timeout is not None and not self.timeout.expired():
                self.timeout.reschedule(None)  # an answer that has begun may end
            headers.append((b"x-correlation-id", self.context.correlation_id.encode()))
            status = message["status"]
            if b"if-none-match" in self._headers and status == 200 and self._has(headers):
                self._is_known, status = True, 304
                headers = [pair for pair in headers if not pair[0].lower().startswith(b"content-")]
            await self._send({**message, "status": status, "headers": headers})
            self.status = status
        else:
            await self._send({**message, "body": b""} if self._is_known else message)
            if not message.get("more_body", False):
                self.ended = time.perf_counter_ns()

    def _has(self, headers: list[tuple[bytes, bytes]]) -> bool:
        """Tell whether the caller has the answer with this head."""
        etag = next((value for name, value in headers if name.lower() == b"etag"), None)
        is_read = self.scope["method"] in ("GET", "HEAD")
        return etag is not None and is_read and is_known(self._headers[b"if-none-match"], etag)

    async def refuse(self, problem: Problem) -> None:
        """Answer with problem details; without a body where the status is no error."""
        is_error = problem.status >= 400
        content = problem.body(self.scope["path"], self.context.correlation_id) if is_error else b""
        described = {"content-type": CONTENT_TYPE, "content-length": str(len(content))} if is_error else {}
        headers = {**described, **problem.headers}
        raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        await self.send({"type": "http.response.start", "status": problem.status, "headers": raw})
        await self.send({"type": "http.response.body", "body": content})

    def end(self) -> Seen:
        """Return what is to be told of the exchange, whichever way it has ended."""
        scope, about, method = self.scope, self.context, self.scope["method"]
        return (
            about.correlation_id,
            about.trace.trace_id,
            about.trace.span_id,
            self.parent_id,
            about.trace.sampled,
            self.began_ns,
            (self.ended or time.perf_counter_ns()) - self.begun,
            method if method in METHODS else "OTHER",
            template_of(scope),
            scope["path"],
            scope["scheme"],
            self.status or GONE,
            self.error,
        )


Seen = tuple[str, int, int, int, bool, int, int, str, str, str, str, int, str | None]
"""An exchange that is over, as a plain tuple of plain values, which the garbage collector need not look into."""


def tell(telemetry: Telemetry, seen: Seen) -> Line | None:
    """Record the server span and return the access log line. Runs in the thread of the logs."""
    (
        correlation_id, trace_id, span_id, parent_id, sampled, began_ns, duration_ns, method, route, path, scheme,
        status, error,
    ) = seen  # fmt: skip
    path = redact_text(path[:_MOST_PATH])
    if sampled:
        attributes: dict[str, Attribute] = {
            "http.request.method": method,
            "http.route": route,
            "http.response.status_code": status,
            "url.scheme": scheme,
            "url.path": path,
        }
        failure = error or (str(status) if status >= 500 else None)
        name, ended_ns = f"{method} {route}", began_ns + duration_ns
        telemetry.tracer.put(
            Span(name, "server", trace_id, span_id, parent_id, began_ns, ended_ns, attributes, failure)
        )
    if not telemetry.access_log:
        return None
    return {
        "timestamp": datetime.fromtimestamp(began_ns / 1e9, UTC),
        "level": "info",
        "event": "request",
        "service": telemetry.service,
        "correlation_id": correlation_id,
        "trace_id": f"{trace_id:032x}",
        "span_id": f"{span_id:016x}",
        "method": method,
        "path": path,
        "route": route,
        "status": status,
        "duration_ms": duration_ns / 1e6,
    }


def _negotiated(headers: list[tuple[bytes, bytes]], form: bytes) -> list[tuple[bytes, bytes]]:
    """Return the head of an answer whose JSON is shown in the form that was asked for."""
    own = [(n, form if n.lower() == b"content-type" and v == b"application/json" else v) for n, v in headers]
    return [*own, (b"vary", b"Accept")]


def _context(headers: dict[bytes, bytes]) -> tuple[context.Context, int]:
    """Return the context of the request, placed inside its server span, and the id of the caller's span or 0."""
    correlation_id, traceparent = _text(headers, b"x-correlation-id"), _text(headers, b"traceparent")
    about = context.new_context(correlation_id, traceparent)
    if context.parse_traceparent(traceparent) is None:
        return about, 0
    return about.at(about.trace.child()), about.trace.span_id


def _text(headers: dict[bytes, bytes], name: bytes) -> str | None:
    value = headers.get(name)
    return None if value is None else value.decode("latin-1")
