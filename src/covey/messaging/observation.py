"""What is seen of messaging: spans, metrics and log lines, in one place.

Handlers are seen one by one. A key that is set aside is a warning, a dead letter an error; neither says more of
the message than its type, id and key.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

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
        metrics.observe(
            "covey_pool_connections",
            "Database connections of the pool",
            lambda: {("open",): float(database.usage[0]), ("idle",): float(database.usage[1])},
            ("state",),
        )

    @contextmanager
    def handling(self, delivery: Delivery, context: Context) -> Iterator[None]:
        """See one message handled, in a span that continues its sender's trace."""
        with self._consuming("handle", delivery, context):
            yield

    @contextmanager
    def calling(self, delivery: Delivery, context: Context) -> Iterator[None]:
        """See one call to the outside."""
        with self._consuming("call", delivery, context):
            yield

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

    @contextmanager
    def _consuming(self, verb: str, delivery: Delivery, context: Context) -> Iterator[None]:
        envelope = delivery.envelope
        sent = parse_traceparent(envelope.headers.get("traceparent"))
        start = time.time_ns()
        begun = time.perf_counter_ns()
        error: str | None = None
        try:
            yield
        except Exception as failed:
            error = type(failed.__cause__ or failed).__qualname__
            raise
        finally:
            spent = time.perf_counter_ns() - begun
            self._handled.observe(spent / 1e9, (envelope.type, "failed" if error else "done"))
            self._delay.observe(max(0.0, start / 1e9 - envelope.time.timestamp()), (envelope.type,))
            self._tracer.record(
                f"{verb} {envelope.type}",
                "consumer",
                context.trace,
                sent.span_id if sent else 0,
                start,
                start + spent,
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
