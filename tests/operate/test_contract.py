"""The service does what its own OpenAPI document says, for requests made from that document."""

from __future__ import annotations

import json

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from openapi_spec_validator import validate
from schemathesis.specs.openapi.checks import positive_data_acceptance

from backend.web.app import DESCRIPTION
from tests.waiting import PATIENCE

HEADERS = {"Authorization": "Bearer t0ken"}


@pytest.fixture
def api(make_bench):
    bench = make_bench(auth_token="t0ken")
    bench.engine.wait_ready(PATIENCE)
    bench.store.add_job("abc", "track", "digest", {"project": "1.1", "task": {"id": 7}})
    return schemathesis.openapi.from_wsgi(
        "/openapi.json", bench.client.application, headers=HEADERS
    )


schema = schemathesis.pytest.from_fixture("api")


@pytest.mark.slow
@schema.parametrize()
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_every_operation(case):
    # A label config is a string to OpenAPI, and most strings are none.
    case.call_and_validate(headers=HEADERS, excluded_checks=[positive_data_acceptance])


def test_the_document_is_valid():
    validate(json.loads(DESCRIPTION.read_bytes()))
