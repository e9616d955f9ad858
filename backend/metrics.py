"""What the service counts, for Prometheus. One object per application, no globals."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 1, 2, 5, 10, 20, 50, 100)


MINUTES = 60
_KEPT_A_MINUTE = 500


@dataclass(frozen=True)
class Minute:
    """What happened in a minute that began at ``at``, seconds since 1970; how long half of it and
    19 in 20 took at most, None where nothing happened."""

    at: float
    count: int
    median: float | None
    p95: float | None


class LastHour:
    """How often something happened in each of the last 60 minutes, and how long it took: some
    hundreds of durations a minute are kept, the newest ones."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._minutes: dict[int, tuple[int, list[float]]] = {}

    def observe(self, seconds: float) -> None:
        """It happened just now."""
        now = int(self._clock() // 60)
        with self._lock:
            count, kept = self._minutes.get(now, (0, []))
            if len(kept) < _KEPT_A_MINUTE:
                kept.append(seconds)
            else:
                kept[count % _KEPT_A_MINUTE] = seconds
            self._minutes[now] = count + 1, kept
            for old in [each for each in self._minutes if each <= now - MINUTES]:
                del self._minutes[old]

    def minutes(self) -> list[Minute]:
        """Each of the last 60, the one under way included."""
        now = int(self._clock() // 60)
        with self._lock:
            found = {each: (count, sorted(kept)) for each, (count, kept) in self._minutes.items()}
        return [
            Minute(60.0 * each, count, percentile(kept, 0.5), percentile(kept, 0.95))
            for each in range(now - MINUTES + 1, now + 1)
            for count, kept in [found.get(each, (0, []))]
        ]

    def whole(self) -> Minute:
        """The hour as if it were one minute, by the durations that are kept."""
        now = int(self._clock() // 60)
        with self._lock:
            found = [each for at, each in self._minutes.items() if at > now - MINUTES]
        kept = sorted(seconds for _, every in found for seconds in every)
        count = sum(number for number, _ in found)
        at = 60.0 * (now - MINUTES + 1)
        return Minute(at, count, percentile(kept, 0.5), percentile(kept, 0.95))


def percentile(ascending: list[float], share: float) -> float | None:
    """The value that ``share`` of all are not above; None of none."""
    return ascending[min(len(ascending) - 1, int(len(ascending) * share))] if ascending else None


class Metrics:
    """Counters, gauges and histograms of one service, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.clicks = LastHour()  # clicks and boxes that got an answer; for the overview
        self.device = ""  # where the model computes, and in which numbers; for the overview
        self._readings: dict[str, Callable[[], Mapping[str, float]]] = {}
        self._others: Callable[[], Iterable[Metric]] = tuple
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
            "Time by stage: fetch, decode, encode, prompt, everything, detect, frame, track, "
            "answer, load",
            "stage",
        )
        self.queue_wait_seconds = self._histogram(
            "sam2_queue_wait_seconds",
            "Time a job waited for the model, by priority (click, track, retrieve, prefetch, run)",
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
        """Export ``read()`` as gauges called ``name``, one for each value of ``label``; it is what
        ``reading`` gives, too."""
        self._readings[name] = read

        def collect() -> Iterable[Metric]:
            family = GaugeMetricFamily(name, text, labels=[label])
            for value, number in read().items():
                family.add_metric([value], number)
            yield family

        self.registry.register(_Collector(collect))

    def reading(self, name: str) -> Mapping[str, float]:
        """What the gauges called ``name`` show now, by label; empty where there are none."""
        read = self._readings.get(name)
        return {} if read is None else read()

    def counter(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Export ``read()``, which must never fall, as counter ``name`` (with ``_total``)."""

        def collect() -> Iterable[Metric]:
            yield CounterMetricFamily(name, text, value=read())

        self.registry.register(_Collector(collect))

    def others(self, read: Callable[[], Iterable[Metric]]) -> None:
        """Show what other processes count too, asked at every scrape."""
        self._others = read

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Observe the time of the block as stage ``name``, also when it raises."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.stage_seconds.labels(name).observe(time.perf_counter() - start)

    def mean_seconds(self, stage: str) -> float | None:
        """How long a stage has taken since the start; None where there was none."""
        found = {
            sample.name.rpartition("_")[2]: sample.value
            for metric in self.stage_seconds.collect()
            for sample in metric.samples
            if sample.labels.get("stage") == stage and "le" not in sample.labels
        }
        return found["sum"] / found["count"] if found.get("count") else None

    def exposition(self) -> bytes:
        """The registry in Prometheus' text format, with what others count."""
        families: dict[str, Metric] = {}
        for family in (*self.registry.collect(), *self._others()):
            if (known := families.setdefault(family.name, family)) is not family:
                known.samples.extend(family.samples)
        return generate_latest(_Collector(families.values))

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, label: str) -> Histogram:
        return Histogram(name, text, [label], buckets=LATENCY_BUCKETS, registry=self.registry)


class _Collector:
    """What a registry asks at every scrape."""

    def __init__(self, collect: Callable[[], Iterable[Metric]]) -> None:
        self.collect = collect
