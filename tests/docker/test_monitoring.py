"""Dashboard and alerts ask for metrics that there are, by labels that they have."""

from __future__ import annotations

import json
from pathlib import Path

import promql_parser
import pytest
import yaml

from backend.runs.runs import open_runs
from backend.settings import Settings
from backend.wiring import Wiring

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana/dashboards/sam2.json").read_text(encoding="utf-8"))
ALERTS = yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text(encoding="utf-8"))
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]
QUERIES = [
    *(
        pytest.param(target["expr"], id=panel["title"])
        for panel in DASHBOARD["panels"]
        for target in panel["targets"]
    ),
    *(pytest.param(rule["expr"], id=rule["alert"]) for rule in RULES),
]
OTHERS = {"up": {"job"}}  # Prometheus' own


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """By name: the labels of every series that the service exports or will export."""
    folder = tmp_path_factory.mktemp("service")
    wiring = Wiring(Settings(cache_dir=folder / "cache", state_dir=folder / "state"))
    metrics = wiring.metrics
    service = wiring.service(wiring.engine())
    open_runs(wiring, service)
    try:
        service.engine.wait_ready(120)
        metrics.stage_seconds.labels("fetch").observe(1)
        names = {}
        for family in metrics.registry.collect():
            labels = set()
            for sample in family.samples:
                labels |= set(sample.labels)
            suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}
            for suffix in suffixes.get(family.type, [""]):
                names[family.name + suffix] = labels | _declared(metrics, family.name)
    finally:
        service.close()
    return names


def _declared(metrics, name):
    """Labels of a metric that has no series yet."""
    found = set()
    for collector in metrics.registry._collector_to_names:
        if getattr(collector, "_name", None) == name:
            found = set(collector._labelnames)
            if type(collector).__name__ == "Histogram":
                found.add("le")
    return found


def selectors(node):
    """Every metric that an expression asks for, with the labels it chooses by."""
    kind = type(node).__name__
    if kind == "VectorSelector":
        yield node.name, {matcher.name for matcher in node.matchers.matchers}
    for part in ("lhs", "rhs", "expr", "vector_selector", "vs", "param"):
        inner = getattr(node, part, None)
        if isinstance(inner, promql_parser.Expr):
            yield from selectors(inner)
    for argument in getattr(node, "args", None) or []:
        yield from selectors(argument)


def parsed(query):
    return promql_parser.parse(query.replace("$__rate_interval", "5m"))


@pytest.mark.parametrize("query", QUERIES)
def test_it_asks_for_what_is_exported(query, exported):
    asked = list(selectors(parsed(query)))
    assert asked, "no metric in it"
    for name, labels in asked:
        known = OTHERS.get(name, exported.get(name))
        assert known is not None, f"{name} is not exported"
        assert labels <= known, name


def test_a_name_that_is_not_exported_would_be_found(exported):
    [(name, _)] = selectors(parsed("rate(sam2_request_total[5m])"))
    assert name not in exported


def test_the_dashboard_shows_everything_that_was_promised(exported):
    shown = {name for query in QUERIES for name, _ in selectors(parsed(query.values[0]))}
    for name in (
        "sam2_requests_total",
        "sam2_stage_seconds_bucket",
        "sam2_queue_depth",
        "sam2_queue_wait_seconds_bucket",
        "sam2_embedding_lookups_total",
        "sam2_embedding_cache_bytes",
        "sam2_embedding_cache_evictions_total",
        "sam2_media_hits_total",
        "sam2_media_cache_bytes",
        "sam2_media_evictions_total",
        "sam2_frames_tracked_total",
        "sam2_jobs",
        "sam2_media_bytes_fetched_total",
        "sam2_device_memory_bytes",
        "sam2_model_load_seconds",
    ):
        assert name in shown
        assert name in exported


def test_panels_do_not_overlap():
    taken = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells


def test_prometheus_scrapes_the_service_with_its_token():
    config = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text(encoding="utf-8"))
    [job] = config["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["backend:9090"]}]
    assert job["authorization"]["credentials_file"] == "/run/secrets/auth_token"
    assert config["rule_files"] == ["/etc/prometheus/alerts.yml"]


@pytest.mark.parametrize(
    "rule",
    [rule for group in ALERTS["groups"] for rule in group["rules"]],
    ids=lambda r: r["alert"],
)
def test_an_alert_says_what_to_do(rule):
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert rule["annotations"]["summary"]
    assert rule["annotations"]["description"]
