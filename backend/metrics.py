"""What the service counts, for Prometheus. One object per application, no globals."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 1, 2, 5, 10, 20, 50, 100)


class Metrics:
    """Counters, gauges and histograms of one service, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "sam2_requests_total", "HTTP requests", ["route", "status"], registry=self.registry
        )
        self.request_seconds = Histogram(
            "sam2_request_seconds",
            "Time from request to reply",
            ["route"],
            buckets=LATENCY_BUCKETS,
            registry=self.registry,
        )
        self.predictions = Counter(
            "sam2_predictions_total",
            "Answers to /predict by kind (click, command, open, retrieve) and outcome",
            ["kind", "outcome"],
            registry=self.registry,
        )
        self.stage_seconds = Histogram(
            "sam2_stage_seconds",
            "Time by stage: fetch, decode, encode, prompt, answer, load",
            ["stage"],
            buckets=LATENCY_BUCKETS,
            registry=self.registry,
        )
        self.embedding_lookups = Counter(
            "sam2_embedding_lookups_total",
            "Embedding cache look-ups by outcome (hit, joined, miss)",
            ["outcome"],
            registry=self.registry,
        )
        self.webhooks = Counter(
            "sam2_webhooks_total",
            "Label Studio webhooks by action",
            ["action"],
            registry=self.registry,
        )

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Export ``read()`` as gauge ``name``; it is called at every scrape."""
        Gauge(name, text, registry=self.registry).set_function(read)

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
