"""What the text box says about a track."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from backend.engine.packed_masks import PackedMask
from backend.job_state import JobState
from backend.tracking.review import _meetings, _weigh, doubts, progress, ranges, stretches
from backend.tracking.runner import MEASURED_FRAMES, Pace
from backend.tracking.sequence_commands import MANY_MASKS, _warn_of_brushes
from backend.tracking.store import Job, TrackedMask


def job(state, done=0, total=0, message=""):
    return Job("j", "t", "d", {}, state, done, total, message, False, time.time() - 10, 0.0)


def found(frame, *, area=100, at=10, iou=0.9, presence=5.0, shape=(60, 80)):
    mask = np.zeros(shape, bool)
    side = int(area**0.5)
    mask[at : at + side, at : at + side] = True
    return TrackedMask("a", frame, "", PackedMask.pack(mask), iou, presence)


@pytest.mark.parametrize(
    ("frames", "text"),
    [([], ""), ([3], "3"), ([0, 1, 2, 5, 7, 8], "0-2, 5, 7-8"), (range(0, 60, 2), "0, 2, 4")],
)
def test_ranges(frames, text):
    assert ranges(frames).startswith(text)
    assert ranges(frames).endswith("...") == (len(frames) > 24)


def test_progress_tells_what_is_done_and_how_long_the_rest_takes():
    text = progress(job(JobState.RUNNING, done=42, total=84), range(42), 300, 10.2)
    assert text == "frames 0-41 of 300 done, 10 s left; type status to see more"
    text = progress(job(JobState.RUNNING, done=42, total=84), range(42), 300, None)
    assert text == "frames 0-41 of 300 done; type status to see more"


def test_what_is_left_follows_from_the_last_frames_only():
    pace = Pace()
    assert pace.seconds_left(100) is None
    pace.mark(0.0, 40)  # 40 masks of an earlier run
    assert pace.seconds_left(100) is None
    for second in range(1, 11):  # slow at first: another track ran too
        pace.mark(10.0 * second, 40 + second)
    for second in range(MEASURED_FRAMES + 1):
        pace.mark(100.0 + second, 50 + 2 * second)
    done = 50 + 2 * MEASURED_FRAMES
    assert pace.seconds_left(done + 20) == pytest.approx(10.0)


@pytest.mark.parametrize(
    ("state", "part"),
    [
        (JobState.DONE, "frames 0-1 of 9 done"),
        (JobState.CANCELLED, "stopped; frames 0-1"),
        (JobState.QUEUED, "waiting for other tracks"),
        (JobState.FAILED, "the disk is full; frames 0-1"),
    ],
)
def test_every_state_has_words(state, part):
    assert part in progress(job(state, message="the disk is full"), [0, 1], 9, 3.0)


@pytest.mark.parametrize(("shape", "warned"), [((720, 1280), True), ((240, 320), False)])
def test_many_large_brush_masks_are_warned_of(shape, warned):
    """Label Studio's editor encodes every brush region anew at each request and submit."""
    masks = [found(frame, shape=shape) for frame in range(MANY_MASKS + 1)]
    regions = [{"type": "brushlabels"}] * len(masks)
    assert ("BitmaskLabels" in _warn_of_brushes(masks, regions)) is warned
    assert "BitmaskLabels" not in _warn_of_brushes(masks, regions[:5])


def tracked(name, frames, *, start=0, **kwargs):
    """An object on frames that follow one another, marked by a box on the first."""
    found_on = {frame: found(frame, **kwargs) for frame in range(start, start + frames)}
    first = replace(found_on[start], prompted=True)
    return [replace(each, object_id=name) for each in (first, *list(found_on.values())[1:])]


class TestDoubts:
    def reasons(self, *masks):
        return [(doubt.frame, doubt.reason) for doubt in doubts(masks)]

    def test_a_steady_track_needs_no_look(self):
        assert self.reasons(*(found(frame, at=10 + frame) for frame in range(9))) == []

    def test_what_is_lost_is_so_until_it_is_found(self):
        track = [found(0), found(1, area=0), found(2, area=0), found(3)]
        assert self.reasons(*track) == [(1, "lost"), (2, "lost"), (3, "found again")]

    def test_what_was_at_the_edge_has_left(self):
        track = [found(0, at=0), found(1, area=0), found(2, area=0), found(3, at=0)]
        assert self.reasons(*track) == [(3, "found again")]

    def test_a_mask_that_the_model_does_not_trust(self):
        assert self.reasons(found(0), found(1, iou=0.3), found(2)) == [(1, "unsure")]
        assert self.reasons(found(0), found(1, presence=-1.0), found(2)) == [(1, "unsure")]

    def test_a_jump_to_another_size_is_doubted_until_the_next_mark(self):
        jump = [found(0), found(1), *(found(frame, at=30, area=400) for frame in (2, 3))]
        assert self.reasons(*jump) == [(2, "changed size"), (3, "changed size")]
        marked = [replace(each, anchor="b") for each in tracked("a", 3, start=4, area=400)]
        assert self.reasons(*jump, *marked) == [(2, "changed size"), (3, "changed size")]

    def test_one_sign_alone_is_not_enough(self):
        assert self.reasons(found(0), found(1, at=40), found(2, at=40)) == []
        assert self.reasons(*(found(n, area=(10 + n) ** 2) for n in range(20))) == []
        assert self.reasons(found(0), found(1, iou=0.6)) == []

    def test_objects_that_met_may_have_been_taken_for_one_another(self):
        one = [found(0), found(1, at=14), found(2, at=40)]
        other = [replace(each, object_id="b") for each in tracked("b", 3, at=16, area=225)]
        assert _weight(one, [], 2) < _weight(one, other, 2)

    def test_behind_a_cut_masks_are_doubted_and_what_comes_back_is_not(self):
        away = [found(2, area=0), found(3, area=0), found(4, at=40, iou=0.99), found(5, area=0)]
        track = [found(0), found(1), *(replace(each, elsewhere=True) for each in away), found(6)]
        cut = [(2, "scene changed"), (4, "scene changed")]  # the first, and what is kept
        assert self.reasons(*track) == cut
        assert self.reasons(*track, found(7, iou=0.3)) == [*cut, (7, "unsure")]

    def test_before_the_mark_the_track_goes_backwards(self):
        marked = replace(found(5), prompted=True)
        before = [found(frame, area=0) if frame < 3 else found(frame) for frame in range(5)]
        assert self.reasons(*before, marked) == [(0, "lost"), (1, "lost"), (2, "lost")]


def _weight(one, other, frame):
    met = _meetings([*one, *other])
    return next(each.weight for each in _weigh(one, met) if each.frame == frame)


def test_stretches_join_what_is_near():
    masks = [found(0), *(found(n, area=0) for n in (1, 2)), found(3), found(4, area=0)]
    masks += [found(n) for n in range(5, 20)] + [found(20, area=0)]
    [first, second] = stretches(doubts(masks))
    assert (first.first, first.last, first.worst, first.reason) == (1, 5, 1, "lost")
    assert (second.first, second.last) == (20, 20)
