"""What is seen of messaging: spans, metrics and log lines, in one place.

Handlers are seen one by one. A key that is set aside is a warning, a dead letter an error; neither says more of
the message than its type, id and key.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType

import structlog

from covey.context import Context, parse_traceparent
from covey.database.pool import Database
from covey.message import Envelope
from covey.messaging.delivery import Delivery
from covey.telemetry.telemetry import Telemetry

log = structlog.get_logger("covey.messaging")


class Observation:
    """The eyes on one service's messaging. `history_lost` says which streams cannot be read on, and why."""

    def __init__(self, telemetry: Telemetry, service: str, database: Database) -> None:
        metrics = telemetry.metrics
        self._tracer = telemetry.tracer
        self._service = service
        self.history_lost: dict[str, str] = {}
        self._published = metrics.counter(
            "covey_messages_published_total", "Messages that the broker has confirmed", ("type",)
        )
        self._stored = metrics.counter("covey_messages_received_total", "Messages stored in the inbox", ("stream",))
        self._handled = metrics.histogram(
            "covey_message_handling_seconds", "Time in handlers, each attempt", ("type", "outcome")
        )
        self._delay = metrics.histogram(
            "covey_message_delay_seconds", "From the making of a message to its handler, by both clocks", ("type",)
        )
        self._parked = metrics.counter(
            "covey_messages_set_aside_total", "Failed messages whose keys wait", ("type", "state")
        )
        database.observe(metrics)

    def handling(self, delivery: Delivery, context: Context) -> Consuming:
        """See one message handled, as a block, in a span that continues its sender's trace."""
        return Consuming(self._consumed, "handle", delivery, context)

    def calling(self, delivery: Delivery, context: Context) -> Consuming:
        """See one call to the outside, as a block."""
        return Consuming(self._consumed, "call", delivery, context)

    @contextmanager
    def publishing(self, envelopes: Sequence[Envelope]) -> Iterator[None]:
        """See messages published: a span each, in the trace of the work that made it."""
        start = time.time_ns()
        begun = time.perf_counter_ns()
        error: str | None = None
        try:
            yield
        except Exception as failed:
            error = type(failed).__qualname__
            raise
        finally:
            end = start + time.perf_counter_ns() - begun
            for envelope in envelopes:
                self._publish_span(envelope, start, end, error)

    @contextmanager
    def storing(self, stream: str, count: int) -> Iterator[None]:
        """Count messages once they are stored."""
        yield
        self._stored.add((stream,), count)

    def suspected(self, delivery: Delivery, crashes: int) -> None:
        """Tell that a message is handled alone, because processes may have died of it."""
        envelope = delivery.envelope
        log.warning(
            "message_suspected",
            message_type=envelope.type,
            message_id=str(envelope.id),
            key=envelope.key,
            crashes=crashes,
        )

    def parked(self, delivery: Delivery, error: str, dead: bool, attempts: int) -> None:
        """Tell that a key waits behind a message that failed."""
        envelope = delivery.envelope
        self._parked.add((envelope.type, "dead" if dead else "waiting"))
        write = log.error if dead else log.warning
        write(
            "dead_letter" if dead else "message_set_aside",
            message_type=envelope.type,
            message_id=str(envelope.id),
            key=envelope.key,
            attempts=attempts,
            error=error,
            next_step=f"covey dead show {self._service} {envelope.key}" if dead else None,
        )

    def _consumed(
        self, verb: str, envelope: Envelope, context: Context, start_ns: int, spent_ns: int, error: str | None
    ) -> None:
        sent = parse_traceparent(envelope.headers.get("traceparent"))
        self._handled.observe(spent_ns / 1e9, (envelope.type, "failed" if error else "done"))
        self._delay.observe(max(0.0, start_ns / 1e9 - envelope.time.timestamp()), (envelope.type,))
        self._tracer.record(
            f"{verb} {envelope.type}",
            "consumer",
            context.trace,
            sent.span_id if sent else 0,
            start_ns,
            start_ns + spent_ns,
            {
                "messaging.operation.name": verb,
                "messaging.message.id": str(envelope.id),
                "messaging.destination.name": envelope.stream,
                "covey.correlation_id": context.correlation_id,
            },
            error,
        )

    def _publish_span(self, envelope: Envelope, start: int, end: int, error: str | None) -> None:
        if error is None:
            self._published.add((envelope.type,))
        made_in = parse_traceparent(envelope.headers.get("traceparent"))
        if made_in is not None:
            self._tracer.record(
                f"publish {envelope.type}",
                "producer",
                made_in.child(),
                made_in.span_id,
                start,
                end,
                {"messaging.message.id": str(envelope.id), "messaging.destination.name": envelope.stream},
                error,
            )


class Consuming:
    """One message while it is handled, or called for; a class, because this is on the path of every message."""

    __slots__ = ("_begun", "_consumed", "_context", "_envelope", "_start", "_verb")

    def __init__(
        self,
        consumed: Callable[[str, Envelope, Context, int, int, str | None], None],
        verb: str,
        delivery: Delivery,
        context: Context,
    ) -> None:
        self._consumed = consumed
        self._verb = verb
        self._envelope = delivery.envelope
        self._context = context

    def __enter__(self) -> None:
        self._start, self._begun = time.time_ns(), time.perf_counter_ns()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        spent = time.perf_counter_ns() - self._begun
        failed = type(error.__cause__ or error).__qualname__ if isinstance(error, Exception) else None
        self._consumed(self._verb, self._envelope, self._context, self._start, spent, failed)
