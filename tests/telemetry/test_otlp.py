from __future__ import annotations

import socket
import time

import pytest

from covey.context import Trace
from covey.errors import ConfigurationError
from covey.local.ports import free_port
from covey.telemetry.otlp import Exporter
from covey.telemetry.telemetry import Telemetry, TelemetryOptions
from covey.telemetry.tracing import Attributes, Span
from covey.testing.collector import FakeCollector
from covey.testing.eventually import eventually

RESOURCE = {"service.name": "order", "service.version": "1.2.3", "service.instance.id": "order-1"}


def some_span(number: int = 1, **changed: object) -> Span:
    span = Span(f"span {number}", "internal", 2**127 + number, 2**63 + number, 0, 10, 20, {}, None)
    return span._replace(**changed)  # type: ignore[arg-type]  # of a test's choice


@pytest.fixture
def collector():  # type: ignore[no-untyped-def]  # a generator of FakeCollector
    with FakeCollector() as fake:
        yield fake


def exported(collector: FakeCollector, *spans: Span) -> None:
    exporter = Exporter(collector.endpoint, RESOURCE, {})
    exporter.start()
    for span in spans:
        exporter.put(span)
    exporter.close()


def test_a_span_arrives_as_it_was_recorded(collector: FakeCollector) -> None:
    attributes: Attributes = {"text": "ä", "number": -7, "ratio": 0.5, "yes": True}

    exported(
        collector,
        Span(
            "handle",
            "consumer",
            0xABC,
            0xDEF,
            0x123,
            1_700_000_000_000_000_001,
            1_700_000_000_000_000_099,
            attributes,
            "Refused",
        ),
    )

    (span,) = collector.spans()
    assert (span.name, span.kind) == ("handle", "consumer")
    assert (span.trace_id, span.span_id, span.parent_id) == (f"{0xABC:032x}", f"{0xDEF:016x}", f"{0x123:016x}")
    assert (span.start_ns, span.end_ns) == (1_700_000_000_000_000_001, 1_700_000_000_000_000_099)
    assert span.attributes == {**attributes, "error.type": "Refused"}
    assert span.failed
    assert span.resource == RESOURCE


@pytest.mark.parametrize("kind", ["internal", "server", "client", "producer", "consumer"])
def test_every_kind_has_its_own_on_the_wire(collector: FakeCollector, kind: str) -> None:
    exported(collector, some_span(kind=kind))

    assert [span.kind for span in collector.spans()] == [kind]
    assert not collector.spans()[0].failed
    assert collector.spans()[0].parent_id == ""


def test_values_that_protobuf_would_refuse_lose_no_span(collector: FakeCollector) -> None:
    odd = {"surrogate": "\ud800", "huge": 2**200, "long": "x" * 100_000, "empty": ""}

    exported(collector, some_span(1, attributes=odd), some_span(2))

    assert len(collector.spans()) == 2
    assert collector.spans()[0].attributes["huge"] == str(2**200)


def test_equal_values_of_different_types_stay_different(collector: FakeCollector) -> None:
    exported(collector, *[some_span(attributes={"value": value}) for value in (1, True, 1.0, "1")])

    assert [repr(span.attributes["value"]) for span in collector.spans()] == ["1", "True", "1.0", "'1'"]


def test_thousands_of_spans_arrive_once_and_in_order(collector: FakeCollector) -> None:
    exported(collector, *[some_span(number) for number in range(5_000)])

    assert [span.name for span in collector.spans()] == [f"span {number}" for number in range(5_000)]


async def test_spans_are_sent_while_the_service_runs(collector: FakeCollector) -> None:
    with Telemetry.open(TelemetryOptions(service="order", otlp_endpoint=collector.endpoint, write=len)) as telemetry:
        with telemetry.tracer.span("work"):
            pass

        await eventually(lambda: [span.name for span in collector.spans()] == ["work"])


def test_what_the_thread_of_the_logs_has_still_to_tell_reaches_the_collector(collector: FakeCollector) -> None:
    with Telemetry.open(TelemetryOptions(service="order", otlp_endpoint=collector.endpoint, write=len)) as telemetry:
        telemetry.logs.channel(telemetry.tracer.put)(some_span())

    assert len(collector.spans()) == 1


def test_the_resource_says_which_process_it_was(collector: FakeCollector) -> None:
    options = TelemetryOptions(
        service="order", version="7", instance="order-2", otlp_endpoint=collector.endpoint, write=len
    )
    with Telemetry.open(options) as telemetry, telemetry.tracer.span("work"):
        pass

    assert collector.spans()[0].resource == {
        "service.name": "order",
        "service.version": "7",
        "service.instance.id": "order-2",
    }


async def test_spans_wait_for_a_collector_that_is_overloaded(collector: FakeCollector) -> None:
    collector.answer = 503
    exporter = Exporter(collector.endpoint, RESOURCE, {})
    exporter.start()
    exporter.put(some_span())
    await eventually(lambda: collector.refused > 0)

    collector.answer = 200

    await eventually(lambda: len(collector.spans()) == 1)
    exporter.close()
    assert exporter.dropped == 0


async def test_spans_wait_for_a_collector_that_is_away() -> None:
    port = free_port()
    exporter = Exporter(f"http://127.0.0.1:{port}", RESOURCE, {})
    exporter.start()
    exporter.put(some_span())

    with FakeCollector(port) as late:
        await eventually(lambda: len(late.spans()) == 1)
        exporter.close()


def test_what_a_collector_refuses_is_counted_and_not_sent_again(collector: FakeCollector) -> None:
    collector.answer = 400
    exporter = Exporter(collector.endpoint, RESOURCE, {})
    exporter.start()
    exporter.put(some_span())
    exporter.close()

    assert collector.refused == 1
    assert exporter.dropped == 1


def test_closing_ends_in_time_though_nobody_listens() -> None:
    exporter = Exporter("http://127.0.0.1:1", RESOURCE, {})
    exporter.start()
    exporter.put(some_span())
    begun = time.monotonic()

    exporter.close()

    assert time.monotonic() - begun < 8
    assert exporter.dropped == 1


def test_lost_spans_show_in_the_metrics(collector: FakeCollector) -> None:
    collector.answer = 400
    options = TelemetryOptions(service="order", otlp_endpoint=collector.endpoint, write=len)
    with Telemetry.open(options) as telemetry, telemetry.tracer.span("work"):
        pass

    (lost,) = [metric for metric in telemetry.metrics.all() if metric.name == "covey_spans_dropped_total"]
    assert dict(lost.series()) == {(): 1}


def test_headers_for_the_collector_are_sent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        exporter = Exporter(f"http://127.0.0.1:{listener.getsockname()[1]}/tenant", RESOURCE, {"x-tenant": "shop"})
        exporter.start()
        exporter.put(some_span())
        connection, _ = listener.accept()
        with connection:
            head = connection.recv(65_536)
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            exporter.close()

    assert head.startswith(b"POST /tenant/v1/traces HTTP/1.1\r\n")
    assert b"x-tenant: shop\r\n" in head
    assert b"content-type: application/x-protobuf\r\n" in head


@pytest.mark.parametrize("endpoint", ["localhost:4318", "grpc://localhost:4317", "", "http://"])
def test_an_endpoint_that_cannot_work_is_a_configuration_error(endpoint: str) -> None:
    with pytest.raises(ConfigurationError):
        Exporter(endpoint, RESOURCE, {})


def test_a_root_span_and_its_child_are_linked_on_the_wire(collector: FakeCollector) -> None:
    from covey.telemetry.tracing import Tracer

    exporter = Exporter(collector.endpoint, RESOURCE, {})
    exporter.start()
    tracer = Tracer(exporter.put)
    tracer.record("request", "server", Trace(5, 6), 0, 1, 2)
    tracer.record("publish", "producer", Trace(5, 7), 6, 1, 2)
    exporter.close()

    request, publish = collector.spans()
    assert publish.parent_id == request.span_id
    assert publish.trace_id == request.trace_id
