"""The body of /setup."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.labelstudio.setup_request import SetupError, parse_setup
from tests.labelstudio import captured

SCHEMA = '<View><Image name="i" value="$i"/></View>'


def test_a_recorded_setup():
    [body] = list(captured.setups(captured.load("01_connect_sequence")))[:1]
    setup = parse_setup(body)
    assert setup.project == "3.1795326611"
    assert setup.label_config.startswith("<View>")


@pytest.mark.parametrize(
    ("project", "name"), [("4.1795326642", "4.1795326642"), (4, "4"), (None, ""), ([], "")]
)
def test_project(project, name):
    assert parse_setup({"schema": SCHEMA, "project": project}).project == name


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (None, "not a JSON object"),
        ([], "not a JSON object"),
        ({}, "no label config"),
        ({"schema": None}, "no label config"),
        ({"schema": " "}, "no label config"),
        ({"schema": {}}, "no label config"),
    ],
)
def test_what_is_no_setup_says_so(body, message):
    with pytest.raises(SetupError, match=message) as raised:
        parse_setup(body)
    assert "\n" not in str(raised.value)


def test_the_token_stays_out_of_logs():
    setup = parse_setup({"schema": SCHEMA, "project": "1.2", "access_token": "s3cr3t-token"})
    assert "s3cr3t" not in repr(setup)


KEYS = ["project", "schema", "hostname", "access_token", "extra_params"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@given(JSON | st.fixed_dictionaries({}, optional=dict.fromkeys(KEYS, JSON)))
def test_any_json_is_a_setup_or_a_setup_error(body):
    with contextlib.suppress(SetupError):
        parse_setup(body)
