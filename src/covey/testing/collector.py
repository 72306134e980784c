"""A collector of OpenTelemetry spans that only remembers, for tests and benchmarks: OTLP over HTTP, binary protobuf."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


@dataclass(frozen=True, slots=True)
class ReceivedSpan:
    """A span as it arrived; ids are hexadecimal, `parent_id` is empty at the root, `kind` as OTLP spells it."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    start_ns: int
    end_ns: int
    attributes: dict[str, Any]
    failed: bool
    resource: dict[str, Any]


class FakeCollector:
    """Listens on a port of 127.0.0.1 while it is entered, and keeps what it is sent.

    `answer` is the status it gives from now on: set it to 503 and spans are refused, as by a collector that
    is overloaded; what it refuses it does not keep. `headers` are those of the last request that it took.
    """

    def __init__(self, port: int = 0) -> None:
        self.answer = 200
        self.bodies: list[bytes] = []
        self.headers: dict[str, str] = {}
        self.refused = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", port), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def endpoint(self) -> str:
        """Return the value for OTEL_EXPORTER_OTLP_ENDPOINT."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def spans(self) -> list[ReceivedSpan]:
        """Return every span received so far, in the order of arrival."""
        return [span for body in list(self.bodies) for span in _decoded(body)]


def _handler(collector: FakeCollector) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if collector.answer == 200 and self.path == "/v1/traces":
                collector.bodies.append(body)
                collector.headers = {name.lower(): value for name, value in self.headers.items()}
            else:
                collector.refused += 1
            content = ExportTraceServiceResponse().SerializeToString()
            self.send_response(collector.answer if self.path == "/v1/traces" else 404)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    return Handler


def _decoded(body: bytes) -> Iterator[ReceivedSpan]:
    for part in ExportTraceServiceRequest.FromString(body).resource_spans:
        resource = _attributes(part.resource.attributes)
        for scope in part.scope_spans:
            for span in scope.spans:
                yield ReceivedSpan(
                    name=span.name,
                    kind=type(span).SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_id=span.parent_span_id.hex(),
                    start_ns=span.start_time_unix_nano,
                    end_ns=span.end_time_unix_nano,
                    attributes=_attributes(span.attributes),
                    failed=span.status.code == 2,
                    resource=resource,
                )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}
