"""What Prometheus reads: the metrics of this process as text, with those of the interpreter and the process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from covey.telemetry.metrics import Histogram, Metric, Metrics

_Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily


class Exposition(Collector):
    """Renders metrics. One for each process; rendering takes milliseconds, so do it in a thread."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._registry = CollectorRegistry()
        self._registry.register(self)
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self._registry)

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """Return the body and its content type, in the format that the `Accept` header prefers."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def collect(self) -> Iterator[_Family]:
        """Yield each metric in Prometheus' own form; called by its registry."""
        return map(_family, self._metrics.all())

    def describe(self) -> Iterable[_Family]:
        """Name nothing in advance, so that registering does not collect."""
        return []


def _family(metric: Metric) -> _Family:
    if isinstance(metric, Histogram):
        return _histogram(metric)
    make = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    family: CounterMetricFamily | GaugeMetricFamily = make(metric.name, metric.help, labels=metric.labels)
    for labels, value in metric.series().items():
        family.add_metric(labels, value)
    return family


def _histogram(metric: Histogram) -> HistogramMetricFamily:
    family = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
    bounds = [*map(str, metric.buckets), "+Inf"]
    for labels, (counts, total) in metric.series().items():
        family.add_metric(labels, list(zip(bounds, accumulate(counts), strict=True)), total)
    return family
