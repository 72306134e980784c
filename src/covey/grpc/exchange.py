"""One call and what becomes of it: what the server notes while it passes, and what is told of it afterwards."""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import UTC, datetime

import grpc

from covey import context
from covey.telemetry.rendering import Line
from covey.telemetry.telemetry import Telemetry
from covey.telemetry.tracing import Span

CORRELATION_ID = "x-correlation-id"
TRACEPARENT = "traceparent"

OUR_FAULT = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})
"""The codes with which a server span has failed, by OpenTelemetry's conventions for gRPC."""

_NUMBERS = {code.name: code.value[0] for code in grpc.StatusCode}

Metadata = Iterable[tuple[str, str | bytes]]


class Exchange:
    """A call under way. `code` is that of its answer, once there is one."""

    __slots__ = ("began_ns", "begun", "code", "context", "error", "method", "parent_id")

    def __init__(self, method: str, metadata: Metadata | None) -> None:
        self.began_ns = time.time_ns()
        self.begun = time.perf_counter_ns()
        self.method = method
        self.context, self.parent_id = _context(dict(metadata or ()))
        self.code = "OK"
        self.error: str | None = None

    def end(self) -> Seen:
        """Return what is to be told of the call, whichever way it has ended."""
        about = self.context
        return (
            about.correlation_id,
            about.trace.trace_id,
            about.trace.span_id,
            self.parent_id,
            about.trace.sampled,
            self.began_ns,
            time.perf_counter_ns() - self.begun,
            self.method,
            self.code,
            self.error,
        )


Seen = tuple[str, int, int, int, bool, int, int, str, str, str | None]
"""A call that is over, as a plain tuple of plain values, which the garbage collector need not look into."""


def tell(telemetry: Telemetry, seen: Seen) -> Line | None:
    """Record the server span and return the access log line. Runs in the thread of the logs."""
    correlation_id, trace_id, span_id, parent_id, sampled, began_ns, duration_ns, method, code, error = seen
    if sampled:
        service, _, name = method.rpartition("/")
        attributes: dict[str, str | int | float | bool] = {
            "rpc.system": "grpc",
            "rpc.service": service,
            "rpc.method": name,
            "rpc.grpc.status_code": _NUMBERS.get(code, 2),
        }
        failure = error or (code if code in OUR_FAULT else None)
        ended_ns = began_ns + duration_ns
        telemetry.tracer.put(
            Span(method, "server", trace_id, span_id, parent_id, began_ns, ended_ns, attributes, failure)
        )
    if not telemetry.access_log:
        return None
    return {
        "timestamp": datetime.fromtimestamp(began_ns / 1e9, UTC),
        "level": "info",
        "event": "call",
        "service": telemetry.service,
        "correlation_id": correlation_id,
        "trace_id": f"{trace_id:032x}",
        "span_id": f"{span_id:016x}",
        "method": method,
        "code": code,
        "duration_ms": duration_ns / 1e6,
    }


def _context(metadata: dict[str, str | bytes]) -> tuple[context.Context, int]:
    """Return the context of the call, placed inside its server span, and the id of the caller's span or 0."""
    correlation_id, traceparent = _text(metadata, CORRELATION_ID), _text(metadata, TRACEPARENT)
    about = context.new_context(correlation_id, traceparent)
    if context.parse_traceparent(traceparent) is None:
        return about, 0
    return about.at(about.trace.child()), about.trace.span_id


def _text(metadata: dict[str, str | bytes], name: str) -> str | None:
    value = metadata.get(name)
    return value if isinstance(value, str) else None
