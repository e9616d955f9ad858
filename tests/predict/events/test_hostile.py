"""Contexts that hold anything, in any order, and editors that open too much."""

from __future__ import annotations

import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.pixels.open_videos import MAX_OPEN
from backend.predict.events.editor_videos import IDLE_SECONDS
from backend.predict.events.messages import Event
from tests.predict.events.conftest import Editor, box, point
from tests.waiting import LONGER, PATIENCE, until

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=8,
)
NUMBERS = st.sampled_from([0, 1, 50, 100, -1, 1e9, "5", None, [], True])
VALUES = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("x", "y", "width", "height", "rotation", "frame", "time_ms"), NUMBERS),
        "positive": st.sampled_from([True, False, 0, "false", None, {}]),
        "object_id": st.sampled_from(["a", "b", 3, "\ud800", "x" * 9999, None, []]),
        "labels": JSON,
    },
)
ITEMS = st.fixed_dictionaries(
    {"type": st.sampled_from(["keypointlabels", "rectanglelabels", "x", None, 3]), "value": VALUES}
)
CONTEXTS = st.fixed_dictionaries(
    {"event": st.sampled_from([*Event, "x", None])},
    optional={
        "result": st.lists(ITEMS | JSON, max_size=5) | JSON,
        "session_id": st.text(max_size=5) | JSON,
        **dict.fromkeys(
            ("frame", "time_ms", "window", "max_frames", "max_duration_ms", "cursor"),
            NUMBERS | JSON,
        ),
        "direction": st.sampled_from(["forward", "backward", "both"]) | JSON,
    },
)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr("backend.predict.events.sessions.WAIT_SECONDS", 0.01)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(contexts=st.lists(CONTEXTS, max_size=4))
def test_any_context_gets_a_reply_and_the_service_goes_on(quick, editor, caplog, contexts):
    for context in contexts:
        [prediction] = editor.post(context)["results"]
        assert isinstance(prediction["result"], list)
        for item in prediction["result"]:
            assert isinstance(item["value"], dict)
    assert "could not be answered" not in caplog.text
    assert "failed" not in caplog.text


@pytest.mark.parametrize(
    "events",
    [
        ["release", "track_progress", "track_cancel", "predict", "release"],
        ["track_cancel", "track", "release", "track_progress", "track", "track_cancel"],
        ["prewarm", "release", "prewarm", "track", "prewarm", "predict", "track_progress"],
        ["track", "track", "predict", "track_cancel", "track_progress", "capabilities"],
    ],
)
def test_events_in_any_order(quick, editor, events):
    session = "none"
    for event in events:
        prediction = editor.send(event, time_ms=0, session_id=session, result=[point(50, 50)])
        [item] = prediction["result"]
        session = item["value"].get("session_id", session)


def test_open_videos_are_bounded_and_the_idle_go_first(bench):
    editors = [Editor(bench, task=number) for number in range(MAX_OPEN + 3)]
    for editor in editors:
        bench.now += 1
        assert editor.send("predict", time_ms=0, result=[point(50, 50)])["result"]
        assert len(bench.protocol.videos) <= MAX_OPEN
    held = {task for (_, task), _ in bench.protocol.videos._open}
    assert held == {str(number) for number in range(3, MAX_OPEN + 3)}
    bench.now += IDLE_SECONDS + 1
    bench.protocol.expire()
    assert len(bench.protocol.videos) == 0


def test_a_video_in_use_is_not_closed(bench):
    """While the first frame of a request is encoded, other editors open videos, and this one's are
    released; its second frame is decoded all the same."""
    bench.predictor.hold.clear()
    editor = Editor(bench, task="first")
    replies = []

    def click():
        prompts = [point(50, 50, frame=1), point(50, 50, frame=20)]
        replies.append(editor.send("predict", result=prompts))

    thread = threading.Thread(target=click)
    thread.start()
    until(bench.predictor.entered.is_set)
    for number in range(MAX_OPEN + 1):
        Editor(bench, task=number).value("prewarm", time_ms=900, window=0)
    Editor(bench, task="first").send("release")
    bench.predictor.hold.set()
    thread.join(PATIENCE)
    frames = [item["value"]["frame"] for item in replies[0]["result"]]
    assert frames == [0, 19], replies[0]


def test_editors_that_open_one_video_together_share_it(bench):
    fetch = bench.shelf.fetch
    gate = threading.Event()

    def slow(uri, *, task_id=None):
        assert gate.wait(LONGER)
        return fetch(uri, task_id=task_id)

    bench.shelf.fetch = slow
    replies = []

    def click(number):
        at = [point(10 * number, 50)]
        replies.append(Editor(bench).send("predict", time_ms=0, result=at))

    threads = [threading.Thread(target=click, args=(number,)) for number in range(1, 5)]
    for thread in threads:
        thread.start()
    gate.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(bench.protocol.videos) == 1
    assert all(reply["result"] for reply in replies)


def test_a_video_that_is_slow_to_arrive_is_told_of_and_found_later(start):
    bench = start(click_budget_seconds=0.2)
    fetch, gate = bench.shelf.fetch, threading.Event()

    def slow(uri, *, task_id=None):
        assert gate.wait(LONGER)
        return fetch(uri, task_id=task_id)

    bench.shelf.fetch = slow
    editor = Editor(bench)
    late = editor.send("predict", time_ms=0, result=[point(50, 50)])
    assert "downloaded" in late["error"]
    assert len(bench.protocol.videos) == 0
    gate.set()
    until(lambda: editor.send("predict", time_ms=0, result=[box(50, 50, 9, 9)])["result"])
