"""Logs, metrics and traces of one process, bundled: opened once by whoever starts it, handed to whoever needs it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from covey.ids import new_id
from covey.telemetry.logging import LogPipeline
from covey.telemetry.metrics import Metrics
from covey.telemetry.tracing import Tracer


@dataclass(frozen=True, kw_only=True, slots=True)
class TelemetryOptions:
    """Who is speaking, and where to.

    `otlp_endpoint` is the base URL of a collector (OTEL_EXPORTER_OTLP_ENDPOINT); without one the last spans stay in
    memory. `pretty` defaults to whether `write` is a terminal; `write` takes whole lines, from one thread at a time.
    """

    service: str
    version: str = "0"
    instance: str = field(default_factory=lambda: str(new_id()))
    otlp_endpoint: str | None = None
    otlp_headers: Mapping[str, str] = field(default_factory=dict)
    log_level: str = "INFO"
    access_log: bool = True
    pretty: bool | None = None
    write: Callable[[bytes], object] | None = None


@dataclass(frozen=True, slots=True)
class Telemetry:
    """What a process says about itself. No part of it waits, raises or blocks on the path of a request."""

    service: str
    metrics: Metrics
    tracer: Tracer
    logs: LogPipeline
    access_log: bool = True

    @classmethod
    def in_memory(cls, service: str = "test", write: Callable[[bytes], object] = lambda lines: None) -> Telemetry:
        """Return telemetry without threads and globals: spans in `tracer.recent`, lines to `write` at a `flush`."""
        return cls(service, Metrics(), Tracer(), LogPipeline(service, write))

    @classmethod
    @contextmanager
    def open(cls, options: TelemetryOptions) -> Iterator[Telemetry]:
        """Log, count and trace inside the block; at its end, however it ends, write and send what waits.

        Open it in the process that serves, after any fork: it starts threads.
        """
        with ExitStack() as stack:
            metrics, logs = Metrics(), _logs(options)
            # First opened is last closed: what the logs' thread has left to do may still record spans.
            tracer = _exporting_tracer(options, metrics, stack) if options.otlp_endpoint else Tracer()
            stack.callback(logs.close)
            logs.open(options.log_level)
            metrics.observe(
                "covey_log_lines_dropped_total", "Log lines lost", lambda: {(): logs.dropped}, kind="counter"
            )
            yield cls(options.service, metrics, tracer, logs, options.access_log)

    def flush(self) -> None:
        """Write the log lines that wait, in the calling thread."""
        self.logs.flush()


def _logs(options: TelemetryOptions) -> LogPipeline:
    pretty = sys.stdout.isatty() if options.pretty is None and options.write is None else bool(options.pretty)
    return LogPipeline(options.service, options.write or _write_to_stdout, pretty=pretty)


def _write_to_stdout(lines: bytes) -> None:
    sys.stdout.buffer.write(lines)
    sys.stdout.buffer.flush()


def _exporting_tracer(options: TelemetryOptions, metrics: Metrics, stack: ExitStack) -> Tracer:
    from covey.telemetry.otlp import Exporter  # 40 ms that only a process with a collector pays

    resource = {
        "service.name": options.service,
        "service.version": options.version,
        "service.instance.id": options.instance,
    }
    exporter = Exporter(str(options.otlp_endpoint), resource, options.otlp_headers)
    exporter.start()
    stack.callback(exporter.close)
    metrics.observe(
        "covey_spans_dropped_total",
        "Spans that did not reach the collector",
        lambda: {(): exporter.dropped},
        kind="counter",
    )
    return Tracer(exporter.put)
