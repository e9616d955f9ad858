"""What the service counts, for Prometheus. One object per application, no globals."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 1, 2, 5, 10, 20, 50, 100)


class Metrics:
    """Counters, gauges and histograms of one service, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = self._counter("sam2_requests_total", "HTTP requests", "route", "status")
        self.request_seconds = self._histogram(
            "sam2_request_seconds", "Time from request to reply", "route"
        )
        self.predictions = self._counter(
            "sam2_predictions_total",
            "Answers to /predict by kind (interactive, open, retrieve, batch) and outcome",
            "kind",
            "outcome",
        )
        self.stage_seconds = self._histogram(
            "sam2_stage_seconds",
            "Time by stage: fetch, decode, encode, prompt, frame, track, answer, load",
            "stage",
        )
        self.queue_wait_seconds = self._histogram(
            "sam2_queue_wait_seconds",
            "Time a job waited for the model, by priority (click, track, retrieve, prefetch)",
            "priority",
        )
        self.embedding_lookups = self._counter(
            "sam2_embedding_lookups_total",
            "Embedding cache look-ups by outcome (hit, joined, miss)",
            "outcome",
        )
        self.frames_tracked = self._counter(
            "sam2_frames_tracked_total", "Frames that objects were tracked through"
        )
        self.out_of_memory = self._counter(
            "sam2_out_of_memory_total",
            "Times the model's device had no memory left, by what was done (retried, refused)",
            "outcome",
        )
        self.webhooks = self._counter(
            "sam2_webhooks_total", "Label Studio webhooks by action", "action"
        )
        self.load_seconds = Gauge(
            "sam2_model_load_seconds", "Time the model took to load", registry=self.registry
        )

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Export ``read()`` as gauge ``name``; it is called at every scrape."""
        Gauge(name, text, registry=self.registry).set_function(read)

    def gauges(
        self, name: str, text: str, label: str, read: Callable[[], Mapping[str, float]]
    ) -> None:
        """Export ``read()`` as gauges called ``name``, one for each value of ``label``."""

        def collect() -> Iterable[Metric]:
            family = GaugeMetricFamily(name, text, labels=[label])
            for value, number in read().items():
                family.add_metric([value], number)
            yield family

        self.registry.register(_Collector(collect))

    def counter(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Export ``read()``, which must never fall, as counter ``name`` (with ``_total``)."""

        def collect() -> Iterable[Metric]:
            yield CounterMetricFamily(name, text, value=read())

        self.registry.register(_Collector(collect))

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Observe the time of the block as stage ``name``, also when it raises."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.stage_seconds.labels(name).observe(time.perf_counter() - start)

    def exposition(self) -> bytes:
        """The registry in Prometheus' text format."""
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, label: str) -> Histogram:
        return Histogram(name, text, [label], buckets=LATENCY_BUCKETS, registry=self.registry)


class _Collector:
    """What a registry asks at every scrape."""

    def __init__(self, collect: Callable[[], Iterable[Metric]]) -> None:
        self.collect = collect
