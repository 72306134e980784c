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
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Literal, NamedTuple, Self

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
    """A span under way, as a block; a class, because there are several on the path of every message.

    What is learned meanwhile is added to its attributes. An exception marks it as failed and passes through;
    cancellation is not a failure.
    """

    __slots__ = (
        "_begun",
        "_kind",
        "_name",
        "_parent_id",
        "_start_ns",
        "_tracer",
        "_use",
        "attributes",
        "error",
        "trace",
    )

    def __init__(self, tracer: Tracer, name: str, kind: Kind, attributes: Attributes) -> None:
        self.attributes: dict[str, Attribute] = dict(attributes)
        self.error: str | None = None
        self._tracer = tracer
        self._name = name
        self._kind = kind

    def set(self, key: str, value: Attribute) -> None:
        """Set an attribute. Ids and counts are welcome; secrets and personal data are not redacted here."""
        self.attributes[key] = value

    def fail(self, error: str) -> None:
        """Mark the span as failed although no exception leaves its block; `error` is a type or a status."""
        self.error = error

    def __enter__(self) -> Self:
        outer = active()
        context = outer or new_context()
        self._parent_id = outer.trace.span_id if outer else 0
        self.trace = context.trace.child()
        self._start_ns, self._begun = time.time_ns(), time.perf_counter_ns()
        self._use = use(context.at(self.trace))
        self._use.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._use.__exit__()
        if isinstance(error, Exception) and self.error is None:
            self.error = type(error).__name__
        end_ns = self._start_ns + time.perf_counter_ns() - self._begun
        self._tracer.record(
            self._name, self._kind, self.trace, self._parent_id, self._start_ns, end_ns, self.attributes, self.error
        )


class Tracer:
    """Records spans: the last ones in `recent`, and all of them through `export` if there is one."""

    def __init__(self, export: Callable[[Span], None] | None = None, keep: int = 1024) -> None:
        self.recent: deque[Span] = deque(maxlen=keep)
        self.put = export or self.recent.append
        """Takes a span that has ended, whatever its trace's sampled flag says."""

    def span(self, name: str, kind: Kind = "internal", attributes: Attributes = _NONE) -> OpenSpan:
        """Return a new span, a child of the current one, to be used as a block; what it calls is inside it too."""
        return OpenSpan(self, name, kind, attributes)

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
