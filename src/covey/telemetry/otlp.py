"""Sends spans to a collector: OTLP over HTTP in binary protobuf (https://opentelemetry.io/docs/specs/otlp/).

The messages are OpenTelemetry's own generated classes. What repeats from span to span (names, attributes) is
serialized once and concatenated, which protobuf defines as merging
(https://protobuf.dev/programming-guides/encoding/#last-one-wins): 2 µs a span instead of 25 through the SDK.
Importing this module costs some 40 ms, so only a process that has a collector does.
"""

from __future__ import annotations

import http.client
import random
import struct
import threading
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from urllib.parse import urlsplit

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1 import trace_pb2 as pb

from covey.errors import ConfigurationError
from covey.telemetry.background import Background
from covey.telemetry.tracing import Attribute, Attributes, Kind, Span

_KINDS: dict[Kind, pb.Span.SpanKind.ValueType] = {
    "internal": pb.Span.SPAN_KIND_INTERNAL,
    "server": pb.Span.SPAN_KIND_SERVER,
    "client": pb.Span.SPAN_KIND_CLIENT,
    "producer": pb.Span.SPAN_KIND_PRODUCER,
    "consumer": pb.Span.SPAN_KIND_CONSUMER,
}
_LENGTH_DELIMITED, _FIXED64 = 2, 1
# What no two spans share has a fixed layout: two ids and two instants, each behind its tag.
_OWN = struct.Struct("<2s16s2s8sBQBQ")
_TRACE_ID = bytes((pb.Span.TRACE_ID_FIELD_NUMBER << 3 | _LENGTH_DELIMITED, 16))
_SPAN_ID = bytes((pb.Span.SPAN_ID_FIELD_NUMBER << 3 | _LENGTH_DELIMITED, 8))
_PARENT_ID = bytes((pb.Span.PARENT_SPAN_ID_FIELD_NUMBER << 3 | _LENGTH_DELIMITED, 8))
_START = pb.Span.START_TIME_UNIX_NANO_FIELD_NUMBER << 3 | _FIXED64
_END = pb.Span.END_TIME_UNIX_NANO_FIELD_NUMBER << 3 | _FIXED64

_RETRYABLE = frozenset({429, 502, 503, 504})
_PATIENCE_S = 60.0
_PATIENCE_AT_CLOSE_S = 5.0
_LONGEST_PAUSE_S = 8.0


def encode(resource: Attributes, spans: Sequence[Span]) -> bytes:
    """Return the body of one export request that carries these spans."""
    scope = pb.ScopeSpans(scope=InstrumentationScope(name="covey")).SerializeToString()
    number = pb.ScopeSpans.SPANS_FIELD_NUMBER
    scope_spans = scope + b"".join([_field(number, _span(span)) for span in spans])
    described = pb.ResourceSpans(resource=Resource(attributes=map(_key_value, resource.items())))
    resource_spans = described.SerializeToString() + _field(pb.ResourceSpans.SCOPE_SPANS_FIELD_NUMBER, scope_spans)
    return _field(ExportTraceServiceRequest.RESOURCE_SPANS_FIELD_NUMBER, resource_spans)


class Exporter:
    """Sends spans to the collector at `endpoint` (its base URL, as in OTEL_EXPORTER_OTLP_ENDPOINT) from a thread.

    A collector that is away or overloaded is tried again for a minute, with backoff; at close for five seconds.
    Meanwhile up to 32,768 spans wait. What is given up is counted in `lost`; it never disturbs the service.
    """

    def __init__(self, endpoint: str, resource: Attributes, headers: Mapping[str, str]) -> None:
        self.lost = 0
        self._resource = resource
        self._collector = _Collector(endpoint, headers)
        self._background: Background[Span] = Background(
            "covey-spans", self._send, interval=0.5, batch=1024, limit=32_768
        )
        self.put = self._background.put
        self.flush = self._background.flush

    @property
    def dropped(self) -> int:
        """Return how many spans did not reach the collector."""
        return self.lost + self._background.dropped

    def start(self) -> None:
        """Start sending."""
        self._background.start()

    def close(self) -> None:
        """Send what waits and stop. Returns within some seconds, whatever the collector does."""
        self._background.close()
        self._collector.close()

    def _send(self, spans: list[Span]) -> None:
        body = encode(self._resource, spans)
        if not _delivered(self._collector, body, self._background.stopping):
            self.lost += len(spans)


class _Collector:
    """One connection to the collector, opened again when it was lost."""

    def __init__(self, endpoint: str, headers: Mapping[str, str]) -> None:
        url = urlsplit(endpoint)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ConfigurationError(f"OTEL_EXPORTER_OTLP_ENDPOINT: {endpoint!r} is no http:// or https:// URL")
        kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(url.hostname, url.port, timeout=_PATIENCE_AT_CLOSE_S)
        self._path = f"{url.path.rstrip('/')}/v1/traces"
        self._headers = {**headers, "content-type": "application/x-protobuf"}

    def post(self, body: bytes) -> int:
        """Return the status of the answer; 503 when there is none."""
        try:
            self._connection.request("POST", self._path, body, self._headers)
            response = self._connection.getresponse()
            response.read()
            return response.status
        except (OSError, http.client.HTTPException):
            self._connection.close()
            return 503

    def close(self) -> None:
        self._connection.close()


def _delivered(collector: _Collector, body: bytes, stopping: threading.Event) -> bool:
    """Post until the collector takes it, refuses it, or patience is over."""
    begun, pause = time.monotonic(), 0.1
    while (status := collector.post(body)) in _RETRYABLE:
        patience = _PATIENCE_AT_CLOSE_S if stopping.is_set() else _PATIENCE_S
        if time.monotonic() - begun + pause > patience:
            return False
        _pause(pause * random.uniform(0.5, 1.0), stopping)
        pause = min(pause * 2, _LONGEST_PAUSE_S)
    return 200 <= status < 300


def _pause(seconds: float, stopping: threading.Event) -> None:
    if stopping.is_set():
        time.sleep(min(seconds, 0.2))
    else:
        stopping.wait(seconds)


def _span(span: Span) -> bytes:
    own = _OWN.pack(
        _TRACE_ID, span.trace_id.to_bytes(16, "big"),
        _SPAN_ID, span.span_id.to_bytes(8, "big"),
        _START, span.start_ns, _END, span.end_ns,
    )  # fmt: skip
    parent = _PARENT_ID + span.parent_id.to_bytes(8, "big") if span.parent_id else b""
    shared = [_attribute(key, value) for key, value in span.attributes.items()]
    return b"".join((own, parent, _shape(span.name, span.kind, span.error), *shared))


@lru_cache(maxsize=1024)
def _shape(name: str, kind: Kind, error: str | None) -> bytes:
    """Return what spans of one name share, serialized as a span that has nothing else."""
    shape = pb.Span(name=name, kind=_KINDS[kind])
    if error is not None:
        shape.status.code = pb.Status.STATUS_CODE_ERROR
        shape.attributes.append(_key_value(("error.type", error)))
    return bytes(shape.SerializeToString())


@lru_cache(maxsize=4096, typed=True)
def _attribute(key: str, value: Attribute) -> bytes:
    return bytes(pb.Span(attributes=[_key_value((key, value))]).SerializeToString())


def _key_value(item: tuple[str, Attribute]) -> KeyValue:
    key, value = item
    if isinstance(value, bool):
        return KeyValue(key=key, value=AnyValue(bool_value=value))
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return KeyValue(key=key, value=AnyValue(int_value=value))
    if isinstance(value, float):
        return KeyValue(key=key, value=AnyValue(double_value=value))
    text = str(value).encode(errors="replace").decode()  # protobuf refuses lone surrogates
    return KeyValue(key=key, value=AnyValue(string_value=text))


def _field(number: int, payload: bytes) -> bytes:
    """Return `payload` as a length-delimited field of a protobuf message."""
    return _prefix(number, len(payload)) + payload


@lru_cache(maxsize=4096)
def _prefix(number: int, length: int) -> bytes:
    """Return tag and length of such a field, the latter as a varint: seven bits a byte, least first."""
    encoded = bytearray((number << 3 | _LENGTH_DELIMITED,))
    while length > 0x7F:
        encoded.append(length & 0x7F | 0x80)
        length >>= 7
    encoded.append(length)
    return bytes(encoded)
