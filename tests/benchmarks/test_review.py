"""The figures on frames to look at: what known marks must score."""

from __future__ import annotations

import numpy as np

from backend.tracking.store import Sighting
from benchmarks.quality.review import (
    Judged,
    Tracked,
    curve,
    cut_row,
    fitted,
    judge,
    row,
    share_reached,
)

NO_SIGNS = np.zeros((100, 12))


def test_shares_are_counted_over_all_masks() -> None:
    bad = np.zeros(100, bool)
    bad[10:20] = True
    bad[50:54] = True
    bad[80] = True  # alone: no stretch
    marked = np.zeros(100, bool)
    marked[15:25] = True
    found = row("clips", [Judged("cuts", bad, marked.astype(float), marked, NO_SIGNS)])
    assert found == ["clips", "100", "15.0%", "10.0%", "0.33", "0.50", "1 of 2"]


def test_the_curve_looks_at_the_heaviest_first() -> None:
    bad = np.zeros(100, bool)
    bad[:10] = True
    weights = np.where(bad, 5.0, np.linspace(0, 4, 100))
    right = curve("right", [Judged("cuts", bad, weights, bad, NO_SIGNS)])
    assert right[1:4] == ["0.50", "1.00", "1.00"]  # at 5, 10, 15 %
    reached = share_reached("share", [Judged("cuts", bad, weights, bad, NO_SIGNS)])
    assert reached[1:4] == ["100%", "100%", "100%"]
    wrong = curve("wrong", [Judged("cuts", bad, -weights, bad, NO_SIGNS)])
    assert wrong[-1] == "0.00"


def test_a_clip_is_judged_by_what_is_stored_of_it() -> None:
    def sighting(frame: int, area: int) -> Sighting:
        box, centre = ((100, 100, 110, 110), (104.5, 104.5)) if area else (None, None)
        return Sighting("a", frame, "", 240, 320, area, box, centre, 0.9, 5.0, frame == 0, 1)

    found = [sighting(0, 100), sighting(1, 0), sighting(2, 0), sighting(3, 100)]
    seen = [True, False, False, True]
    bad = [False, True, True, False]
    [judged] = judge(Tracked("leaving", "tuning", found, {"a": bad}, {"a": seen}))
    assert judged.marked.tolist() == [False, True, True, True]
    assert judged.weights.argmax() in (1, 2)
    lost, lost_before = judged.signs[:, 4], judged.signs[:, 10]
    assert (lost.tolist(), lost_before.tolist()) == ([0, 1, 1, 0], [0, 1, 1, 1])


def test_a_fit_to_the_answers_finds_what_a_sign_tells() -> None:
    rng = np.random.default_rng(0)
    signs = rng.normal(size=(100, 12))
    bad = signs[:, 3] > 1
    unknown = Judged("cuts", bad, np.linspace(0, 1, 100), bad, signs)
    [found] = fitted([unknown])
    at_a_fifth = 4
    assert float(curve("", [unknown])[at_a_fifth]) < 0.5
    assert curve("", [found])[at_a_fifth] == "1.00"
    parts = [Judged("cuts", bad[:30], bad[:30], bad[:30], signs[:30])]
    parts.append(Judged("cuts", bad[30:], bad[30:], bad[30:], signs[30:]))
    np.testing.assert_allclose(
        np.concatenate([each.weights for each in fitted(parts)]), found.weights
    )


def test_masks_in_other_scenes_are_counted_by_whether_the_object_is_there() -> None:
    def sighting(frame: int, area: int, presence: float) -> Sighting:
        known = "a", frame, "", 240, 320, area, None, None, 0.9, presence, False, 1
        return Sighting(*known, elsewhere=frame > 0)

    found = [sighting(frame, area, 5.0) for frame, area in enumerate((9, 9, 0, 9, 9, 0))]
    found.append(sighting(6, 0, -5.0))  # the model says that it is not there
    seen = [True, False, False, True, True, True, True]
    bad = [False, True, False, False, True, True, True]
    tracked = Tracked("cuts", "tuning", found, {"a": bad}, {"a": seen})
    assert cut_row("cuts", [tracked]) == ["cuts", "2", "3", "1", "2", "1"]
