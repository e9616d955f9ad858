"""Log lines: two forms, each with its request, none with a secret."""

from __future__ import annotations

import io
import json
import logging
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from backend.expected import ExpectedError
from backend.logs import HIDDEN, JsonFormatter, Redactor, TextFormatter, request_id
from backend.threads.caller import keep_caller, serving
from tests.waiting import PATIENCE

ROOT = Path(__file__).resolve().parents[2]
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJzYW0ifQ.c2lnbmF0dXJl"


@pytest.fixture
def written():
    """A logger, and a function that gives the lines written in a form."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    log = logging.Logger("backend.test")
    log.addHandler(handler)

    def use(formatter):
        handler.setFormatter(formatter(Redactor(["s3cret-value"])))
        return log, stream

    return use


def test_json_lines_hold_the_request_and_the_job(written):
    log, stream = written(JsonFormatter)
    with serving(request_id="r-1", project="1.100"), serving(job="j-1"):
        log.warning("task %s: no mask", 7, extra={"fields": {"route": "predict", "ms": 12}})
    log.info("later")
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert first["message"] == "task 7: no mask"
    assert (first["request_id"], first["project"], first["job"]) == ("r-1", "1.100", "j-1")
    assert (first["level"], first["route"], first["ms"]) == ("WARNING", "predict", 12)
    assert first["time"].endswith("Z")
    assert "request_id" not in second


def test_one_event_is_one_line(written):
    log, stream = written(JsonFormatter)
    try:
        raise ValueError("two\nlines")
    except ValueError:
        log.exception("broken\nin two")
    [line] = stream.getvalue().splitlines()
    assert "ValueError" in json.loads(line)["exception"]


def test_a_message_cannot_forge_a_line_of_text(written):
    log, stream = written(TextFormatter)
    with serving(request_id="r-1"):
        log.info("task x\n2026-01-01 INFO forged: line")
    assert len(stream.getvalue().splitlines()) == 1
    log.info("task \x1b[2K\x00 of %r", "\ud800")
    assert "request_id=r-1" in stream.getvalue()
    assert stream.getvalue().replace("\n", "").isprintable()


FORGED = [
    "1.1\n2026-01-01T00:00:00.000Z ERROR backend.access: forged",
    "1.1\r\x1b[2K\x1b[1A2026-01-01 ERROR forged",
    "1.1] forged [job=j-2",
    "1.1 job=j-2",
    '1.1" job="j-2',
    "1.1\x85\u2028\u2029\x9b2J\x7f\x0b\x0c\x1c",
    "1.1\ud800\U000e0001",
]


@pytest.mark.parametrize("form", [JsonFormatter, TextFormatter])
@pytest.mark.parametrize("name", FORGED)
@pytest.mark.parametrize("place", ["project", "field", "message", "exception"])
def test_nothing_that_is_sent_looks_like_a_line_of_its_own(written, form, name, place):
    log, stream = written(form)
    with serving(request_id="r-1", project=name if place == "project" else "1.1"):
        try:
            raise ValueError(name if place == "exception" else "broken")
        except ValueError:
            fields = {"route": name if place == "field" else "predict"}
            log.warning(
                "said %s",
                name if place == "message" else "nothing",
                exc_info=place == "exception",
                extra={"fields": fields},
            )
    first, *rest = stream.getvalue().removesuffix("\n").split("\n")
    assert all(line.isprintable() for line in (first, *rest))
    assert all(line.startswith("    ") for line in rest)
    if form is JsonFormatter:
        assert json.loads(first).get("job") is None
    else:
        unquoted = re.sub(r'"(\\.|[^"\\])*"', "quoted", first)
        assert place == "message" or "job=" not in unquoted


@pytest.mark.parametrize("form", [JsonFormatter, TextFormatter])
@pytest.mark.parametrize(
    "secret",
    [
        "https://bucket.s3.amazonaws.com/a.png?X-Amz-Signature=abc123def&X-Amz-Date=1",
        "Max retries exceeded with url: /data/a.png?token=abc123def (Caused by timeout)",
        "Authorization: Token abc123def0000",
        "{'Authorization': 'Bearer abc123def0000'}",
        "Basic abc123def0000==",
        "http://user:abc123def@proxy:3128/",
        f"refresh {JWT}",
        "what the operator set: s3cret-value",
    ],
)
def test_secrets_are_struck_out_of_messages_and_tracebacks(written, form, secret):
    log, stream = written(form)
    log.warning("fetch failed: %s", secret)
    try:
        raise RuntimeError(secret)
    except RuntimeError:
        log.exception("failed")
    shown = stream.getvalue()
    assert HIDDEN in shown
    for part in ("abc123def", JWT, "s3cret-value"):
        assert part not in shown


def test_the_hub_client_does_not_log_addresses():
    code = """
import logging
from huggingface_hub import get_session
from backend.logs import configure
from backend.settings import Settings
configure(Settings(log_level="DEBUG"))
logging.getLogger("backend").debug("heard")
for part in type(get_session()).__mro__[:-1]:
    logging.getLogger(part.__module__.partition(".")[0]).info("GET https://hub.example/weights")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "heard" in done.stderr
    assert "hub.example" not in done.stderr


def test_the_worst_texts_cost_what_their_length_says():
    """In a process of its own, as the pattern that is quadratic in one of these holds up everything
    for an hour."""
    command = [sys.executable, "-m", "benchmarks.load.log_lines"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert "web tokens with points" in done.stdout, done.stderr


SECRET = "abc123def456ghi789"
KINDS = {
    "known": SECRET,
    "known, in words": f"my {SECRET} words",
    "token": f"Bearer {SECRET}",
    "query": f"https://h/a.png?x=1&sig={SECRET}",
    "query, its value far behind": f"https://h/a.png?{SECRET}&x=1",
    "password": f"http://u:{SECRET}@h/",
    "web token": f"eyJ{SECRET}.{SECRET}.{SECRET}",
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_secret_that_is_cut_in_half_does_not_leave_a_half(kind):
    redact, secret = Redactor([SECRET, f"my {SECRET} words"]), KINDS[kind]
    words, long = "word " * 4_000, " more" * 4_000
    for inside in range(len(secret) + 2):
        begins = f"{words[: 4096 - inside]}\n{secret} end{long}"
        ends = f"{long} {secret} {words[: 12288 - inside]}"
        for shown in (redact(begins), redact.traceback(begins), redact.traceback(ends)):
            assert not any(SECRET[at : at + 4] in shown for at in range(len(SECRET) - 3))
            assert len(shown) < 20_000


def test_a_long_line_is_cut_and_a_long_traceback_keeps_its_end(written):
    log, stream = written(JsonFormatter)
    try:
        raise ValueError("a word " * 100_000 + "and the end")
    except ValueError:
        log.exception("task %s: no mask", "very long " * 100_000)
    [line] = stream.getvalue().splitlines()
    assert len(line) < 30_000
    parts = json.loads(line)
    assert parts["message"].startswith("task very long")
    assert "[cut, 1000014 characters]" in parts["message"]
    assert parts["exception"].startswith("Traceback")
    assert parts["exception"].endswith("and the end")


def test_what_users_wrote_makes_no_long_sentence():
    error = ExpectedError("label " + "x y" * 100_000 + " is not in the config")
    assert str(error).startswith("label x yx")
    assert len(str(error)) < 2_100


def test_ordinary_sentences_are_left_alone():
    text = "is it there? yes = no; s3://bucket/a.png; http://ls:8080/data/upload/1/a b.png"
    assert Redactor()(text) == text


@pytest.mark.parametrize("given", [None, "", "a b", "x\r\nSet-Cookie: y", "é", "x" * 129])
def test_an_unusable_request_id_is_replaced(given):
    made = request_id(given)
    assert made != given
    assert len(made) == 16


def test_a_usable_request_id_is_kept():
    assert request_id("4bf92f35-77b3.1:a") == "4bf92f35-77b3.1:a"


def test_the_caller_goes_along_into_threads_and_does_not_stay():
    seen = []

    def look():
        from backend.threads.caller import caller

        seen.append(caller().request_id)

    with serving(request_id="r-2"):
        calls = [keep_caller(look), look]
    for call in calls:
        thread = threading.Thread(target=call)
        thread.start()
        thread.join(PATIENCE)
    assert seen == ["r-2", ""]
