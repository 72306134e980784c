"""What travels with a piece of work: who asked, on whose behalf, until when, and as part of which trace.

One immutable `Context` is current in each task. It enters with a request or a message, leaves with
outgoing requests and messages, and is never global: tasks started from a task inherit it.
W3C Trace Context (https://www.w3.org/TR/trace-context/) gives the form of the trace identifiers.
"""

from __future__ import annotations

import re
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from random import getrandbits
from typing import NamedTuple
from uuid import UUID

_CORRELATION_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_TRACEPARENT_LENGTH = 55


class Trace(NamedTuple):
    """A position in a distributed trace: the trace and the span that encloses what is done now."""

    trace_id: int
    span_id: int
    sampled: bool = True

    def traceparent(self) -> str:
        """Return the header value of W3C Trace Context, version 00."""
        trace_id, span_id = self.trace_id.to_bytes(16, "big").hex(), self.span_id.to_bytes(8, "big").hex()
        return f"00-{trace_id}-{span_id}-{'01' if self.sampled else '00'}"

    def child(self) -> Trace:
        """Return the position inside a new span of the same trace."""
        return Trace(self.trace_id, new_span_id(), self.sampled)


@dataclass(frozen=True, slots=True)
class Context:
    """All that accompanies one piece of work. `deadline` is an instant; None is no limit."""

    correlation_id: str
    trace: Trace
    deadline: datetime | None = None
    principal: str | None = None
    causation_id: UUID | None = None

    def at(self, trace: Trace) -> Context:
        """Return the same context at another position of its trace."""
        return Context(self.correlation_id, trace, self.deadline, self.principal, self.causation_id)

    def on_behalf_of(self, principal: str) -> Context:
        """Return the same context with who asks."""
        return Context(self.correlation_id, self.trace, self.deadline, principal, self.causation_id)


_current: ContextVar[Context | None] = ContextVar("covey_context", default=None)


def current() -> Context:
    """Return the context of this task; outside of any request or message a fresh one."""
    return _current.get() or new_context()


def active() -> Context | None:
    """Return the context of this task, or None outside of any request or message."""
    return _current.get()


class use:  # reads as a statement: `with use(context):`
    """Make `context` current inside the block, and restore what was current before."""

    __slots__ = ("_context", "_token")

    def __init__(self, context: Context) -> None:
        self._context = context

    def __enter__(self) -> Context:
        self._token = _current.set(self._context)
        return self._context

    def __exit__(self, *exc: object) -> None:
        _current.reset(self._token)


def new_context(correlation_id: str | None = None, traceparent: str | None = None) -> Context:
    """Start or continue a piece of work from what came in; neither value is trusted.

    A malformed correlation id is replaced (by the trace id, so that logs and traces share one), and a
    malformed traceparent starts a new trace: a bad header must not fail a request, nor reach a log.
    """
    trace = parse_traceparent(traceparent) or _new_trace()
    if correlation_id is None or not _CORRELATION_ID.fullmatch(correlation_id):
        correlation_id = f"{trace.trace_id:032x}"
    return Context(correlation_id, trace)


def parse_traceparent(value: str | None) -> Trace | None:
    """Return the position that a `traceparent` names, or None when it is absent, malformed or all zero."""
    return _position(value) if value and len(value) == _TRACEPARENT_LENGTH else None


@lru_cache(maxsize=4096)  # of a message it is read at every stop: published, handled, called for, answered
def _position(value: str) -> Trace | None:
    match = _TRACEPARENT.fullmatch(value)
    if match is None:
        return None
    trace_id, span_id = int(match[1], 16), int(match[2], 16)
    return Trace(trace_id, span_id, bool(int(match[3], 16) & 1)) if trace_id and span_id else None


def _new_trace() -> Trace:
    return Trace(new_trace_id(), new_span_id())


def new_trace_id() -> int:
    """Return 128 random bits, never zero. They need not be unguessable, and a copy of the process draws others."""
    return getrandbits(128) | 1


def new_span_id() -> int:
    """Return 64 random bits, never zero."""
    return getrandbits(64) | 1
