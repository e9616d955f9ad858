"""The composed clips are the same every time: whole where they are marked, hidden in between."""

import numpy as np
import pytest

from benchmarks.support.composed_clips import (
    FAMILIES,
    HELD_OUT,
    TUNING,
    clips,
    compose,
    families_of,
    is_bad,
)


def test_a_clip_is_the_same_every_time() -> None:
    first, again = compose("crossing", TUNING, 3), compose("crossing", TUNING, 3)
    assert all(map(np.array_equal, first.frames, again.frames))
    assert all(map(np.array_equal, first.masks.values(), again.masks.values()))


def test_objects_are_whole_where_they_are_marked_and_hidden_later() -> None:
    drawn = {clip.family: clip for clip in clips(HELD_OUT, 1)}
    assert set(drawn) == set(FAMILIES)
    for clip in drawn.values():
        assert 60 <= len(clip.frames) <= 240
        assert len(clip.masks) >= 2
        for name, masks in clip.masks.items():
            border = masks[0].copy()
            border[1:-1, 1:-1] = False
            assert clip.present(name)[0]
            assert not border.any()
    for family, name in (("occlusion", "hides"), ("leaving", "leaves"), ("cuts", "left")):
        clip = drawn[family]
        present = clip.present(name)
        assert present[-1]
        assert 5 <= np.count_nonzero(~present) <= len(present) // 2
    hidden = "".join("." if seen else "x" for seen in drawn["occlusion"].present("hides"))
    assert all(5 <= len(run) <= 21 for run in hidden.split(".") if run)


def test_twins_overlap_somewhere() -> None:
    clip = compose("crossing", TUNING, 3)
    seen = np.sum([np.count_nonzero(masks, axis=(1, 2)) for masks in clip.masks.values()], axis=0)
    assert seen.min() < 0.8 * seen[0]


def test_the_crowd_is_held_out() -> None:
    assert families_of("crowd") == (HELD_OUT,)
    with pytest.raises(ValueError, match="no clips 'crowd' for 'tuning'"):
        compose("crowd", TUNING, 0)


def test_what_a_bad_mask_is() -> None:
    truth, found = np.zeros((100, 100), bool), np.zeros((100, 100), bool)
    truth[:10, :10] = True
    found[:10, :5] = True
    assert not is_bad(found, truth)  # IoU 0.5
    found[0, 4] = False
    assert is_bad(found, truth)
    absent = np.zeros_like(truth)
    assert is_bad(found, absent)
    assert not is_bad(absent, absent)
    absent[0, :5] = True  # a sliver: whether it is found does not matter
    assert not is_bad(np.zeros_like(absent), absent)
    assert is_bad(found, absent)
