"""Spans as plain tuples: recorded in less than a microsecond, made into OTLP elsewhere.

A span is recorded once, when it ends. Its place in the trace comes from `covey.context`, which also carries
it into other processes (https://www.w3.org/TR/trace-context/). The sampled flag that came in is respected;
a trace that begins here is always recorded: thinning out is the collector's job, which sees whole traces.
Names and attributes follow OpenTelemetry's semantic conventions. An error is recorded by type only: the
text of an exception may hold a secret.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal, NamedTuple

from covey.context import Trace, active, new_context, use

Kind = Literal["internal", "server", "client", "producer", "consumer"]
Attribute = str | int | float | bool
Attributes = Mapping[str, Attribute]

_NONE: Attributes = {}


class Span(NamedTuple):
    """A span that has ended. Times are nanoseconds since 1970; `parent_id` is 0 at the root; `error` is a type."""

    name: str
    kind: Kind
    trace_id: int
    span_id: int
    parent_id: int
    start_ns: int
    end_ns: int
    attributes: Attributes
    error: str | None


class OpenSpan:
    """A span under way. What is learned meanwhile is added to its attributes."""

    __slots__ = ("attributes", "error", "trace")

    def __init__(self, trace: Trace, attributes: Attributes) -> None:
        self.trace = trace
        self.attributes: dict[str, Attribute] = dict(attributes)
        self.error: str | None = None

    def set(self, key: str, value: Attribute) -> None:
        """Set an attribute. Ids and counts are welcome; secrets and personal data are not redacted here."""
        self.attributes[key] = value

    def fail(self, error: str) -> None:
        """Mark the span as failed although no exception leaves its block; `error` is a type or a status."""
        self.error = error


class Tracer:
    """Records spans: the last ones in `recent`, and all of them through `export` if there is one."""

    def __init__(self, export: Callable[[Span], None] | None = None, keep: int = 1024) -> None:
        self.recent: deque[Span] = deque(maxlen=keep)
        self.put = export or self.recent.append
        """Takes a span that has ended, whatever its trace's sampled flag says."""

    @contextmanager
    def span(self, name: str, kind: Kind = "internal", attributes: Attributes = _NONE) -> Iterator[OpenSpan]:
        """Run the block inside a new span, a child of the current one; what the block calls is inside it too.

        An exception marks it as failed and passes through; cancellation is not a failure.
        """
        outer = active()
        context = outer or new_context()
        span = OpenSpan(context.trace.child(), attributes)
        start_ns, begun = time.time_ns(), time.perf_counter_ns()
        try:
            with use(replace(context, trace=span.trace)):
                yield span
        except Exception as error:
            span.error = span.error or type(error).__name__
            raise
        finally:
            end_ns = start_ns + time.perf_counter_ns() - begun
            parent_id = outer.trace.span_id if outer else 0
            self.record(name, kind, span.trace, parent_id, start_ns, end_ns, span.attributes, span.error)

    def record(
        self,
        name: str,
        kind: Kind,
        trace: Trace,
        parent_id: int,
        start_ns: int,
        end_ns: int,
        attributes: Attributes = _NONE,
        error: str | None = None,
    ) -> None:
        """Record a span that is over; nothing happens if its trace is not sampled. Safe from any thread.

        `attributes` is kept, not copied: do not change it afterwards.
        """
        if trace.sampled:
            self.put(Span(name, kind, trace.trace_id, trace.span_id, parent_id, start_ns, end_ns, attributes, error))
