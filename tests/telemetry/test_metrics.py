from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from covey.errors import DefinitionError
from covey.telemetry.exposition import Exposition
from covey.telemetry.metrics import Metrics


def exposed(metrics: Metrics) -> dict[tuple[str, ...], float]:
    text = Exposition(metrics).render()[0].decode()
    return {
        (sample.name, *(f"{key}={value}" for key, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_counter_is_exposed_with_its_labels() -> None:
    metrics = Metrics()
    handled = metrics.counter("handled_total", "Messages handled", ("type", "outcome"))

    handled.add(("order.placed.v1", "done"))
    handled.add(("order.placed.v1", "done"), 2)

    assert handled.value(("order.placed.v1", "done")) == 3
    assert exposed(metrics)["handled_total", "outcome=done", "type=order.placed.v1"] == 3


def test_a_metric_without_labels_is_exposed_before_anything_happened() -> None:
    metrics = Metrics()
    metrics.counter("failures_total", "Failures")
    metrics.gauge("connections", "Connections")

    assert exposed(metrics)["failures_total",] == 0
    assert exposed(metrics)["connections",] == 0


def test_a_histogram_counts_a_value_in_every_bucket_from_its_own_up() -> None:
    metrics = Metrics()
    seconds = metrics.histogram("work_seconds", "Time", ("kind",), buckets=(0.1, 1.0))

    for value in (0.05, 0.1, 0.5, 7.0):
        seconds.observe(value, ("a",))

    seen = exposed(metrics)
    assert seen["work_seconds_bucket", "kind=a", "le=0.1"] == 2, "a bound belongs to its bucket"
    assert seen["work_seconds_bucket", "kind=a", "le=1.0"] == 3
    assert seen["work_seconds_bucket", "kind=a", "le=+Inf"] == 4
    assert seen["work_seconds_count", "kind=a"] == 4 == seconds.count(("a",))
    assert seen["work_seconds_sum", "kind=a"] == pytest.approx(7.65)


def test_a_gauge_is_set_and_moved() -> None:
    metrics = Metrics()
    held = metrics.gauge("held", "Keys held", ("state",))

    held.set(5, ("dead",))
    held.add(-2, ("dead",))
    held.add(1, ("working",))

    assert held.value(("dead",)) == 3
    assert exposed(metrics)["held", "state=working"] == 1


def test_an_observed_metric_is_asked_when_it_is_read_and_the_last_declaration_counts() -> None:
    metrics = Metrics()
    metrics.observe("pool_size", "Connections", lambda: {(): 1.0})
    size = 2.0
    metrics.observe("pool_size", "Connections", lambda: {(): size})

    size = 7.0

    assert exposed(metrics)["pool_size",] == 7.0


def test_unbounded_label_values_end_in_one_series_and_are_counted() -> None:
    metrics = Metrics(max_series=100)
    requests = metrics.counter("requests_total", "Requests", ("endpoint",))
    seconds = metrics.histogram("request_seconds", "Time", ("endpoint",))

    for number in range(100_000):
        requests.add((f"/orders/{number}",))
        seconds.observe(0.1, (f"/orders/{number}",))

    assert len(requests.series()) == 101
    assert len(seconds.series()) == 101
    assert requests.value(("other",)) == 99_900
    assert seconds.count(("other",)) == 99_900
    assert exposed(metrics)["covey_metric_series_refused_total", "metric=requests_total"] == 99_900


def test_asking_for_a_metric_again_gives_the_same_one() -> None:
    metrics = Metrics()

    assert metrics.counter("a_total", "A", ("x",)) is metrics.counter("a_total", "A", ("x",))


@pytest.mark.parametrize("name", ["A_total", "a-total", "", "1_total", "ä_total"])
def test_a_name_that_prometheus_would_refuse_is_refused_at_once(name: str) -> None:
    with pytest.raises(DefinitionError):
        Metrics().gauge(name, "help")


def test_declaring_a_name_differently_is_a_mistake() -> None:
    metrics = Metrics()
    metrics.counter("a_total", "A", ("x",))

    with pytest.raises(DefinitionError):
        metrics.counter("a_total", "A", ("y",))
    with pytest.raises(DefinitionError):
        metrics.gauge("a_total", "A", ("x",))
    with pytest.raises(DefinitionError):
        metrics.observe("a_total", "A", dict)
    with pytest.raises(DefinitionError):
        metrics.counter("without_the_ending", "A")
    with pytest.raises(DefinitionError):
        metrics.histogram("b", "B", buckets=(2.0, 1.0))


def test_a_wrong_number_of_label_values_is_a_mistake() -> None:
    with pytest.raises(DefinitionError):
        Metrics().counter("a_total", "A", ("x", "y")).add(("1",))


def test_the_process_and_the_interpreter_are_exposed_too() -> None:
    text = Exposition(Metrics()).render()[0].decode()

    assert "process_resident_memory_bytes" in text
    assert "python_gc_collections_total" in text


def test_the_format_follows_the_accept_header() -> None:
    content, content_type = Exposition(Metrics()).render("application/openmetrics-text; version=1.0.0")

    assert content_type.startswith("application/openmetrics-text")
    assert content.endswith(b"# EOF\n")
