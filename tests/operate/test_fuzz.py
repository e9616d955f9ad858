"""Bodies that nobody should send: never a 5xx. ``benchmarks/load/fuzz.py`` sends 10,000."""

from __future__ import annotations

import json
from itertools import islice

import pytest
from hypothesis import HealthCheck, given, settings

from benchmarks.support.fuzz_bodies import ROUTES, Mutator, arbitrary, like_requests, recorded
from tests.backend.conftest import CONFIG
from tests.waiting import PATIENCE

SLOW = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]


def send(bench, route, data):
    reply = bench.client.post(route, data=data, content_type="application/json")
    assert reply.status_code < 500, data[:2000]


@pytest.mark.parametrize("route", ROUTES)
def test_mutations_of_what_label_studio_sent(bench, route, caplog):
    bench.engine.wait_ready(PATIENCE)
    seeds = recorded(route) or recorded("/predict")
    for data in islice(Mutator(seeds, seed=1, addresses=["/data/upload/1/a.png"]), 150):
        send(bench, route, data)
    assert "Traceback" not in caplog.text


@settings(max_examples=60, deadline=None, suppress_health_check=SLOW)
@given(body=arbitrary() | like_requests([CONFIG]))
def test_arbitrary_json(bench, body):
    for route in ROUTES:
        send(bench, route, json.dumps(body).encode())


def test_the_recorded_requests_are_found():
    assert len(recorded("/predict")) > 20
    assert recorded("/setup")
