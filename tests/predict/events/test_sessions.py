"""Tracks: started, read by cursor, cancelled, released, abandoned, taken up after a restart."""

from __future__ import annotations

import threading

import pytest

from backend.job_state import JobState
from backend.pixels.video_limits import VideoError
from backend.tracking.database import StoreError
from tests.pixels.clips import HEIGHT, WIDTH
from tests.predict.events.conftest import FRAMES, Editor, box, left_of, mask_of, point
from tests.waiting import PATIENCE, until


class Breaking:
    """Frames that cannot be read from 12 on."""

    def __init__(self, read, count):
        self.read, self.count = read, count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index >= 12:
            raise VideoError("broken at 12")
        return self.read(index)


def numbers(frames):
    return [frame["frame"] for frame in frames]


class TestTrack:
    def test_forward_from_the_frame_on_screen(self, editor):
        value = editor.value("track", time_ms=502, result=[box(10, 10, 20, 20)])
        assert value["total_frames"] == FRAMES - 15
        assert value["fps"] == pytest.approx(30)
        assert value["duration_ms"] == pytest.approx(1000, abs=40)
        frames, last = editor.read_all(value["session_id"])
        assert numbers(frames) == list(range(15, FRAMES))
        assert (last["produced"], last["total"], last["error"]) == (15, 15, None)
        start = left_of(frames[0])
        assert [left_of(frame) - start for frame in frames] == list(range(15))
        assert [f["time_ms"] for f in frames] == pytest.approx(
            [index * 1000 / 30 for index in range(15, FRAMES)], abs=0.1
        )

    def test_decoded_in_a_process_of_its_own(self, decoding_process, editor):
        frames, _ = editor.read_all(editor.track(box(10, 10, 20, 20)))
        assert numbers(frames) == list(range(FRAMES))
        assert editor.send("predict", time_ms=402, result=[point(50, 50)])["result"]

    def test_backward(self, editor):
        session = editor.track(box(40, 10, 20, 20), time_ms=502, direction="backward")
        assert numbers(editor.read_all(session)[0]) == list(range(15, -1, -1))

    def test_both_ways_with_the_prompted_frame_once(self, editor):
        session = editor.track(box(40, 10, 20, 20), time_ms=502, direction="both")
        frames, last = editor.read_all(session)
        assert numbers(frames) == [*range(15, FRAMES), *range(14, -1, -1)]
        assert last["total"] == FRAMES

    @pytest.mark.parametrize(
        ("reach", "count"),
        [
            ({"max_frames": 4}, 5),
            ({"max_duration_ms": 100}, 4),
            ({"max_duration_ms": 100, "max_frames": 20}, 4),
            ({"max_frames": 0}, 1),
            ({"max_frames": 10**12}, 20),
            ({"max_duration_ms": 1e300}, 20),
            ({"max_duration_ms": -1}, 1),
            ({"max_frames": "soon", "direction": ["sideways"]}, 20),
            ({}, 20),
        ],
    )
    def test_how_far(self, editor, reach, count):
        session = editor.track(point(50, 50), time_ms=335, **reach)
        frames, last = editor.read_all(session)
        assert numbers(frames) == list(range(10, 10 + count))
        assert last["total"] == count

    def test_the_last_frame(self, editor):
        for direction, count in (("forward", 1), ("backward", FRAMES), ("both", FRAMES)):
            session = editor.track(point(50, 50), time_ms=10**6, direction=direction)
            assert len(editor.read_all(session)[0]) == count

    def test_several_objects_with_their_labels(self, editor):
        session = editor.track(
            box(10, 10, 20, 20, object_id="a", rectanglelabels=["Ball"]),
            box(60, 60, 20, 20, object_id="b", rectanglelabels=["Car"]),
        )
        frames, last = editor.read_all(session)
        assert last["total"] == FRAMES
        assert len(frames) == 2 * FRAMES
        tracks = {name: [f for f in frames if f["object_id"] == name] for name in "ab"}
        assert all(numbers(track) == list(range(FRAMES)) for track in tracks.values())
        assert tracks["a"][0]["labels"] == ["Ball"] and tracks["b"][9]["labels"] == ["Car"]
        assert mask_of(tracks["a"][0]).argmax() < mask_of(tracks["b"][0]).argmax()

    def test_points_and_box_work_together(self, editor):
        """The example's track takes the points and drops the box."""
        session = editor.track(
            box(10, 10, 20, 20), point(80, 80), point(12, 12, positive=False), max_frames=0
        )
        [frame], _ = editor.read_all(session)
        mask = mask_of(frame)
        assert mask[int(0.8 * HEIGHT), int(0.8 * WIDTH)]  # the point
        assert mask[int(0.29 * HEIGHT), int(0.29 * WIDTH)]  # the box
        assert not mask[int(0.12 * HEIGHT), int(0.12 * WIDTH)]

    def test_a_prompt_on_another_frame_rules_from_there(self, editor):
        session = editor.track(box(10, 10, 20, 20), box(50, 10, 20, 20, frame=11))
        frames, _ = editor.read_all(session)
        assert numbers(frames) == list(range(FRAMES))
        assert left_of(frames[9]) == pytest.approx(0.1 * WIDTH + 9, abs=1)
        assert left_of(frames[10]) == pytest.approx(0.5 * WIDTH, abs=1)

    def test_an_object_that_joins_late(self, editor):
        session = editor.track(
            box(10, 10, 20, 20, object_id="a"),
            box(50, 10, 20, 20, object_id="b", frame=21),
            direction="forward",
        )
        frames, last = editor.read_all(session)
        late = [frame for frame in frames if frame["object_id"] == "b"]
        assert numbers(late) == list(range(20, FRAMES))
        assert last["total"] == FRAMES

    def test_backward_from_two_neighbouring_prompts(self, editor):
        session = editor.track(
            box(50, 10, 20, 20, frame=4),
            box(50, 10, 20, 20, frame=5),
            box(60, 10, 20, 20, frame=10),
            direction="backward",
        )
        assert numbers(editor.read_all(session)[0]) == list(range(9, -1, -1))

    def test_frames_without_the_object_are_named_apart(self, editor, bench):
        """The example ends the track when the object is lost; here it goes on."""
        real = bench.engine.open_tracker

        def losing(frames):
            tracker = real(frames)
            inner = tracker._tracker._tracker
            moved = inner._moved
            inner._moved = lambda prompts, frame, reverse: (
                moved(prompts, frame, reverse) & (not 5 <= frame < 12)
            )
            return tracker

        bench.engine.open_tracker = losing
        session = editor.track(box(10, 10, 20, 20))
        reply = editor.value("track_progress", session_id=session, cursor=0)
        while not reply["done"]:
            reply = editor.value("track_progress", session_id=session, cursor=0)
        assert numbers(reply["frames"]) == [*range(5), *range(12, FRAMES)]
        assert numbers(reply["absent"]) == list(range(5, 12))

    def test_the_same_request_joins_the_track_under_way(self, editor, bench):
        """Label Studio sends a request again when no reply came in time."""
        bench.track_hold.clear()
        first, second = (editor.track(point(50, 50)) for _ in range(2))
        bench.track_hold.set()
        assert first == second
        editor.read_all(first)
        assert bench.steps == list(range(FRAMES))

    def test_without_a_prompt_there_is_no_track(self, editor, bench):
        for result in ([], None, [point(5, 5, positive=False)], [{"value": 3}]):
            prediction = editor.send("track", time_ms=0, result=result)
            assert prediction["result"] == []
            assert prediction["error"]
        assert bench.store.jobs() == []

    def test_too_many_tracks(self, editor, bench):
        bench.track_hold.clear()
        for number in range(16):
            editor.track(point(50, number))
        refused = editor.send("track", time_ms=0, result=[point(50, 99)])
        assert refused["result"] == []
        assert "16 tracks are waiting" in refused["error"]
        editor.send("release")
        bench.track_hold.set()
        until(lambda: not bench.store.jobs(unfinished=True))
        assert editor.track(point(50, 99))


class TestProgress:
    def test_what_was_read_can_be_read_again(self, editor):
        session = editor.track(point(50, 50))
        frames, last = editor.read_all(session)
        assert last["cursor"] == FRAMES
        again = editor.value("track_progress", session_id=session, cursor=10)
        assert numbers(again["frames"]) == list(range(10, FRAMES))
        assert again["frames"] == frames[10:]
        assert again["done"]
        rest = editor.value("track_progress", session_id=session)
        assert (rest["frames"], rest["done"], rest["error"]) == ([], True, None)

    def test_a_lost_reply_loses_nothing(self, editor, bench):
        bench.track_hold.clear()
        session = editor.track(point(50, 50))
        seen, cursor, lost = [], 0, 0
        bench.track_hold.set()
        while True:
            value = editor.value("track_progress", session_id=session, cursor=cursor)
            if lost < 3 and value["frames"]:
                lost += 1  # the reply never arrived
                continue
            seen += numbers(value["frames"])
            cursor = value["cursor"]
            if value["done"]:
                break
        assert seen == list(range(FRAMES))

    def test_pages_are_bounded(self, editor, monkeypatch):
        monkeypatch.setattr("backend.predict.events.sessions.BATCH_FRAMES", 7)
        session = editor.track(point(50, 50))
        sizes, cursor = [], 0
        while True:
            value = editor.value("track_progress", session_id=session, cursor=cursor)
            sizes.append(len(value["frames"]))
            cursor = value["cursor"]
            if value["done"]:
                break
        assert max(sizes) == 7
        assert sum(sizes) == FRAMES

    def test_it_waits_for_the_first_frame_and_not_for_all(self, editor, bench):
        bench.track_hold.clear()
        session = editor.track(point(50, 50))
        threading.Timer(0.3, bench.track_hold.set).start()
        value = editor.value("track_progress", session_id=session, cursor=0)
        assert value["frames"]
        assert value["total"] == FRAMES

    def test_nothing_yet(self, editor, bench, monkeypatch):
        monkeypatch.setattr("backend.predict.events.sessions.WAIT_SECONDS", 0.2)
        bench.track_hold.clear()
        session = editor.track(point(50, 50))
        value = editor.value("track_progress", session_id=session)
        assert (value["frames"], value["done"], value["produced"]) == ([], False, 0)

    @pytest.mark.parametrize("cursor", [-4, "x", None, [], 2.5, True])
    def test_a_cursor_that_is_none(self, editor, cursor):
        session = editor.track(point(50, 50))
        seen = editor.value("track_progress", session_id=session, cursor=cursor)
        assert numbers(seen["frames"])[0] == 0

    def test_a_cursor_behind_the_end(self, editor):
        session = editor.track(point(50, 50))
        editor.read_all(session)
        value = editor.value("track_progress", session_id=session, cursor=10**15)
        assert (value["frames"], value["cursor"], value["done"]) == ([], FRAMES, True)

    @pytest.mark.parametrize("session", ["nope", "", None, 3, [], {"a": 1}, "'; --", "\ud800"])
    def test_no_such_session(self, editor, session):
        value = editor.value("track_progress", session_id=session)
        assert value == {"frames": [], "done": True, "error": "session not found"}

    def test_the_session_of_another_task_or_project(self, editor, bench):
        session = editor.track(point(50, 50))
        for stranger in (Editor(bench, task=10), Editor(bench, project="2.100")):
            assert stranger.value("track_progress", session_id=session)["error"]
            stranger.send("track_cancel", session_id=session)
            stranger.send("release", session_id=session)
            stranger.send("release")
        frames, last = editor.read_all(session)
        assert (len(frames), last["state"]) == (FRAMES, "done")

    def test_a_job_of_another_kind_is_no_session(self, editor, bench):
        job = bench.store.add_job("abc", "t", "d", {"project": "1.100", "task": {"id": 9}})
        assert editor.value("track_progress", session_id=job.id)["error"] == "session not found"

    def test_a_track_that_fails_says_why_after_its_frames(self, editor, bench):
        real = bench.engine.open_tracker

        def breaking(frames):
            tracker = real(frames)
            read = tracker._frames.__getitem__
            tracker._tracker._frames = Breaking(read, len(tracker._frames))
            return tracker

        bench.engine.open_tracker = breaking
        session = editor.track(point(50, 50))
        frames, last = editor.read_all(session)
        assert numbers(frames) == list(range(12))
        assert last["done"] and "broken at 12" in last["error"]

    def test_a_store_that_takes_nothing_more(self, editor, bench, monkeypatch):
        """The disk is full: neither masks nor the end of the job can be written."""

        def full(*args, **kwargs):
            raise StoreError("the disk is full")

        bench.track_hold.clear()
        session = editor.track(point(50, 50))
        until(lambda: bench.store.job(session).state is JobState.RUNNING)
        monkeypatch.setattr(bench.store, "put_masks", full)
        monkeypatch.setattr(bench.store, "update_job", full)
        bench.track_hold.set()
        frames, last = editor.read_all(session)
        assert (frames, last["error"]) == ([], "the disk is full")
        monkeypatch.setattr(bench.store, "add_job", full)
        refused = editor.send("track", time_ms=0, result=[point(20, 50)])
        assert (refused["result"], refused["error"]) == ([], "the disk is full")

    def test_another_reader_in_the_middle_of_a_reading_moves_no_cursor(
        self, editor, bench, monkeypatch
    ):
        monkeypatch.setattr("backend.predict.events.sessions.BATCH_FRAMES", 7)
        session = editor.track(point(50, 50))
        editor.read_all(session)
        others = []

        def clock():
            """Asked while a reading is noted down: another one comes in between."""
            if not others:
                others.append(None)
                value = Editor(bench).value("track_progress", session_id=session, cursor=20)
                others[0] = value["cursor"]
            return 0.0

        monkeypatch.setattr(bench.protocol.sessions, "_clock", clock)
        value = editor.value("track_progress", session_id=session, cursor=3)
        assert (numbers(value["frames"]), value["cursor"]) == (list(range(3, 10)), 10)
        assert others == [27]

    def test_many_readers_at_once(self, editor, bench):
        bench.track_hold.clear()
        session = editor.track(point(50, 50))
        results = []

        def read():
            cursor, seen = 0, []
            while True:
                own = Editor(bench)
                value = own.value("track_progress", session_id=session, cursor=cursor)
                seen += numbers(value["frames"])
                cursor = value["cursor"]
                if value["done"]:
                    results.append(seen)
                    return

        readers = [threading.Thread(target=read) for _ in range(6)]
        for reader in readers:
            reader.start()
        bench.track_hold.set()
        for reader in readers:
            reader.join(PATIENCE)
        assert results == [list(range(FRAMES))] * 6


class TestCancel:
    def test_it_ends_within_a_frame_and_keeps_what_is_done(self, editor, bench):
        bench.track_hold.clear()
        session = editor.track(point(50, 50))
        item = editor.send("track_cancel", session_id=session)["result"][0]
        assert (item["type"], item["value"]) == ("track_cancel_ack", {"status": "cancelled"})
        bench.track_hold.set()
        frames, last = editor.read_all(session)
        assert last["state"] == "cancelled"
        assert last["error"] is None
        assert len(bench.steps) <= 1
        assert len(frames) <= 1

    def test_one_that_waits_for_its_turn(self, editor, bench):
        bench.track_hold.clear()
        sessions = [editor.track(point(50, number)) for number in range(4)]
        editor.send("track_cancel", session_id=sessions[3])
        assert bench.store.job(sessions[3]).state is JobState.CANCELLED
        assert editor.value("track_progress", session_id=sessions[3])["done"]
        bench.track_hold.set()
        assert len(editor.read_all(sessions[2])[0]) == FRAMES

    @pytest.mark.parametrize("session", ["nope", "", None, 3, []])
    def test_nothing_to_cancel(self, editor, session):
        [item] = editor.send("track_cancel", session_id=session)["result"]
        assert item["value"] == {"status": "cancelled"}

    def test_twice_and_after_the_end(self, editor):
        session = editor.track(point(50, 50))
        frames, _ = editor.read_all(session)
        for _ in range(2):
            editor.send("track_cancel", session_id=session)
        value = editor.value("track_progress", session_id=session, cursor=0)
        assert (len(value["frames"]), value["state"]) == (len(frames), "done")

    def test_clicks_are_answered_between_two_frames(self, editor, bench):
        bench.track_hold.clear()
        editor.track(point(50, 50))
        until(lambda: bench.store.jobs()[0].state is JobState.RUNNING)
        release = threading.Timer(0.5, bench.track_hold.set)
        release.start()
        assert editor.send("predict", time_ms=0, result=[point(50, 50)])["result"]
        release.join()


class TestRelease:
    def test_tracks_and_videos_are_gone(self, editor, bench):
        bench.track_hold.clear()
        session = editor.track(point(50, 50))
        until(lambda: bench.store.job(session).state is JobState.RUNNING)
        editor.value("prewarm", time_ms=0)
        assert len(bench.protocol.videos) == 1
        item = editor.send("release")["result"][0]
        assert (item["type"], item["value"]) == ("release_ack", {"status": "released"})
        assert len(bench.protocol.videos) == 0
        assert editor.value("track_progress", session_id=session)["error"] == "session not found"
        bench.track_hold.set()
        until(lambda: bench.store.job(session).state is JobState.CANCELLED)
        bench.protocol.expire()
        assert len(bench.protocol.sessions) == 0
        assert bench.store.anchors(bench.store.job(session).track) == {}

    def test_before_anything_and_twice(self, editor):
        for _ in range(2):
            assert editor.value("release") == {"status": "released"}

    def test_one_session_of_several(self, editor):
        first, second = editor.track(point(50, 50)), editor.track(point(20, 50))
        editor.read_all(first)
        editor.send("release", session_id=first)
        assert editor.value("track_progress", session_id=first)["error"]
        assert len(editor.read_all(second)[0]) == FRAMES

    def test_everything_works_again_afterwards(self, editor):
        editor.read_all(editor.track(point(50, 50)))
        editor.send("release")
        frames, _ = editor.read_all(editor.track(point(50, 50)))
        assert len(frames) == FRAMES
        assert editor.send("predict", time_ms=0, result=[point(50, 50)])["result"]


class TestAbandoned:
    def test_a_track_nobody_asks_about_is_cancelled(self, editor, bench):
        bench.track_hold.clear()
        session = editor.track(point(50, 50))
        bench.now += 121
        bench.protocol.expire()
        bench.track_hold.set()
        until(lambda: bench.store.job(session).state is JobState.CANCELLED)
        assert len(bench.steps) <= 1

    def test_one_that_is_read_goes_on(self, editor, bench, monkeypatch):
        monkeypatch.setattr("backend.predict.events.sessions.WAIT_SECONDS", 0.05)
        bench.track_hold.clear()
        session = editor.track(point(50, 50))
        for _ in range(3):
            bench.now += 100
            editor.value("track_progress", session_id=session)
            bench.protocol.expire()
        bench.track_hold.set()
        assert len(editor.read_all(session)[0]) == FRAMES

    def test_masks_nobody_reads_are_forgotten(self, editor, bench):
        session = editor.track(point(50, 50))
        editor.read_all(session)
        track = bench.store.job(session).track
        bench.now += 1700
        bench.protocol.expire()
        assert len(bench.store.anchors(track)) == FRAMES
        bench.now += 200
        bench.protocol.expire()
        assert bench.store.anchors(track) == {}
        assert editor.value("track_progress", session_id=session)["error"] == "session not found"

    def test_sessions_are_bounded(self, editor, bench, monkeypatch):
        monkeypatch.setattr("backend.predict.events.sessions.MAX_SESSIONS", 3)
        for number in range(6):
            bench.now += 1
            editor.read_all(editor.track(point(50, number), max_frames=1))
        bench.protocol.expire()
        assert len(bench.protocol.sessions) == 3


class TestRestart:
    def test_the_cursor_means_the_same_frames(self, start, monkeypatch):
        first = start()
        put = first.store.put_masks

        def stop_after_nine(track, masks, **kwargs):
            put(track, masks, **kwargs)
            if masks[0].frame == 9:
                first.tracking.jobs._stopping = True
                reached.set()

        reached = threading.Event()
        first.store.put_masks = stop_after_nine
        editor = Editor(first)
        prompts = [box(10, 10, 20, 20, object_id="a"), box(50, 50, 20, 20, object_id="b")]
        session = editor.track(*prompts, direction="both", time_ms=102)
        assert reached.wait(PATIENCE)
        monkeypatch.setattr("backend.predict.events.sessions.WAIT_SECONDS", 0.3)
        before = editor.value("track_progress", session_id=session, cursor=0)["frames"]
        first.tracking.jobs.close()
        assert first.store.job(session).state is JobState.RUNNING

        second = start()
        editor.bench = second
        assert second.tracking.jobs.resume() == 1
        again = editor.value("track_progress", session_id=session, cursor=0)["frames"]
        assert numbers(again)[: len(before)] == numbers(before)
        monkeypatch.setattr("backend.predict.events.sessions.WAIT_SECONDS", PATIENCE)
        until(lambda: second.store.job(session).state is JobState.DONE)
        frames, cursor = [], 0
        while True:
            value = editor.value("track_progress", session_id=session, cursor=cursor)
            frames += value["frames"]
            cursor = value["cursor"]
            if value["done"]:
                break
        order = [*range(3, FRAMES), *range(2, -1, -1)]
        assert numbers(frames)[::2] == numbers(frames)[1::2] == order
        assert min(second.steps) == 0 and second.steps[0] >= 9  # nothing was tracked twice
        one = [left_of(f) for f in frames if f["object_id"] == "a"]
        assert one[: FRAMES - 3] == list(range(one[0], one[0] + FRAMES - 3))

    def test_a_track_that_had_ended_can_still_be_read(self, start):
        first = start()
        editor = Editor(first)
        session = editor.track(point(50, 50))
        frames, _ = editor.read_all(session)
        editor.bench = start()
        value = editor.value("track_progress", session_id=session, cursor=0)
        assert value["frames"] == frames
        editor.send("release")
        assert editor.value("track_progress", session_id=session)["error"]

    def test_cancel_and_release_reach_a_track_of_before(self, start):
        first = start()
        editor = Editor(first)
        first.track_hold.clear()
        session = editor.track(point(50, 50))
        first.tracking.jobs._stopping = True
        first.track_hold.set()
        first.tracking.jobs.close()
        second = start()
        second.track_hold.clear()
        second.tracking.jobs.resume()
        editor.bench = second
        editor.send("track_cancel", session_id=session)
        second.track_hold.set()
        until(lambda: second.store.job(session).state is JobState.CANCELLED)

    def test_nobody_comes_back(self, start):
        first = start()
        editor = Editor(first)
        first.track_hold.clear()
        session = editor.track(point(50, 50))
        first.tracking.jobs._stopping = True
        first.track_hold.set()
        first.tracking.jobs.close()
        second = start()
        second.track_hold.clear()
        second.tracking.jobs.resume()
        second.now += 121
        second.protocol.expire()
        second.track_hold.set()
        until(lambda: second.store.job(session).state is JobState.CANCELLED)
